"""The runs behind a scaling law: a table of the user's, or the 104 models that ship, and the laws fitted to them.

A table of runs has one row per trained model: its parameters, the tokens it was trained on, its validation loss in nats per token, and, if
wanted, the error (1 − accuracy) on downstream tasks. As CSV with the columns `params`, `tokens`, `loss` and `error`; `name` may be there.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import UserError
from tokenry.core.io.reading import read_csv, read_number
from tokenry.report.blocks import Figure, Series
from tokenry.verbs._estimates import finite_or_none

if TYPE_CHECKING:
    from numpy import ndarray

    from tokenry.pretraining.scaling import ErrorLaw, LossLaw, ScalingRuns

COLUMNS = ("params", "tokens", "loss")
CONFIDENCE = 0.9


@dataclass(frozen=True)
class RunTable:
    """Which runs a law is fitted to, and how.

    Attributes:
        training_set: training set of the shipped models, without a file; by default redpajama.
        validation: text on which the shipped models' loss was measured.
        downstream: error of the shipped models: avg (46 tasks), avg_subset (17 tasks), or one task.
        fit_below: fit runs of less compute than this many FLOPs and predict the others; by default all, or the paper's five.
        objective: squared errors of the loss, of its logarithm, or Huber's loss of the logarithm.
        vocab_size: vocabulary of the tokenizer; a loss above its logarithm is warned of.
    """

    training_set: Literal["c4", "redpajama", "refinedweb"] | None = None
    validation: str = "c4_val"
    downstream: str = "avg_subset"
    fit_below: float | None = None
    objective: Literal["squares", "log", "huber"] = "squares"
    vocab_size: int | None = None

    def laws(self, path: Path | None) -> "FittedLaws":
        """Read the runs and fit both laws."""
        import numpy as np

        from tokenry.pretraining.scaling import (
            fit_error_law,
            fit_loss_law,
            published_fit_runs,
            published_runs,
        )
        from tokenry.pretraining.scaling.loss_law import LARGEST_VOCABULARY
        from tokenry.pretraining.scaling.testbed import VOCAB_SIZE

        if path is not None and self.training_set is not None:
            raise UserError(
                f"give a file of runs or --training-set, not both: got {path} and --training-set {self.training_set}."
            )
        if path is None:
            name: str = self.training_set or "redpajama"
            runs, vocabulary = published_runs(name, self.validation, self.downstream), VOCAB_SIZE
        else:
            name, runs, vocabulary = str(path), read_runs(path), LARGEST_VOCABULARY
        chosen = for_errors = np.ones(len(runs.N), dtype=bool)
        if self.fit_below is not None:
            chosen = for_errors = runs.compute < self.fit_below
        elif path is None:
            chosen, for_errors = published_fit_runs(runs), published_fit_runs(runs, errors=True)
        fitted, of_errors = runs.where(chosen), runs.where(for_errors)
        law = fit_loss_law(
            fitted.N,
            fitted.M,
            loss=fitted.loss,
            objective=self.objective,
            vocab_size=self.vocab_size or vocabulary,
        )
        error_law = None if of_errors.error is None else fit_error_law(of_errors.loss, of_errors.error)
        return FittedLaws(name, runs, chosen, law, error_law)


@dataclass(frozen=True)
class FittedLaws:
    """Runs and the laws fitted to them.

    Attributes:
        name: the file, or the training set of the shipped models.
        runs: all of them.
        chosen: which the loss law was fitted to.
        law: loss law.
        error_law: error law; None where no errors were measured.
    """

    name: str
    runs: "ScalingRuns"
    chosen: "ndarray"
    law: "LossLaw"
    error_law: "ErrorLaw | None"

    @property
    def warnings(self) -> list[str]:
        """What the runs do not determine."""
        return [*self.law.warnings, *(self.error_law.warnings if self.error_law else ())]

    def predictions(self, sizes: "ndarray", multipliers: "ndarray", seed: int = 0) -> list[dict[str, Any]]:
        """Loss and error of runs, each with its interval where one is known."""
        from tokenry.pretraining.scaling import downstream_interval, predict_downstream

        squares = self.law.fit is not None and self.law.fit.reweigh is None
        by = "profile" if squares else "bootstrap"
        columns: dict[str, Any] = {
            "params": sizes,
            "tokens": sizes * multipliers,
            "multiplier": multipliers,
            "flops": 6 * multipliers * sizes**2,
            "loss": self.law.predict(N=sizes, M=multipliers),
        }
        ends = self.law.interval(N=sizes, M=multipliers, confidence=CONFIDENCE, by=by, seed=seed)
        columns |= _ends("loss", ends, len(sizes))
        if self.error_law is not None:
            columns["error"] = predict_downstream(self.law, self.error_law, sizes, multipliers)
            ends = downstream_interval(self.law, self.error_law, sizes, multipliers, CONFIDENCE, seed=seed)
            columns |= _ends("error", ends, len(sizes))
        return [
            {name: finite_or_none(column[row]) for name, column in columns.items()}
            for row in range(len(sizes))
        ]

    def fan(self, multiplier: float, most_flops: float) -> dict[str, Any]:
        """The law at one number of tokens per parameter from the least compute that was fitted to the most that is asked for."""
        import numpy as np

        compute = np.geomspace(self.runs.where(self.chosen).compute.min(), most_flops, 13)
        sizes = np.sqrt(compute / 6 / multiplier)
        near = np.abs(self.runs.M / multiplier - 1) < 0.05
        measured = self.runs.where(near)
        order = np.argsort(measured.compute)
        return {
            "multiplier": multiplier,
            "law": self.predictions(sizes, np.full_like(sizes, multiplier)),
            "measured": [
                {"flops": float(measured.compute[row]), "loss": float(measured.loss[row])} for row in order
            ],
        }


def fan_figure(fan: Mapping[str, Any]) -> Figure:
    """Draw a fan: the law with its intervals, and the runs that were measured."""
    law, measured = fan["law"], fan["measured"]
    known = law[0]["loss_low"] is not None
    lines = [
        Series(
            "law",
            [math.log10(point["flops"]) for point in law],
            [point["loss"] for point in law],
            [point["loss_low"] for point in law] if known else (),
            [point["loss_high"] for point in law] if known else (),
        )
    ]
    if measured:
        lines.append(
            Series(
                "measured",
                [math.log10(point["flops"]) for point in measured],
                [point["loss"] for point in measured],
            )
        )
    return Figure(
        f"Loss at {fan['multiplier']:g} tokens per parameter",
        "lines",
        lines,
        x_label="log10 of training FLOPs",
        y_label="loss, nats per token",
        summary="the law over compute, with 90 % intervals of one run, and measured runs with as many tokens per parameter",
    )


def _ends(name: str, ends: Any, count: int) -> dict[str, Any]:
    low, high = ([math.nan] * count,) * 2 if ends is None else ends
    return {f"{name}_low": low, f"{name}_high": high}


# --- input ---------------------------------------------------------------------------------------------------------------------------


def read_runs(path: Path) -> "ScalingRuns":
    """Read a table of runs."""
    import numpy as np

    from tokenry.pretraining.scaling import ScalingRuns

    if not path.exists():
        raise UserError(f"{path} does not exist.")
    columns, rows = read_csv(path)
    if missing := [column for column in COLUMNS if column not in columns]:
        raise UserError(
            f"{path} has no {missing[0]}: a table of runs has the columns {', '.join(COLUMNS)} (parameters, training tokens, "
            f"validation loss in nats per token) and may have error and name, and this one has {', '.join(columns) or 'none'}."
        )
    if not rows:
        raise UserError(f"{path} has no rows: give one per trained model, with {', '.join(COLUMNS)}.")
    wanted = (*COLUMNS, *(("error",) if "error" in columns else ()))
    values = {
        column: np.array([read_number(row, column, f"line {line} of {path}") for line, row in rows])
        for column in wanted
    }
    for column in COLUMNS[:2]:
        if (wrong := values[column][values[column] <= 0]).size:
            raise UserError(f"{column} must be above 0, got {wrong[0]:g} in {path}: leave such a run out.")
    names = tuple(str(row.get("name") or f"line {line}") for line, row in rows)
    runs = ScalingRuns(names, values["params"], values["tokens"] / values["params"], values["loss"])
    return replace(runs, error=values["error"]) if "error" in values else runs
