"""A training step of ssToken on a Llama of one billion parameters, 2 × 2,048 tokens in bfloat16: time and memory beside TRL and others."""

from collections.abc import Iterator

import torch
from _gpu import LLAMA_1B, by_turns, milliseconds, peak_gigabytes, run
from _report import Result, result
from _steps import OURS, PEER_TARGETS, TINY, VARIANTS, Problem, Shape


def measure(device: torch.device, smoke: bool) -> Iterator[Result]:
    """Forward and backward of the same batch; no optimiser."""
    shape = (
        Shape(seq=32, model=TINY)
        if smoke
        else Shape(seq=2048, model=tuple(LLAMA_1B.items()), dtype=torch.bfloat16, device=device.type)
    )
    problem = Problem.of(shape)
    steps = {
        name: VARIANTS[name](problem)
        for name in (OURS, *PEER_TARGETS)
        if name in VARIANTS and runs(name, device)
    }
    settings = {"model": "Llama, 1B", "batch": f"{shape.batch} x {shape.seq}", "dtype": str(shape.dtype)}
    seconds = by_turns(steps, device, rounds=1 if smoke else 10)
    for peer, (target, _) in PEER_TARGETS.items():
        if peer in seconds:
            yield result(
                f"step time: {OURS} / {peer}",
                seconds[OURS] / seconds[peer],
                target,
                **settings,
                milliseconds=milliseconds(seconds),
            )
    peaks = peak_gigabytes(steps, device)
    for peer, (_, target) in PEER_TARGETS.items():
        if peer in peaks:
            yield result(
                f"peak memory above the model: {OURS} / {peer}",
                peaks[OURS] / peaks[peer],
                target,
                **settings,
                gigabytes=peaks,
            )


def runs(name: str, device: torch.device) -> bool:
    """Liger's kernels are Triton's: they need the card."""
    return device.type == "cuda" or "Liger" not in name


if __name__ == "__main__":
    run(measure, __file__, gigabytes=60, seconds=90)
