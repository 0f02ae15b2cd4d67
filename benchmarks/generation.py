"""xAR: sampling against the released loop, and a training step against one behind clean context.

The released loop: guided from the first entity on, caches that are concatenated in every call, modulations copied to every token, an additive
mask in the first call of an entity. Images of both loops are compared first. E = 4 cells of 8 × 8, 25 steps of the ODE, guidance 2.7.
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
)
from tokenry.generation.xar.next_x import EntityLayout, NextXBlock

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
    additive = torch.zeros(256, 256).masked_fill(~partition.attention_mask(), -torch.inf)
    for entity in range(partition.entities):
        first = True

        def velocity(x: Tensor, t: float, entity: int = entity, finished: Tensor = finished) -> Tensor:
            nonlocal first
            before = [entity - 1] if first and entity else []
            tokens = torch.cat([finished[:, -size:], x], dim=1) if before else x
            layout, end = model.layout(partition, [*before, entity]), size * (entity + 1)
            times = torch.tensor([1.0] * len(before) + [t], dtype=torch.float64).expand(len(both), -1)
            mask = additive[end - tokens.shape[1] : end, :end] if first else None
            found = released_velocity(
                model, tokens.float().repeat(2, 1, 1), times, both, layout, caches, mask
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
    mask: Tensor | None,
) -> Tensor:
    condition = model.time_embedding((1 - times.double()).float()) + model.class_embedding(labels)[:, None]
    x = released_norm(model.input(tokens) + model.encoder_positions[layout.rows]) * model.input_norm
    rotation = layout.rotation.repeat_interleave(2, dim=1)
    for number, block in enumerate(model.layers):
        if number == model.config.num_encoder_layers:
            x = (
                model.decoder_input(released_norm(x) * model.encoder_norm)
                + model.decoder_positions[layout.rows]
            )
        x = released_block(block, x, condition, layout.sizes[0], rotation, caches, number, mask)
    return -model.head(released_norm(x) * model.decoder_norm)


def released_norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def released_block(
    block: NextXBlock,
    x: Tensor,
    condition: Tensor,
    size: int,
    rotation: Tensor,
    caches: Caches,
    number: int,
    mask: Tensor | None,
) -> Tensor:
    batch, tokens, width = x.shape
    rows = torch.stack([*block.modulation(condition).values()], dim=2)
    rows = torch.cat([row[:, None].repeat(1, size, 1, 1) for row in rows.unbind(1)], dim=1)
    gate1, gate2, scale1, scale2, shift1, shift2 = rows.unbind(2)
    inside = released_norm(x).mul(scale1.add(1)).add_(shift1)
    query, key, value = block.qkv(inside).reshape(batch, tokens, 3, block.heads, -1).permute(2, 0, 3, 1, 4)
    query, key = released_rotation(query, rotation), released_rotation(key, rotation)
    cache = caches[number]
    if cache is not None:
        key, value = torch.cat([cache[0], key], dim=2), torch.cat([cache[1], value], dim=2)
    if mask is not None:
        caches[number] = key[:, :, :-size], value[:, :, :-size]
    found = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    x = x + block.projection(found.transpose(1, 2).reshape(batch, tokens, width)).mul_(gate1)
    inside = released_norm(x).mul(scale2.add(1)).add_(shift2)
    return x + block.down(gelu(block.gate(inside)) * block.up(inside)).mul_(gate2)


def released_rotation(x: Tensor, rotation: Tensor) -> Tensor:
    one, other = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * rotation.real + torch.stack([-other, one], dim=-1).flatten(-2) * rotation.imag


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
