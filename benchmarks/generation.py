"""xAR: sampling against the released loop, and a training step against one behind clean context.

The released loop: guided from the first entity on, caches that grow by concatenation in every call, modulations copied to every token, an
additive mask in every call. Images of both loops are compared first. E = 4 cells of 8 × 8, 25 steps of the ODE, guidance 2.7.
"""

from collections.abc import Iterator
from functools import partial

import torch
from _measure import Step, interleaved, peak_memory
from _report import Result, result, run, speedup
from torch import Tensor
from torch.nn.functional import gelu, scaled_dot_product_attention

from tokenry.generation import (
    NextXConfig,
    NextXModel,
    NextXSamplingConfig,
    euler,
    even_times,
    generate_next_x,
    guidance_schedule,
    guide,
    modulate,
    rms_norm,
)
from tokenry.generation.xar.next_x import EntityLayout, NextXBlock, _rotated

GUIDANCE = 2.7
Caches = list[tuple[Tensor, Tensor] | None]


def measure(smoke: bool) -> Iterator[Result]:
    """The ratios in CPU time of one thread, and in memory."""
    shape = (24, 2, 1) if smoke else (192, 6, 4)
    steps, images, rounds = (2, 1, 1) if smoke else (25, 2, 3)
    settings = {"threads": 1, "rounds": rounds, "width": shape[0], "blocks": shape[1], "tokens": 256}

    model, (labels, noise) = small_model(*shape), given(images)
    torch.testing.assert_close(
        ours(model, labels, noise, steps), released(model, labels, noise, steps), atol=1e-3, rtol=1e-3
    )
    seconds = interleaved(
        {
            "tokenry": lambda: ours(model, labels, noise, steps),
            "released": lambda: released(model, labels, noise, steps),
        },
        rounds,
        threads=1,
    )
    settings_sampling = {**settings, "images": images, "flow_steps": steps, "guidance": GUIDANCE}
    yield speedup(
        "xAR sampling: released loop / tokenry",
        seconds["released"].cpu / seconds["tokenry"].cpu,
        1.4,
        **settings_sampling,
        cpu_seconds={name: round(found.cpu, 2) for name, found in seconds.items()},
    )
    memory = peak_memory(
        {name: partial(sampling, name, shape, 8 * images) for name in ("tokenry", "released")}
    )
    yield result(
        "memory of xAR sampling: tokenry / released loop",
        max(memory["tokenry"], 0.1) / max(memory["released"], 0.1),
        0.6,
        **{**settings_sampling, "images": 8 * images, "flow_steps": 1},
        megabytes={name: round(found, 1) for name, found in memory.items()},
    )
    latents, classes = torch.randn(4 * images, 16, 16, 16), torch.zeros(4 * images, dtype=torch.long)
    models = {name: small_model(*shape, clean_context=name == "clean").train() for name in ("noisy", "clean")}
    seconds = interleaved(
        {name: partial(training_step, trained, latents, classes) for name, trained in models.items()},
        rounds,
        threads=1,
    )
    yield speedup(
        "xAR training step: clean context in 2 N tokens / all entities in one pass",
        seconds["clean"].cpu / seconds["noisy"].cpu,
        1.5,
        **settings,
        images=4 * images,
        cpu_seconds={name: round(found.cpu, 2) for name, found in seconds.items()},
    )


def small_model(width: int, blocks: int, heads: int, clean_context: bool = False) -> NextXModel:
    """16 × 16 latents of 16 channels in 4 cells; blocks that do something."""
    torch.manual_seed(0)
    config = NextXConfig(
        hidden_size=width,
        num_encoder_layers=blocks // 2,
        num_decoder_layers=blocks // 2,
        num_attention_heads=heads,
        dropout=0.0,
        clean_context=clean_context,
    )
    model = NextXModel(config).eval()
    for layer in model.layers:
        torch.nn.init.normal_(layer.modulation.linear.weight, std=0.02)
    return model


def given(images: int) -> tuple[Tensor, Tensor]:
    """Classes, and the noise that each entity begins as: (entities, images, tokens, channels)."""
    return torch.arange(images), torch.randn(4, images, 64, 16, generator=torch.Generator().manual_seed(0))


def ours(model: NextXModel, labels: Tensor, noise: Tensor, steps: int) -> Tensor:
    config = NextXSamplingConfig(steps, "ode", GUIDANCE)
    return generate_next_x(
        model,
        labels,
        config,
        noise=lambda entity, draws: noise[entity][:, None].expand(-1, draws, -1, -1),
    )


@torch.no_grad()
def released(model: NextXModel, labels: Tensor, noise: Tensor, steps: int) -> Tensor:
    """The loop of the released code, with the same weights."""
    (partition,), weights = model.partitions, guidance_schedule(GUIDANCE, 4)
    both = torch.cat([labels, torch.full_like(labels, model.config.classes)])
    size = partition.sizes[0]
    finished = torch.empty(len(labels), 0, 16, dtype=torch.float64)
    caches: Caches = [None] * len(model.layers)
    for entity in range(partition.entities):
        first = True

        def velocity(x: Tensor, t: float, entity: int = entity, finished: Tensor = finished) -> Tensor:
            nonlocal first
            before = [entity - 1] if first and entity else []
            tokens = torch.cat([finished[:, -size:], x], dim=1) if before else x
            layout = model.layout(partition, [*before, entity])
            times = torch.tensor([1.0] * len(before) + [t], dtype=torch.float64).expand(len(both), -1)
            found = released_velocity(
                model, tokens.float().repeat(2, 1, 1), times, both, layout, caches, size * len(before)
            )
            first = False
            conditional, unconditional = found[:, -size:].double().chunk(2)
            return guide(conditional, unconditional, weights[entity])

        made = euler(velocity, noise[entity].double(), even_times(steps))
        finished = torch.cat([finished, made], dim=1)
    return partition.merge(finished).float()


def released_velocity(
    model: NextXModel,
    tokens: Tensor,
    times: Tensor,
    labels: Tensor,
    layout: EntityLayout,
    caches: Caches,
    kept: int,
) -> Tensor:
    condition = model.time_embedding((1 - times.double()).float()) + model.class_embedding(labels)[:, None]
    x = rms_norm(model.input(tokens) + model.encoder_positions[layout.rows], model.input_norm)
    for number, block in enumerate(model.layers):
        if number == model.config.num_encoder_layers:
            x = model.decoder_input(rms_norm(x, model.encoder_norm)) + model.decoder_positions[layout.rows]
        x = released_block(block, x, condition, layout, caches, number, kept)
    return -model.head(rms_norm(x, model.decoder_norm))


def released_block(
    block: NextXBlock,
    x: Tensor,
    condition: Tensor,
    layout: EntityLayout,
    caches: Caches,
    number: int,
    kept: int,
) -> Tensor:
    batch, tokens, width = x.shape
    rows = torch.stack([*block.modulation(condition).values()], dim=2)
    rows = rows[:, :, None].repeat(1, 1, layout.sizes[0], 1, 1).reshape(batch, tokens, 6, width)
    gate1, gate2, scale1, scale2, shift1, shift2 = rows.unbind(2)
    inside = modulate(rms_norm(x), shift1, scale1)
    query, key, value = block.qkv(inside).unflatten(2, (3, block.heads, -1)).permute(2, 0, 3, 1, 4)
    query, key = _rotated(query, layout.rotation), _rotated(key, layout.rotation)
    cache = caches[number]
    before = 0 if cache is None else cache[0].shape[2]
    if cache is not None:
        key, value = torch.cat([cache[0], key], dim=2), torch.cat([cache[1], value], dim=2)
    if kept:
        caches[number] = key[:, :, : before + kept].clone(), value[:, :, : before + kept].clone()
    mask = torch.zeros(tokens, before + tokens)
    mask[:kept, before + kept :] = -torch.inf
    found = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    x = x + gate1 * block.projection(found.transpose(1, 2).flatten(2))
    inside = modulate(rms_norm(x), shift2, scale2)
    return x + gate2 * block.down(gelu(block.gate(inside)) * block.up(inside))


def sampling(name: str, shape: tuple[int, int, int], images: int) -> Step:
    """One image of each class in one flow step, for the memory."""
    model, (labels, noise) = small_model(*shape), given(images)
    loop = ours if name == "tokenry" else released
    loop(model, labels[:1], noise[:, :1], 1)
    return lambda: (loop(model, labels, noise, 1), None)[1]


def training_step(model: NextXModel, latents: Tensor, labels: Tensor) -> None:
    model(latents, labels).loss.backward()
    model.zero_grad()


if __name__ == "__main__":
    run(measure, str(__doc__))
