"""One-token rollout and dynamic fine-tuning against plain cross-entropy, and a compiled preference loss against a sum over all rows.

Head, loss and backward of 512 rows of 576 numbers and a vocabulary of 49,152, all in the same fused pass; and the exact rollout against
256 draws through autograd. The preference loss has 4 variables, on 100,000 pairs.
"""

import itertools
import math
from collections.abc import Iterator
from functools import partial

import torch
from _measure import Step, interleaved
from _report import Result, result, run, speedup
from torch import Tensor, nn

from tokenry.alignment import NAMED_LOSSES, Structure, compile_loss
from tokenry.core.tensors.losses import OutputHead, weighted_loss
from tokenry.core.tensors.row_losses import RowLoss, cross_entropy
from tokenry.finetuning.dft import dynamic_cross_entropy
from tokenry.finetuning.one_token_rollout import Rollout

DRAWS = 256
FEW = 1000  # pairs that a plain loop counts
TARGETS = {"OTR, exact": 1.10, "DFT": 1.02}


def measure(smoke: bool) -> Iterator[Result]:
    """Both kinds of losses."""
    yield from row_losses(*((8, 16, 100, 1) if smoke else (512, 576, 49_152, 6)))
    yield from preference_loss(*((50, 1) if smoke else (100_000, 10)))


def row_losses(rows: int, width: int, vocabulary: int, rounds: int) -> Iterator[Result]:
    """Time of each row loss beside cross-entropy, and of autograd with draws beside the closed form."""
    torch.manual_seed(0)
    linear = nn.Linear(width, vocabulary, bias=False)
    hidden = torch.randn(1, rows + 1, width, requires_grad=True)
    labels = torch.randint(vocabulary, (1, rows + 1))
    losses: dict[str, RowLoss] = {
        "cross-entropy": cross_entropy,
        "OTR, exact": Rollout(),
        "DFT": dynamic_cross_entropy,
    }
    steps: dict[str, Step] = {
        name: partial(fused, hidden, labels, linear, row_loss) for name, row_loss in losses.items()
    }
    steps["autograd, draws"] = partial(drawn, hidden, labels, linear)
    seconds = interleaved(steps, rounds, threads=1)
    shape = {"rows": rows, "width": width, "vocabulary": vocabulary, "threads": 1, "rounds": rounds}

    def milliseconds(*names: str) -> dict[str, float]:
        return {name: round(1000 * seconds[name].cpu, 1) for name in names}

    for name, target in TARGETS.items():
        ratio = seconds[name].cpu / seconds["cross-entropy"].cpu
        yield result(
            f"{name} / cross-entropy, head, loss and backward",
            ratio,
            target,
            cpu_milliseconds=milliseconds(name, "cross-entropy"),
            **shape,
        )
    yield result(
        f"OTR, exact / autograd with {DRAWS} draws, head, loss and backward",
        seconds["OTR, exact"].cpu / seconds["autograd, draws"].cpu,
        0.9,
        cpu_milliseconds=milliseconds("OTR, exact", "autograd, draws"),
        **shape,
    )


def fused(hidden: Tensor, labels: Tensor, linear: nn.Linear, row_loss: RowLoss) -> None:
    weights = torch.ones(labels.shape)
    weights[:, 0] = 0
    head = OutputHead(linear, linear.out_features)
    weighted_loss(hidden, labels, weights, head, row_loss=row_loss).total.backward()
    hidden.grad = linear.weight.grad = None


def drawn(
    hidden: Tensor, labels: Tensor, linear: nn.Linear, temperature: float = 1.3, beta: float = -0.1
) -> None:
    """The rollout as it is usually written: a log-softmax with a graph, draws, their log-probabilities."""
    logits, targets = linear(hidden)[0, :-1], labels[0, 1:]
    log_policy = logits.log_softmax(-1)
    with torch.no_grad():
        draws = (logits / temperature).softmax(-1).multinomial(DRAWS, replacement=True)
        reward = torch.where(draws == targets[:, None], 1.0, beta)
    (-(reward * log_policy.gather(-1, draws)).mean(-1).sum()).backward()
    hidden.grad = linear.weight.grad = None


def preference_loss(pairs: int, rounds: int) -> Iterator[Result]:
    """DPO from its formulas: cubes compiled once, against weighted model counting over all 16 rows."""
    dpo = Structure.parse(NAMED_LOSSES["DPO"])
    generator = torch.Generator().manual_seed(0)
    logps = {name: -torch.rand(pairs, generator=generator) * 3 - 0.01 for name in dpo.variables}
    program = compile_loss(dpo, beta=0.1)
    tables = dpo.truth_tables()
    torch.testing.assert_close(program.rho(logps), counted(logps, *tables), rtol=1e-3, atol=1e-4)
    steps: dict[str, Step] = {
        "tokenry": lambda: program.rho(logps),
        "all rows": lambda: counted(logps, *tables),
    }
    seconds = interleaved({name: repeated(step, 10) for name, step in steps.items()}, rounds, threads=1)
    shape = {"pairs": pairs, "variables": len(dpo.variables), "threads": 1, "rounds": rounds}
    yield speedup(
        "compiled preference loss: a sum over all rows, pairs at once / tokenry",
        seconds["all rows"].cpu / seconds["tokenry"].cpu,
        1.0,
        cpu_milliseconds={name: round(100 * taken.cpu, 3) for name, taken in seconds.items()},
        **shape,
    )
    few = {name: logp[:FEW] for name, logp in logps.items()}
    torch.testing.assert_close(
        torch.tensor(counted_alone(few, *tables)), program.rho(few), rtol=1e-3, atol=1e-4
    )
    alone = interleaved({"pair by pair": lambda: counted_alone(few, *tables)}, rounds, threads=1)
    per_pair = {
        "tokenry": seconds["tokenry"].cpu / 10 / pairs,
        "pair by pair": alone["pair by pair"].cpu / len(few["W"]),
    }
    yield speedup(
        "compiled preference loss: a sum over all rows, pair by pair / tokenry",
        per_pair["pair by pair"] / per_pair["tokenry"],
        50.0,
        cpu_microseconds_per_pair={name: round(1e6 * cpu, 4) for name, cpu in per_pair.items()},
        **shape,
    )


def counted_alone(logps: dict[str, Tensor], winning: str, losing: str) -> list[float]:
    """`counted` one pair at a time, in plain Python, as circuits of logic programs are walked."""
    ratios = []
    for pair in zip(*(logp.exp().tolist() for logp in logps.values()), strict=True):
        counts = []
        for side in (winning, losing):
            total = 0.0
            for true, row in zip(side, itertools.product((0, 1), repeat=len(pair)), strict=True):
                if true == "1":
                    total += math.prod(
                        chance if value else 1 - chance for chance, value in zip(pair, row, strict=True)
                    )
            counts.append(total)
        ratios.append(math.log(counts[0]) - math.log(counts[1]))
    return ratios


def counted(logps: dict[str, Tensor], winning: str, losing: str) -> Tensor:
    """The log-ratio of both counts, row by row."""
    logs = []
    for side in (winning, losing):
        total = torch.zeros_like(next(iter(logps.values())))
        for true, row in zip(side, itertools.product((0, 1), repeat=len(logps)), strict=True):
            if true == "1":
                product = torch.ones_like(total)
                for logp, value in zip(logps.values(), row, strict=True):
                    product = product * (logp.exp() if value else -torch.expm1(logp))
                total = total + product
        logs.append(total.log())
    return logs[0] - logs[1]


def repeated(step: Step, times: int) -> Step:
    """Run a short step several times."""

    def run_all() -> None:
        for _ in range(times):
            step()

    return run_all


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
