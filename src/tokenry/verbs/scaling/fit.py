"""The laws of a table of runs, and how well they predict the runs that they were not fitted to.

A table of runs is a CSV file with the columns `params`, `tokens`, `loss` (nats per token) and, if wanted, `error` (1 − accuracy) and
`name`, one row per trained model. Without one, the paper's 104 models stand in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, plan_settings
from tokenry.report.blocks import Block, Column, Table, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._estimates import between
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs.scaling._runs import RunTable, fan_figure

if TYPE_CHECKING:
    from tokenry.verbs.scaling._runs import FittedLaws

_MEANINGS = {
    "E": "loss that no compute removes",
    "a": "what too few parameters cost",
    "b": "what too few tokens cost",
    "eta": "exponent of compute",
    "eps": "error of guessing",
    "k": "how far errors can fall",
    "gamma": "how fast errors rise",
}


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Fit scaling laws of loss and of downstream error to a table of runs.

    Attributes:
        runs: CSV file with params, tokens, loss and, if wanted, error; by default the 104 models of the paper.
    """

    runs: Path | None = argument(None)
    table: RunTable = field(default_factory=RunTable)


def run(plan: Plan, progress: Progress) -> Result:
    """Fit both laws and the other objectives beside them."""
    progress("fitting the laws", 0.0)
    found = plan.table.laws(plan.runs)
    law, error_law = found.law, found.error_law
    fitted = found.runs.where(found.chosen)
    common = max(set(fitted.M.round(6).tolist()), key=fitted.M.round(6).tolist().count)
    data = {
        "kind": "scaling fit",
        "runs": found.name,
        "fitted": len(fitted.N),
        "constants": _constants(law, ("E", "a", "b", "eta")),
        "official": dict(zip(("alpha", "beta", "p", "E"), map(float, law.to_official()), strict=True)),
        "optimal_multiplier": float(law.optimal_multiplier()),
        "sse": law.sse,
        "error_constants": _constants(error_law, ("eps", "k", "gamma")) if error_law else [],
        "warnings": found.warnings,
        "objectives": _objectives(found),
        "judged": _judged(found),
        "fan": found.fan(common, float(found.runs.compute.max())),
        "settings": plan_settings(plan),
    }
    return Result(f"Scaling laws, {found.name}", data, lay_out(data))


def _constants(law: Any, names: tuple[str, ...]) -> list[dict[str, Any]]:
    ends = law.intervals or {}
    return [
        {"name": name, "value": float(getattr(law, name)), "low": low, "high": high}
        for name, (low, high) in ((name, ends.get(name, (None, None))) for name in names)
    ]


def _judged(found: "FittedLaws") -> list[dict[str, Any]]:
    """Every run: measured, predicted, and whether its interval holds it."""
    from tokenry.pretraining.scaling import relative_error

    runs = found.runs
    predicted = found.predictions(runs.N, runs.M)
    return [
        {
            "name": runs.names[row],
            "fitted": bool(found.chosen[row]),
            "measured_loss": float(runs.loss[row]),
            "measured_error": None if runs.error is None else float(runs.error[row]),
            "relative_error": relative_error(run["loss"], float(runs.loss[row])),
            **run,
        }
        for row, run in enumerate(predicted)
    ]


def _objectives(found: "FittedLaws") -> list[dict[str, Any]]:
    """How far fits by each objective miss the runs that they were fitted to, and the others."""
    from tokenry.pretraining.scaling import fit_loss_law, relative_error
    from tokenry.pretraining.scaling.loss_law import OBJECTIVES

    rows, fitted = [], found.runs.where(found.chosen)
    for objective in OBJECTIVES:
        law = fit_loss_law(fitted.N, fitted.M, loss=fitted.loss, objective=objective)
        missed = relative_error(law.predict(N=found.runs.N, M=found.runs.M), found.runs.loss)
        others = missed[~found.chosen]
        rows.append({
            "objective": objective,
            "fitted": float(missed[found.chosen].mean()),
            "others": float(others.mean()) if len(others) else None,
            "worst": float(others.max()) if len(others) else None,
        })  # fmt: skip
    return rows


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the constants, what each objective misses, every run, and the fan."""
    others = [run for run in data["judged"] if not run["fitted"]]
    known = [run for run in others if run["loss_low"] is not None]
    held = sum(run["loss_low"] <= run["measured_loss"] <= run["loss_high"] for run in known)
    lead = f"Fitted to {plural(data['fitted'], 'run')} of {data['runs']}."
    if others:
        missed = sum(run["relative_error"] for run in others) / len(others)
        lead += f" The loss of the {plural(len(others), 'other run')} is predicted with a mean error of {missed:.2%}"
        lead += f"; {held} of {len(known)} lie in their 90 % interval." if known else "."
    blocks: list[Block] = [
        Text(lead, "lead"),
        *(Text(warning, "warning") for warning in data["warnings"]),
        _law("loss = E + (a · M^eta + b · M^-eta) · C^-eta", data["constants"], data),
    ]
    if data["error_constants"]:
        blocks.append(_law("error = eps − k · exp(−gamma · loss)", data["error_constants"]))
    if others:
        blocks.append(_objective_table(data["objectives"]))
    return [*blocks, fan_figure(data["fan"]), _run_table(data["judged"])]


def _law(title: str, constants: list[dict[str, Any]], data: Mapping[str, Any] | None = None) -> Table:
    notes: tuple[str, ...] = ()
    if data is not None:
        official = ", ".join(f"{name} {value:.4g}" for name, value in data["official"].items())
        notes = (
            f"Best tokens per parameter for training alone: {data['optimal_multiplier']:.3g}.",
            f"In the form of the released code: {official}.",
        )
    return Table(
        title,
        ("constant", "meaning", Column("value", "", ".4g"), "95 % interval"),
        [
            (constant["name"], _MEANINGS[constant["name"]], constant["value"],
             between(constant["low"], constant["high"], ".3g"))
            for constant in constants
        ],
        notes=notes,
    )  # fmt: skip


def _objective_table(objectives: list[dict[str, Any]]) -> Table:
    return Table(
        "Objectives: mean relative error of the loss",
        (
            "objective",
            Column("fitted runs", "%", ".2f"),
            Column("other runs", "%", ".2f"),
            Column("worst", "%", ".2f"),
        ),
        [(row["objective"], row["fitted"], row["others"], row["worst"]) for row in objectives],
    )


def _run_table(judged: list[dict[str, Any]]) -> Table:
    return Table(
        "Every run",
        (
            "run", "fitted", Column("FLOPs", "", ".2e"), Column("M", "", ".3g"), Column("loss", "measured", ".3f"),
            Column("loss", "law", ".3f"), "90 % interval", Column("missed by", "%", ".2f"),
        ),
        [
            (run["name"], "yes" if run["fitted"] else "no", run["flops"], run["multiplier"], run["measured_loss"], run["loss"],
             between(run["loss_low"], run["loss_high"], ".2f"), run["relative_error"])
            for run in sorted(judged, key=lambda run: run["flops"])
        ],
        folded=True,
    )  # fmt: skip
