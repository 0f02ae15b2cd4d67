"""Draws of a trace estimate: their weighted mean with its standard error, by group of parameters, and what is kept to resume.

    trace = Σ targets · value / Σ targets          over the draws, each a batch or a sequence

Draws go through the given batches again and again, so that the error is that of their mean: what other data would say needs more
batches. Several processes draw on batches of their own, and the estimate is over the draws of all.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch.distributed
from jaxtyping import Float
from torch import Generator, Tensor

from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.core.io.files import read_json, without_nan, write_json
from tokenry.core.io.ranks import is_first, processes, rank
from tokenry.core.io.workspace import Workspace
from tokenry.core.stats import Estimate, ratio_estimate
from tokenry.core.tensors.fingerprints import model_fingerprint
from tokenry.pretraining.flatness.objective import Batch, Objective

WEIGHTINGS = ("targets", "batches")
FEWEST_DRAWS = 8
"""Draws below which an error says too little to stop on."""


@dataclass(frozen=True)
class TraceEstimate:
    """A trace with its error.

    Attributes:
        estimate: the trace.
        per_group: that of each layer, or module outside of layers: of the diagonal blocks of the Hessian.
        relative: Σ θ² · H_ii, which a rescaling of weights that leaves the function alone does not change; None where it was not measured.
        loss: mean loss of the draws in nats.
        notes: what was changed for the call, and what was not reached, in words.
    """

    estimate: Estimate
    per_group: Mapping[str, Estimate] = field(default_factory=dict)
    relative: Estimate | None = None
    loss: Estimate | None = None
    notes: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """The trace."""
        return float(self.estimate.value)

    @property
    def stderr(self) -> float:
        """Its standard error; nan for a single draw."""
        return float(self.estimate.standard_error)

    def __str__(self) -> str:
        return f"{self.estimate:.4g}"


@dataclass(frozen=True)
class DrawConfig:
    """How draws are made and kept.

    Attributes:
        seed: of probes and labels; every process has its own.
        probes_per_batch: probes that share the graph of a batch and make one draw.
        weighting: `targets` weighs draws by their targets; `batches`, as the released code does, alike.
        most: draws after which a tolerance is given up.
        every: draws from one time to the next that they are written and the error is looked at.
        folder: where draws and the estimate so far are written, and from where they go on; None for nowhere.
        progress: called with the number of draws and the estimate so far.
    """

    seed: int = 0
    probes_per_batch: int = 1
    weighting: str = "targets"
    most: int = 10_000
    every: int = 16
    folder: Path | None = None
    progress: Callable[[int, TraceEstimate], None] = lambda draws, found: None

    def __post_init__(self) -> None:
        require_at_least(1, probes_per_batch=self.probes_per_batch, most=self.most, every=self.every)
        require_at_least(0, seed=self.seed)
        require_one_of(self.weighting, WEIGHTINGS, "weighting")


AS_USUAL = DrawConfig()


class TraceDraw(NamedTuple):
    """What one draw found.

    Attributes:
        targets: number of targets behind it.
        loss: of its batch.
        values: its part of the trace, by parameter.
        relative: the same times squared weights; nan where it was not measured.
    """

    targets: int
    loss: float
    values: Float[Tensor, "parameters"]
    relative: float = math.nan


class TraceDraws:
    """The draws so far, in a folder where one is asked for.

    Args:
        objective: what is measured.
        config: how.
        what: the estimator with its settings, in words: draws of another are not gone on with.

    Attributes:
        rows: weight, loss, relative trace and values by group of each draw of this process.

    Raises:
        UserError: the folder holds other draws.
    """

    def __init__(self, objective: Objective, config: DrawConfig, what: str) -> None:
        self.objective, self.config = objective, config
        self.groups = [*dict.fromkeys(objective.groups)]
        self.rows: list[list[float]] = []
        if config.folder is None:
            return
        settings = {
            "what": f"{what}, {config.probes_per_batch} probes a batch, weighed by {config.weighting}, seed {config.seed}",
            "model": "" if objective.model is None else model_fingerprint(objective.model, adapters=True),
            "parameters": [*objective.parameters],
        }
        Workspace(Path(config.folder), settings, "flatness.json").claim(
            f"{config.folder} holds draws of another model or with other settings: name a new folder."
        )
        if self._file.exists():
            self.rows = read_json(self._file)["draws"]

    @property
    def _file(self) -> Path:
        return Path(self.config.folder or "") / ("draws.json" if is_first() else f"draws-{rank()}.json")

    def make(
        self,
        batches: Iterator[Batch],
        draw: Callable[[Batch, Generator], TraceDraw],
        fewest: int,
        tol: float | None,
        notes: list[str],
    ) -> TraceEstimate:
        """Draw on until there are enough, and the error is small enough or hopeless.

        Args:
            batches: as many as there may be draws; those of draws that are there already are passed over.
            draw: probes one batch, with random numbers of its own.
            fewest: draws before which the error is not looked at, and after which it ends without `tol`.
            tol: error to be reached, as a share of the trace.
            notes: goes into the estimate.
        """
        most = fewest if tol is None else max(fewest, self.config.most)
        for batch in islice(batches, len(self.rows), most):
            generator = Generator(self.objective.device).manual_seed(self._seed())
            self._add(draw(batch, generator))
            if len(self.rows) % self.config.every == 0:
                found = self._saved(notes)
                if len(self.rows) >= fewest and is_precise(found.estimate, tol):
                    return found
        found = self._saved(notes)
        if tol is not None and not is_precise(found.estimate, tol):
            error = found.stderr / abs(found.mean) if found.mean else math.inf
            notes.append(
                f"the error is {error:.1%} of the trace, above the {tol:.1%} asked for: give more batches or draws"
            )
        return self.estimate(notes)

    def _seed(self) -> int:
        """The seed of the next draw; a CPU's generator takes in no more than 32 bits of it."""
        drawn = np.random.SeedSequence((self.config.seed, rank(), len(self.rows)))
        return int(drawn.generate_state(1)[0])

    def _add(self, found: TraceDraw) -> None:
        values = found.values.tolist()
        if not all(map(math.isfinite, values)):
            raise UserError(
                "the curvature is not finite: the model is damaged, or its gradients overflow; measure it in float32."
            )
        by_group = dict.fromkeys(self.groups, 0.0)
        for group, value in zip(self.objective.groups, values, strict=True):
            by_group[group] += value
        weight = float(found.targets) if self.config.weighting == "targets" else 1.0
        self.rows.append([weight, found.loss, found.relative, *by_group.values()])

    def _saved(self, notes: Sequence[str]) -> TraceEstimate:
        """Write the draws of this process and the estimate so far, and tell it."""
        found = self.estimate(notes)
        if self.config.folder is not None:
            so_far = {
                "value": found.mean,
                "standard_error": found.stderr,
                "draws": found.estimate.samples,
            }
            write_json(self._file, without_nan({"estimate": so_far, "draws": self.rows}))
        self.config.progress(len(self.rows), found)
        return found

    def estimate(self, notes: Sequence[str] = ()) -> TraceEstimate:
        """The estimate over the draws of all processes.

        Raises:
            UserError: there is no draw.
        """
        rows = self.rows
        if processes() > 1 and torch.distributed.is_initialized():
            of_all: list[Any] = [None] * processes()
            torch.distributed.all_gather_object(of_all, rows)
            rows = [row for of_one in of_all for row in of_one]
        if not rows:
            raise UserError("there is no batch with a target: give at least one.")
        weight, loss, relative, *values = np.array(rows, dtype=float).T
        return TraceEstimate(
            weighted_mean(np.sum(values, axis=0), weight),
            {group: weighted_mean(value, weight) for group, value in zip(self.groups, values, strict=True)},
            None if np.isnan(relative).any() else weighted_mean(relative, weight),
            weighted_mean(loss, weight),
            tuple(notes),
        )


def weighted_mean(values: Float[np.ndarray, "draws"], weights: Float[np.ndarray, "draws"]) -> Estimate:
    """Σ weight · value / Σ weight with its error; a single draw has none."""
    if len(values) == 1:
        return Estimate(float(values[0]), math.nan, 1)
    return ratio_estimate(values * weights, weights)


def is_precise(found: Estimate, tol: float | None) -> bool:
    """Whether the error is at most `tol` of the figure, after enough draws to say so."""
    if tol is None or found.samples < FEWEST_DRAWS:
        return False
    return bool(found.standard_error <= tol * abs(found.value))


def cycled(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches again and again, those of an iterator once; a mapping or a tensor is one batch."""
    given = [batches] if isinstance(batches, Mapping | Tensor) else batches
    found = True
    while found:
        found = False
        for batch in given:
            found = True
            yield batch
