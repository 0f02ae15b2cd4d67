"""A training step of ssToken beside other ways to train: time (one and two threads) and memory, in float32 and bfloat16.

SmolLM2-135M-Instruct, 2 x 512 tokens, half of them prompt, 10 % padding in the second row; forward and backward, all parameters,
no optimizer. Steps are timed by turns in one process; memory is that of one step in a process of its own.
Before anything is timed, variants that must learn the same are checked to have the same gradients.
"""

from collections.abc import Iterator
from functools import partial

import torch
from _measure import Seconds, Step, interleaved, peak_memory
from _report import Result, dtype_name, note, result, run
from _steps import (
    LEARNING_ALL,
    OURS,
    PEER_TARGETS,
    SELECTING,
    TINY,
    VARIANTS,
    Problem,
    Shape,
    gradient_norm,
    model_name,
    prepare,
)

from tokenry.models.loading import preferred_dtype

TARGETS = {**PEER_TARGETS, "tokenry all tokens": (1.06, 1.06)}


def measure(smoke: bool) -> Iterator[Result]:
    """Every pair of dtype and number of threads, then memory."""
    dtypes = (
        [torch.float32] if smoke or preferred_dtype() == torch.float32 else [torch.float32, torch.bfloat16]
    )
    targets = {peer: target for peer, target in TARGETS.items() if peer in VARIANTS}
    for peer in TARGETS.keys() - targets.keys():
        note(f"{peer} is left out: it is not installed (pip install 'tokenry[bench]')")
    for dtype in dtypes:
        shape = Shape(seq=32, model=TINY, dtype=dtype) if smoke else Shape(dtype=dtype)
        peaks = peak_memory({name: partial(prepare, name, shape) for name in VARIANTS})
        problem = Problem.of(shape)
        steps = {name: make(problem) for name, make in VARIANTS.items()}
        norms = gradient_norms(steps, problem)
        check_gradients(norms, dtype)
        settings = {
            "model": model_name(shape),
            "batch": f"{shape.batch} x {shape.seq}",
            "prompt_share": shape.prompt_share,
            "padding_of_last_row": shape.padded_share,
            "dtype": dtype_name(dtype),
            "gradient_norms": norms,
        }
        for threads in (1, 2):
            rounds = 1 if smoke else 5
            seconds = interleaved(steps, rounds, threads)
            for peer, (target, _) in targets.items():
                yield time_result(seconds, peer, target, threads, {**settings, "rounds": rounds})
        for peer, (_, target) in targets.items():
            megabytes = {OURS: round(peaks[OURS]), peer: round(peaks[peer])}
            name = f"peak memory above the model, {settings['dtype']}: {OURS} / {peer}"
            yield result(name, peaks[OURS] / peaks[peer], target, **settings, megabytes=megabytes)


def time_result(
    seconds: dict[str, Seconds], peer: str, target: float, threads: int, settings: dict
) -> Result:
    """Compare CPU seconds; wall seconds, which suffer from other programs, stand beside them."""
    ours, theirs = seconds[OURS], seconds[peer]
    return result(
        f"step time, {settings['dtype']}, {threads} thread{'s' * (threads > 1)}: {OURS} / {peer}",
        ours.cpu / theirs.cpu,
        target,
        **settings,
        threads=threads,
        cpu_seconds={OURS: round(ours.cpu, 3), peer: round(theirs.cpu, 3)},
        wall_seconds={OURS: round(ours.wall, 3), peer: round(theirs.wall, 3)},
        wall_ratio=round(ours.wall / theirs.wall, 3),
    )


def gradient_norms(steps: dict[str, Step], problem: Problem) -> dict[str, float]:
    """Run every step once."""
    norms = {}
    for name, step in steps.items():
        note(f"gradient of {name}")
        step()
        norms[name] = round(gradient_norm(problem.model), 6)
    return norms


def check_gradients(norms: dict[str, float], dtype: torch.dtype) -> None:
    """A comparison is fair between variants that learn the same: all that select, and all that learn from every token.

    Rounding to bfloat16 differs between the variants (and can swap tokens of nearly equal score): two digits are asked for there.
    """
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for group in (SELECTING, LEARNING_ALL):
        values = [norms[name] for name in group]
        if max(values) - min(values) > tolerance * max(values):
            raise SystemExit(f"the variants do not learn the same: gradient norms {norms}")


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
