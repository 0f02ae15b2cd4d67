"""Two ways of training by the compute that each needs for the same loss: method A needs 0.8 ± 0.04 of the compute of B."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, embedded, option, plan_settings
from tokenry.core.stats import Estimate
from tokenry.report.blocks import Block, Column, Figure, Series, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._estimates import between
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs.scaling._runs import RunTable

if TYPE_CHECKING:
    from tokenry.verbs.scaling._runs import FittedLaws

_LOSSES = 5


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Compare two methods by the compute that each needs for a loss.

    Attributes:
        runs: CSV file of method A with params, tokens and loss; without files, the paper's models, RefinedWeb against C4.
        others: CSV file of method B, with the same params and tokens in the same order.
        training_set: training set of the shipped models that stand for A; by default refinedweb.
        against: training set of the shipped models that stand for B; by default c4.
        losses: losses in nats per token at which they are compared; by default five among those that both have measured.
        multiplier: tokens per parameter of both; by default each at its best.
        draws: samples of the paired bootstrap.
        seed: random seed of the bootstrap.
    """

    runs: Path | None = argument(None)
    others: Path | None = argument(None)
    training_set: Literal["c4", "redpajama", "refinedweb"] | None = None
    against: Literal["c4", "redpajama", "refinedweb"] | None = None
    table: RunTable = embedded(RunTable(), only=("validation", "fit_below", "objective", "vocab_size"))
    losses: tuple[float, ...] = option((), flag="--loss", metavar="2.5,3", commas=True)
    multiplier: float | None = None
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(2, draws=self.draws)
        require_at_least(0, seed=self.seed)
        if (self.runs is None) != (self.others is None):
            raise UserError(f"give two files of runs, method A and method B, got only {self.runs}.")


def run(plan: Plan, progress: Progress) -> Result:
    """Fit both laws and compare them."""
    from tokenry.pretraining.scaling import compute_multiplier
    from tokenry.pretraining.scaling.loss_law import positive

    if plan.multiplier is not None:
        positive("multiplier", plan.multiplier)
    shipped = plan.runs is None
    names = (
        (plan.training_set or "refinedweb", plan.against or "c4")
        if shipped
        else (plan.training_set, plan.against)
    )
    laws = []
    for place, (path, name) in enumerate(zip((plan.runs, plan.others), names, strict=True)):
        progress("fitting the laws", place / 4)
        laws.append(replace(plan.table, training_set=name).laws(path))
    ours, theirs = laws
    losses = plan.losses or _losses(ours, theirs)
    rows = []
    for place, loss in enumerate(losses):
        progress("comparing", 0.5 + place / len(losses) / 2)
        found = compute_multiplier(ours.law, theirs.law, loss, plan.multiplier, plan.draws, plan.seed)
        known = found.standard_error == found.standard_error
        rows.append({
            "loss": loss,
            "flops": [float(law.law.compute_for(loss, plan.multiplier)) for law in laws],
            "value": found.value,
            "standard_error": found.standard_error if known else None,
            "low": found.low if known else None,
            "high": found.high if known else None,
        })  # fmt: skip
    data = {
        "kind": "scaling compare",
        "methods": [ours.name, theirs.name],
        "fitted": len(ours.runs.where(ours.chosen).N),
        "multiplier": plan.multiplier,
        "warnings": [f"{law.name}: {warning}" for law in laws for warning in law.warnings],
        "comparisons": rows,
        "settings": plan_settings(plan) | {"losses": list(losses)},
    }
    return Result(f"{ours.name} beside {theirs.name}", data, lay_out(data))


def _losses(ours: "FittedLaws", theirs: "FittedLaws") -> list[float]:
    """Losses that both have measured, from the median of the fitted runs to the lowest."""
    import numpy as np

    measured = [law.runs.where(law.chosen).loss for law in (ours, theirs)]
    highest, lowest = (max(float(end(loss)) for loss in measured) for end in (np.median, np.min))
    return [round(float(loss), 3) for loss in np.linspace(highest, lowest, _LOSSES)]


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the multiples of compute at each loss."""
    ours, theirs = data["methods"]
    rows = data["comparisons"]
    last = rows[-1]
    said = f"At a loss of {last['loss']:g}, {ours} needs {_estimate(last):.2f} of the compute of {theirs}."
    if last["low"] is not None:
        shown = last["high"] < 1 or last["low"] > 1
        said += "" if shown else " The 95 % interval holds 1: neither is shown to need less."
    at = "each at its best M" if data["multiplier"] is None else f"M = {data['multiplier']:g}"
    blocks: list[Block] = [
        Text(said, "lead"),
        *(Text(warning, "warning") for warning in data["warnings"]),
        Table(
            f"Compute for the same loss, {at}",
            (Column("loss", "nats", ".3f"), Column("A", "FLOPs", ".2e"), Column("B", "FLOPs", ".2e"), Column("A / B", "", ".3f"), "95 % interval"),
            [(row["loss"], *row["flops"], _estimate(row), between(row["low"], row["high"], ".3f")) for row in rows],
            notes=(
                f"A: {ours}. B: {theirs}. The bootstrap draws the same {data['fitted']} runs for both.",
            ),
        ),
    ]  # fmt: skip
    if len(rows) > 1:
        known = last["low"] is not None
        blocks.append(
            Figure(
                "Compute of A as a multiple of that of B",
                "lines",
                [
                    Series(
                        "A / B",
                        [row["loss"] for row in rows],
                        [row["value"] for row in rows],
                        [row["low"] for row in rows] if known else (),
                        [row["high"] for row in rows] if known else (),
                    )
                ],
                x_label="loss, nats per token",
                y_label="compute, A / B",
                reference=1.0,
                summary="multiple of compute over the loss to reach, with 95 % intervals",
            )
        )
    return blocks


def _estimate(row: Mapping[str, Any]) -> Any:
    if row["standard_error"] is None:
        return row["value"]
    return Estimate(row["value"], row["standard_error"], 2, row["low"], row["high"])
