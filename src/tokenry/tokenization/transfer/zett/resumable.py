"""Training that can be killed at any step and goes on as if it had not been.

What a step does depends on its number, the weights and the optimiser's moments alone: then a checkpoint of the three is all there is to
keep, in one safetensors file that is replaced as a whole.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tokenry.core.errors import UserError
from tokenry.core.io.files import atomic_write

CHECKPOINT_FILE = "checkpoint.safetensors"

Progress = Callable[[str, float], None]
"""Called with what is being done and the share that is done."""

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class AdamWSettings:
    """The optimiser.

    Attributes:
        beta1: of the first moment.
        beta2: of the second.
        epsilon: added to its root.
        weight_decay: of matrices; biases and LayerNorms have none.
        max_gradient_norm: gradients longer than this are shortened to it.
    """

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    max_gradient_norm: float = 0.1

    def __post_init__(self) -> None:
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise UserError(f"beta1 and beta2 must be in [0, 1), got {self.beta1} and {self.beta2}.")
        for name in ("epsilon", "max_gradient_norm"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}.")
        if self.weight_decay < 0:
            raise UserError(f"weight_decay must be 0 or more, got {self.weight_decay}.")


class ResumableTraining:
    """Takes steps on the trainable parameters of a module.

    Args:
        module: to be trained.
        step: called with the number of the step; leaves gradients and returns what is to be recorded, always the same names.
        learning_rate: of each step.
        steps: how many.
        fingerprint: everything that determines the run; a checkpoint of another is refused.
        adamw: the optimiser.
        save_every: steps between checkpoints.
    """

    def __init__(
        self,
        module: nn.Module,
        step: Callable[[int], Metrics],
        learning_rate: Callable[[int], float],
        steps: int,
        fingerprint: str,
        adamw: AdamWSettings,
        save_every: int,
    ) -> None:
        self._parameters = {name: each for name, each in module.named_parameters() if each.requires_grad}
        self._step, self._learning_rate, self._steps = step, learning_rate, steps
        self._fingerprint, self._adamw, self._save_every = fingerprint, adamw, save_every
        groups: list[dict[str, Any]] = [
            {"params": [each for each in self._parameters.values() if each.ndim > 1]},
            {"params": [each for each in self._parameters.values() if each.ndim <= 1], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(
            groups,
            lr=0.0,
            betas=(adamw.beta1, adamw.beta2),
            eps=adamw.epsilon,
            weight_decay=adamw.weight_decay,
        )
        self._history: list[list[float]] = []
        self._columns: list[str] = []

    def run(self, folder: Path | None, resume: bool, progress: Progress, what: Callable[[int], str]) -> None:
        """Take the steps that are left.

        Args:
            folder: of the checkpoint; None to keep none.
            resume: go on from it, if there is one.
            progress: told what is being done.
            what: names a step.

        Raises:
            UserError: the folder has a checkpoint and `resume` is off, or one of another run.
        """
        path = None if folder is None else folder / CHECKPOINT_FILE
        first = 0 if path is None else self._begin(path, resume)
        for number in range(first, self._steps):
            progress(what(number), number / self._steps)
            self._take(number)
            done = number + 1
            if path is not None and (done % self._save_every == 0 or done == self._steps):
                self._save(path, done)
        progress("done", 1.0)

    @property
    def history(self) -> dict[str, list[float]]:
        """What was recorded, one value per step."""
        columns = zip(*self._history, strict=True)
        return dict(zip(self._columns, map(list, columns), strict=True))

    def _take(self, number: int) -> None:
        rate = self._learning_rate(number)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        with torch.random.fork_rng():
            torch.manual_seed(number)  # dropout, too, depends on the number of the step alone
            metrics = {"learning_rate": rate, **self._step(number)}
        nn.utils.clip_grad_norm_(self._parameters.values(), self._adamw.max_gradient_norm)
        self._optimizer.step()
        self._columns = list(metrics)
        self._history.append(list(metrics.values()))

    def _begin(self, path: Path, resume: bool) -> int:
        if not path.exists():
            return 0
        if not resume:
            raise UserError(
                f"{path.parent} holds a training that was begun: resume it (--resume), or name a new folder."
            )
        return self._load(path)

    def _save(self, path: Path, done: int) -> None:
        tensors: dict[str, Tensor] = {f"weights.{name}": each for name, each in self._parameters.items()}
        for name, each in self._parameters.items():
            for kind, moment in self._optimizer.state.get(each, {}).items():
                tensors[f"{kind}.{name}"] = moment
        tensors["history"] = torch.tensor(self._history, dtype=torch.float64)
        metadata = {
            "step": str(done),
            "columns": json.dumps(self._columns),
            "fingerprint": self._fingerprint,
        }
        with atomic_write(path) as partial:
            save_file(
                {name: each.detach().cpu().contiguous() for name, each in tensors.items()}, partial, metadata
            )

    @torch.no_grad()
    def _load(self, path: Path) -> int:
        try:
            with safe_open(path, framework="pt") as opened:
                metadata = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is damaged ({error}): remove it to begin anew.") from error
        if metadata.get("fingerprint") != self._fingerprint:
            raise UserError(
                f"{path} belongs to a training with another model, tokenizer, texts or settings: give the same ones, or name a new folder."
            )
        for name, each in self._parameters.items():
            each.copy_(tensors[f"weights.{name}"])
            moments = {
                kind: tensors[f"{kind}.{name}"].to("cpu" if kind == "step" else each.device)
                for kind in ("step", "exp_avg", "exp_avg_sq")
                if f"{kind}.{name}" in tensors
            }
            if moments:
                self._optimizer.state[each] = moments
        self._columns = json.loads(metadata["columns"])
        self._history = tensors["history"].tolist()
        return int(metadata["step"])


class TextBatches:
    """An endless row of texts in batches of one size, each epoch in another order: batch `n` is always the same.

    Args:
        texts: none of them empty.
        batch_size: texts per batch.
        seed: of the orders.
    """

    def __init__(self, texts: Iterable[str], batch_size: int, seed: int) -> None:
        self._texts, self._batch_size, self._seed = list(texts), batch_size, seed
        self._orders: dict[int, list[int]] = {}

    def __getitem__(self, number: int) -> list[str]:
        size = len(self._texts)
        places = range(number * self._batch_size, (number + 1) * self._batch_size)
        return [self._texts[self._order(place // size)[place % size]] for place in places]

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e >= epoch - 1}
            self._orders[epoch] = torch.randperm(
                len(self._texts), generator=step_generator(self._seed, epoch, "order")
            ).tolist()
        return self._orders[epoch]


def step_generator(seed: int, number: int, what: str) -> torch.Generator:
    """A generator of random numbers for one purpose of one step."""
    mixed = torch.Generator().manual_seed(seed)
    salt = int.from_bytes(what.encode()[:6], "little")
    first = int(torch.randint(2**62, (1,), generator=mixed))
    return torch.Generator().manual_seed(
        (first ^ (salt * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9)) % 2**63
    )
