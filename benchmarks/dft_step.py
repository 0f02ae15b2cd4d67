"""A step of dynamic fine-tuning beside TRL's, and the memory of a one-token rollout beside that of draws through autograd.

SmolLM2-135M-Instruct, 2 x 512 tokens, half of them prompt, 10 % padding in the second row; forward and backward, all parameters, no
optimizer; gradients are checked to be equal first. The rollout is of 512 rows of 576 numbers and a vocabulary of 49,152, head included.
"""

from collections.abc import Iterator
from functools import partial

import torch
from _measure import Step, interleaved, peak_memory
from _report import Result, note, result, run
from _steps import TINY, Problem, Shape, gradient_norm, model_name, with_tokenry, with_trl
from row_losses import DRAWS, drawn, fused
from torch import nn

from tokenry.finetuning.dft import DynamicFineTuning
from tokenry.finetuning.one_token_rollout import Rollout

OURS, THEIRS = "DynamicFineTuning", "TRL dft"
EXACT, AUTOGRAD = "OTR, exact", "autograd, draws"


def measure(smoke: bool) -> Iterator[Result]:
    """The step, then the rollout."""
    yield from training_step(Shape(seq=32, model=TINY) if smoke else Shape(), 1 if smoke else 5)
    yield rollout_memory(*((8, 16, 100) if smoke else (512, 576, 49_152)))


def training_step(shape: Shape, rounds: int) -> Iterator[Result]:
    """Time and memory of loss and backward."""
    peaks = peak_memory({name: partial(prepare, name, shape) for name in (OURS, THEIRS)})
    problem = Problem.of(shape)
    steps = {name: make_step(name, problem) for name in (OURS, THEIRS)}
    norms = {}
    for name, step in steps.items():
        note(f"gradient of {name}")
        step()
        norms[name] = gradient_norm(problem.model)
    if abs(norms[OURS] - norms[THEIRS]) > 1e-3 * norms[THEIRS]:
        raise SystemExit(f"the trainers do not learn the same: gradient norms {norms}")
    settings = {
        "model": model_name(shape),
        "batch": f"{shape.batch} x {shape.seq}",
        "dtype": "float32",
        "threads": 1,
    }
    seconds = interleaved(steps, rounds, threads=1)
    yield result(
        f"step time: {OURS} / {THEIRS}",
        seconds[OURS].cpu / seconds[THEIRS].cpu,
        1.0,
        **settings,
        rounds=rounds,
        cpu_seconds={name: round(taken.cpu, 3) for name, taken in seconds.items()},
        gradient_norms={name: round(norm, 6) for name, norm in norms.items()},
    )
    yield result(
        f"peak memory above the model: {OURS} / {THEIRS}",
        peaks[OURS] / peaks[THEIRS],
        1.0,
        **settings,
        megabytes={name: round(peak) for name, peak in peaks.items()},
    )


def prepare(name: str, shape: Shape) -> Step:
    """Load the model, and make the step of a trainer."""
    return make_step(name, Problem.of(shape))


def make_step(name: str, problem: Problem) -> Step:
    """Loss and backward of one batch."""
    return with_tokenry(problem, DynamicFineTuning()) if name == OURS else with_trl(problem, "dft")


def rollout_memory(rows: int, width: int, vocabulary: int) -> Result:
    """Peak memory of head, loss and backward."""
    peaks = peak_memory({name: partial(rollout, name, rows, width, vocabulary) for name in (EXACT, AUTOGRAD)})
    return result(
        f"peak memory of head, loss and backward: {EXACT} / autograd with {DRAWS} draws",
        peaks[EXACT] / peaks[AUTOGRAD],
        0.5,
        rows=rows,
        width=width,
        vocabulary=vocabulary,
        megabytes={name: round(peak) for name, peak in peaks.items()},
    )


def rollout(name: str, rows: int, width: int, vocabulary: int) -> Step:
    """One step on random rows."""
    linear = nn.Linear(width, vocabulary, bias=False)
    hidden = torch.randn(1, rows + 1, width, requires_grad=True)
    labels = torch.randint(vocabulary, (1, rows + 1))
    if name == EXACT:
        return partial(fused, hidden, labels, linear, Rollout())
    return partial(drawn, hidden, labels, linear)


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
