"""Inverse permutation: put a permuted list back in order. A causal transformer of any depth cannot, without room behind the list.

    input    rows of P, rows of P Y; scratch: n zero rows behind them (`suffix`), or before and behind (`both`)
    target   Y = Pᵀ (P Y)
    causal   row j of Y stands in row n + i of the input where P_i = e_j: for i > j it comes after the row that should say it
    best     mean squared error (n − 1) / 8 on the rows of P Y, n / 4 on those of P, with entries 0 and 1; 0 with scratch rows

Two layers do it without the mask, or in n scratch rows: the first lets row i of P Y attend to row i of P, the second lets output row j
attend to the row that has found e_j (`solve_inverse_permutation`).

Source: The Impossibility of Inverse Permutation Learning in Transformer Models (arXiv 2509.24125), theorems 1 to 3; the weights and the
best losses are derived here.
"""

import math
import os
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.core.io.progress import Progress
from tokenry.core.train.adamw import AdamWSettings
from tokenry.core.train.training import LoopConfig, Training
from tokenry.theory.disentangled_transformer import DisentangledTransformer

Scratch = Literal["none", "suffix", "both"]
Read = Literal["P", "Y", "scratch"]


@dataclass(frozen=True)
class InversePermutationTask:
    """The task for lists of n rows of n entries.

    Attributes:
        n: rows of the list.
        scratch: where zero rows stand.
        read: rows from which the answer is read: those of P, those of P Y, or the last scratch rows; by default the scratch rows, else P.
        scratch_rows: scratch rows behind the list, where there are fewer than n: they say the first rows, and the rows of P Y the others.
    """

    n: int = 10
    scratch: str = "suffix"
    read: str | None = None
    scratch_rows: int | None = None

    def __post_init__(self) -> None:
        require_at_least(1, n=self.n)
        if self.scratch_rows is not None and not (
            self.scratch == "suffix" and self.read is None and 0 <= self.scratch_rows <= self.n
        ):
            raise UserError(
                f"scratch_rows must be from 0 to {self.n} and goes with scratch='suffix' alone, got {self.scratch_rows}."
            )
        require_one_of(self.scratch, get_args(Scratch), "scratch")
        if self.read is not None:
            require_one_of(self.read, get_args(Read), "read")
            if self.read == "scratch" and self.scratch == "none":
                raise UserError("read='scratch' needs scratch rows: give scratch='suffix' or 'both'.")

    @property
    def behind(self) -> int:
        """Number of scratch rows behind the list."""
        if self.scratch_rows is not None:
            return self.scratch_rows
        return 0 if self.scratch == "none" else self.n

    @property
    def seq_len(self) -> int:
        """Rows of an input."""
        return self.p_start + 2 * self.n + self.behind

    @property
    def p_start(self) -> int:
        """The first row of P."""
        return self.n if self.scratch == "both" else 0

    @property
    def rows(self) -> list[int]:
        """The row from which each row of the answer is read."""
        read = self.read or ("P" if self.scratch == "none" else "scratch")
        p, y, blank = (
            range(self.p_start + block * self.n, self.p_start + (block + 1) * self.n) for block in range(3)
        )
        if read != "scratch":
            return [*(p if read == "P" else y)]
        return [*blank[: self.behind], *y[self.behind :]]

    def arrange(
        self, permutation: Float[Tensor, "batch n n"], values: Float[Tensor, "batch n n"]
    ) -> Float[Tensor, "batch seq n"]:
        """Lay permutations and lists out as inputs.

        Raises:
            UserError: P is no permutation matrix, Y is not finite, or they are of another size than the task.
        """
        if permutation.shape[1] != self.n:
            raise UserError(f"this task has lists of {self.n} rows, and P has {permutation.shape[1]}.")
        counted = torch.stack([permutation.sum(1), permutation.sum(2)])
        if not bool(((permutation == 0) | (permutation == 1)).all() and (counted == 1).all()):
            raise UserError("P must hold permutation matrices: one 1 in every row and column, 0 elsewhere.")
        if not bool(values.isfinite().all()):
            raise UserError("Y must be finite: it holds nan or inf.")
        blank = torch.zeros_like(values)
        before = [blank] if self.scratch == "both" else []
        return torch.cat([*before, permutation, permutation @ values, blank[:, : self.behind]], dim=1)

    def sample(
        self, batch: int, generator: Generator | None = None
    ) -> tuple[Float[Tensor, "batch seq n"], Float[Tensor, "batch n n"]]:
        """Draw inputs and targets: any permutation, entries 0 and 1 with equal chances."""
        require_at_least(1, batch=batch)
        order = torch.rand(batch, self.n, generator=generator).argsort(dim=1)
        permutation = nn.functional.one_hot(order, self.n).float()
        values = torch.randint(2, (batch, self.n, self.n), generator=generator).float()
        return self.arrange(permutation, values), values


def best_causal_mse(n: int, read: str = "Y") -> float:
    """The least mean squared error of a causal model, summed over the n entries of a row, whatever its depth: (n − 1) / 8, or n / 4."""
    _require_rows_of_input(n, read)
    return (n - 1) / 8 if read == "Y" else n / 4


def best_causal_accuracy(n: int, read: str = "Y") -> float:
    """The largest share of entries that such a model has right: ½ + (n + 1) / 4n, or ½."""
    _require_rows_of_input(n, read)
    return 0.5 + (n + 1) / (4 * n) if read == "Y" else 0.5


def best_scratch_mse(n: int, scratch_rows: int) -> float:
    """The least error where `scratch_rows` of the n rows may be said behind the list, and the others on the rows of P Y.

    Row j is seen in time with probability (j + 1) / n, so the rows that gain most from room behind are the first ones.
    """
    require_at_least(1, n=n)
    if not 0 <= scratch_rows <= n:
        raise UserError(f"scratch_rows must be from 0 to {n}, got {scratch_rows}.")
    return sum((n - 1 - row) / n for row in range(scratch_rows, n)) / 4


def solve_inverse_permutation(
    n: int,
    scratch: str = "suffix",
    causal: bool = True,
    beta: float | int = 30.0,
    dtype: torch.dtype = torch.float64,
) -> DisentangledTransformer:
    """Write down two layers that solve the task; outputs are read from `InversePermutationTask(n, scratch).rows`.

    Args:
        n: rows of the list.
        scratch: where zero rows stand.
        causal: whether the mask is on.
        beta: sharpness of attention: 30 in float64, 20 in float32, 10 in bfloat16; the error is about 2 T exp(−beta), for
            entries far below exp(beta) / beta.

    Raises:
        UserError: a causal model without scratch rows, which no depth solves (theorem 1).
    """
    task = InversePermutationTask(n, scratch)
    if not 0 < beta < math.inf:
        raise UserError(f"beta must be above 0 and finite, got {beta}: it makes attention sharp.")
    if causal and scratch == "none":
        raise UserError(
            "no causal transformer, however deep, solves this without scratch rows: the row that an output needs may come after it "
            "(theorem 1); give scratch='suffix', or causal=False."
        )
    length = task.seq_len
    model = DisentangledTransformer(length, n, (1, 1), causal).to(dtype)
    width, p, y, out = n + length, task.p_start, task.p_start + n, task.rows[0]
    index = torch.arange(n)
    others = torch.tensor([place for place in range(length) if not y <= place < y + n])
    first, second = (matrices.detach().zero_()[0] for matrices in model.attention)
    first[n + y + index, n + p + index] = beta
    first[n + others, n + others] = beta
    second[n + out + index, width + index] = beta
    second[n + out + index[:, None], n + others[None]] = -2 * beta
    model.readout.detach().zero_()[2 * width + index, index] = 1.0
    return model


@dataclass(frozen=True)
class PermutationTraining:
    """A training on the task.

    Attributes:
        causal: whether the mask is on.
        steps: steps of Adam.
        batch_size: lists of a step.
        learning_rate: highest learning rate; it falls to 0 along a cosine.
        test_size: lists that the result is measured on.
        init_scale: standard deviation of the weights at the beginning; 0 as in the released code.
    """

    task: InversePermutationTask
    causal: bool = True
    heads: tuple[int, ...] = (1, 1)
    steps: int = 3000
    batch_size: int = 128
    learning_rate: float = 0.03
    test_size: int = 4096
    init_scale: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.task.n < 2:
            raise UserError("a list of one row is in order already: train with n of 2 or more.")
        require_at_least(1, steps=self.steps, batch_size=self.batch_size, test_size=self.test_size)


@dataclass(frozen=True)
class PermutationResult:
    """What a trained model reaches on lists that it has not seen.

    Attributes:
        loss: squared error of a row, summed over its entries, of every list.
        accuracy: share of entries that are right when cut at one half.
        model: the trained model.
        history: training loss of every step.
    """

    loss: Float[Tensor, "lists"]
    accuracy: float
    model: nn.Module
    history: tuple[float, ...]


def train_inverse_permutation(
    config: PermutationTraining,
    model: nn.Module | None = None,
    folder: str | os.PathLike | None = None,
    resume: bool = False,
    progress: Progress = lambda what, share: None,
) -> PermutationResult:
    """Train a model on fresh lists and measure it.

    Args:
        config: task and training.
        model: maps inputs and rows to predictions, such as one with MLPs; by default a `DisentangledTransformer`.
        folder: folder of checkpoints; None to keep none.
        resume: resume from the last checkpoint in the folder.
        progress: called before each step.
    """
    task = config.task
    if model is None:
        torch.manual_seed(config.seed)
        model = DisentangledTransformer(task.seq_len, task.n, config.heads, config.causal, config.init_scale)
    batches = _Lists(config)

    def loss(number: int) -> dict[str, Tensor]:
        x, y = batches.draw(number + 1, config.batch_size)
        return {"loss": _row_errors(model(x, task.rows), y).mean()}

    training = Training(
        model,
        loss,
        range(config.steps),
        LoopConfig(
            config.steps,
            lambda step: config.learning_rate * (1 + math.cos(math.pi * step / config.steps)) / 2,
            AdamWSettings(beta2=0.999, weight_decay=0.0, max_gradient_norm=1e6),
            seed=config.seed,
        ),
        fingerprint=str(config),
    )
    training.run(folder, resume, progress)
    x, y = batches.draw(0, config.test_size)
    with torch.no_grad():
        found = torch.cat([model(part, task.rows) for part in x.split(512)])
    right = ((found > 0.5) == (y > 0.5)).float().mean()
    return PermutationResult(_row_errors(found, y), float(right), model, tuple(training.history["loss"]))


class _Lists:
    """Lists by number, always the same ones."""

    def __init__(self, config: PermutationTraining) -> None:
        self._task, self._seed = config.task, config.seed

    def draw(self, number: int, size: int) -> tuple[Tensor, Tensor]:
        return self._task.sample(size, Generator().manual_seed(self._seed * 1_000_003 + number))


def _row_errors(found: Tensor, target: Tensor) -> Float[Tensor, "batch"]:
    return (found - target).square().sum(dim=2).mean(dim=1)


def _require_rows_of_input(n: int, read: str) -> None:
    require_at_least(1, n=n)
    require_one_of(read, ("P", "Y"), "read")
