"""Throughput of an image encoder that carries fewer tokens, against the same model unpatched, and what it costs to make them fewer.

ViT-S/16 (22 M parameters, random weights) on images of 224 pixels: 197 tokens, batches of 8, sdpa attention, no gradients. All variants
take turns in one run on the same weights; a step patches the model, runs it and undoes the patch. Speed-ups are medians over the rounds
of CPU time, unpatched / patched. Blocks are the twelve layers; matching and merging is the part of their time inside the reduction.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from _measure import Seconds, Step, by_turns
from _report import Result, dtype_name, note, result, run, speedup
from torch import Tensor
from transformers import PreTrainedModel, ViTConfig, ViTModel

from tokenry.compression.apply import apply_token_reduction
from tokenry.compression.reducer import Attention, LayerReducer, TokenReducer, Tokens
from tokenry.compression.vision.pitome import PiToMe
from tokenry.compression.vision.tome import ToMe
from tokenry.core.tensors.patching import Encoder, find_encoder

VIT_S = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
# Wanted of a reduction that saves this share of the layers' multiply-adds at least.
SPEEDUPS = {0.41: 1.55, 0.35: 1.42}
SHARE = 0.04
DENSE = "unpatched"
# PiToMe keeps a share: these come closest to the multiply-adds of ToMe with r = 13 and 11.
METHODS: dict[str, tuple[TokenReducer, bool]] = {
    "ToMe r=13": (ToMe(13), True),
    "ToMe r=13, no sizes in attention": (ToMe(13), False),
    "ToMe r=11": (ToMe(11), True),
    "ToMe r=11, no sizes in attention": (ToMe(11), False),
    "PiToMe ratio=0.9075": (PiToMe(0.9075), True),
    "PiToMe ratio=0.925": (PiToMe(0.925), True),
}
SHORT = ("ToMe r=13", "ToMe r=11")


def measure(smoke: bool) -> Iterator[Result]:
    """Each method with one thread, ToMe with two and in half precision, then the share of matching and merging."""
    model, images = vit_and_images(smoke)
    rounds = 1 if smoke else 9
    yield from speedups(model, images, METHODS, rounds, threads=1)
    tome = {name: METHODS[name] for name in SHORT}
    yield from speedups(model, images, tome, rounds, threads=2)
    yield from shares(model, images, {name: each for name, each in METHODS.items() if each[1]}, rounds)
    yield from speedups(model.bfloat16(), images.bfloat16(), tome, rounds, threads=1)


def vit_and_images(smoke: bool) -> tuple[PreTrainedModel, Tensor]:
    """The encoder and one batch."""
    torch.manual_seed(0)
    size, batch = (64, 2) if smoke else (224, 8)
    config = ViTConfig(**(TINY if smoke else VIT_S), image_size=size, patch_size=16)
    return ViTModel(config, add_pooling_layer=False).eval(), torch.randn(batch, 3, size, size)


def speedups(
    model: PreTrainedModel,
    images: Tensor,
    methods: dict[str, tuple[TokenReducer, bool]],
    rounds: int,
    threads: int,
) -> Iterator[Result]:
    """One line per method."""
    steps = {DENSE: forward(model, images)} | {
        name: patched(model, images, reducer, sizes) for name, (reducer, sizes) in methods.items()
    }
    dtype = dtype_name(images.dtype)
    note(f"{dtype}, {threads} thread(s)")
    taken = by_turns(steps, rounds, threads)
    for name, (reducer, _) in methods.items():
        saved, counts = saved_share(model, images, reducer)
        yield speedup(
            f"throughput, {name}, {dtype}, {threads} thread{'s' if threads > 1 else ''}: patched / unpatched",
            median_ratio(taken[DENSE], taken[name], "cpu"),
            SPEEDUPS[min(SPEEDUPS, key=lambda share: abs(share - saved))],
            **settings(model, images),
            threads=threads,
            rounds=rounds,
            saved_multiply_adds=round(saved, 3),
            tokens_after_each_layer=counts,
            cpu_seconds={each: round(median(one.cpu for one in taken[each]), 3) for each in (DENSE, name)},
            wall_seconds={each: round(median(one.wall for one in taken[each]), 3) for each in (DENSE, name)},
            wall_ratio=round(median_ratio(taken[DENSE], taken[name], "wall"), 3),
        )


def median_ratio(theirs: Sequence[Seconds], ours: Sequence[Seconds], clock: str) -> float:
    """Theirs / ours in the middle one of the rounds: what slows a round down slows both."""
    return median(
        getattr(their, clock) / getattr(our, clock) for their, our in zip(theirs, ours, strict=True)
    )


def shares(
    model: PreTrainedModel, images: Tensor, methods: dict[str, tuple[TokenReducer, bool]], rounds: int
) -> Iterator[Result]:
    """One line per method: the time inside the reduction by the time inside the layers."""
    clocks = {name: Timed(reducer, sizes) for name, (reducer, sizes) in methods.items()}
    steps = {name: timed(model, images, clock) for name, clock in clocks.items()}
    note("matching and merging")
    by_turns(steps, rounds, threads=1)
    for name, clock in clocks.items():
        yield result(
            f"matching + merging / all of the layers, {name}",
            median(reduction / layers for reduction, layers in clock.rounds),
            SHARE,
            **settings(model, images),
            threads=1,
            rounds=rounds,
            cpu_milliseconds_per_layer={
                "matching and merging": round(per_layer(model, [one for one, _ in clock.rounds]), 3),
                "layer": round(per_layer(model, [one for _, one in clock.rounds]), 3),
            },
        )


def per_layer(model: PreTrainedModel, seconds: Sequence[float]) -> float:
    """Milliseconds."""
    return 1000 * median(seconds) / model.config.num_hidden_layers


def settings(model: PreTrainedModel, images: Tensor) -> dict[str, str]:
    """What all figures depend on."""
    config = model.config
    return {
        "model": f"ViT, {config.num_hidden_layers} layers, width {config.hidden_size}, random weights",
        "batch": f"{images.shape[0]} x {images.shape[-1]} px",
        "dtype": dtype_name(images.dtype),
        "attention": config._attn_implementation,
    }


def saved_share(model: PreTrainedModel, images: Tensor, reducer: TokenReducer) -> tuple[float, list[int]]:
    """Share of the layers' multiply-adds that is saved, and the tokens left after each layer."""
    with apply_token_reduction(model, reducer) as reduction, torch.no_grad():
        model(images[:1])
        return 1 - reduction.flops / reduction.dense_flops, list(reduction.token_counts[1:])


def forward(model: PreTrainedModel, images: Tensor) -> Step:
    """The model as it is."""

    @torch.no_grad()
    def step() -> None:
        model(images)

    return step


def patched(model: PreTrainedModel, images: Tensor, reducer: TokenReducer, sizes: bool) -> Step:
    """The model while it is patched."""
    run_once = forward(model, images)

    def step() -> None:
        with apply_token_reduction(model, reducer, proportional_attention=sizes):
            run_once()

    return step


@dataclass
class Timed:
    """A reducer that notes how long its layers take to reduce, round by round, beside how long the layers take."""

    reducer: TokenReducer
    proportional_attention: bool
    rounds: list[tuple[float, float]] = field(default_factory=list)
    seconds: float = 0.0

    def layer_reducers(self, encoder: Encoder) -> list[LayerReducer | None]:
        """Those of the reducer, each with the clock around it."""
        return [layer and _TimedLayer(layer, self) for layer in self.reducer.layer_reducers(encoder)]


class _TimedLayer(LayerReducer):
    def __init__(self, inner: LayerReducer, clock: Timed) -> None:
        self.after = inner.after
        self._inner, self._clock = inner, clock

    def reduce(self, hidden_states: Tensor, tokens: Tokens, attention: Attention) -> tuple[Tensor, Tokens]:
        before = time.process_time()
        reduced = self._inner.reduce(hidden_states, tokens, attention)
        self._clock.seconds += time.process_time() - before
        return reduced


def timed(model: PreTrainedModel, images: Tensor, clock: Timed) -> Step:
    """The patched model with a clock around its layers as well."""
    run_once = forward(model, images)
    layers = find_encoder(model).layers

    def step() -> None:
        started: list[float] = []
        stopped: list[float] = []
        hooks = [layer.register_forward_pre_hook(noting(started)) for layer in layers]
        hooks += [layer.register_forward_hook(noting(stopped)) for layer in layers]
        clock.seconds = 0.0
        with apply_token_reduction(model, clock):
            run_once()
        for hook in hooks:
            hook.remove()
        clock.rounds.append((clock.seconds, sum(stopped) - sum(started)))

    return step


def noting(times: list[float]) -> Callable[..., None]:
    """A hook that notes the time."""

    def hook(*_: object) -> None:
        times.append(time.process_time())

    return hook


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
