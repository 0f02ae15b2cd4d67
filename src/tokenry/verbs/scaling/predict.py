"""Loss and downstream error of runs that were not trained, with 90 % intervals."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenry.core.errors import require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Column, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._estimates import interval_cell
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs.scaling._runs import RunTable, fan_figure


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Predict the loss and the downstream error of runs from cheaper ones.

    Attributes:
        runs: CSV file with params, tokens, loss and, if wanted, error; by default the 104 models of the paper.
        params: parameters of the runs to predict, embeddings included.
        multipliers: tokens per parameter; each size is predicted with each.
        seed: random seed of the bootstrap.
    """

    runs: Path | None = argument(None)
    table: RunTable = field(default_factory=RunTable)
    params: tuple[float, ...] = option((7e9,), metavar="1.4e9,7e9", commas=True)
    multipliers: tuple[float, ...] = option((20.0,), flag="--multiplier", metavar="20,640", commas=True)
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(0, seed=self.seed)


def run(plan: Plan, progress: Progress) -> Result:
    """Fit the laws and predict."""
    import numpy as np

    from tokenry.pretraining.scaling.loss_law import positive

    sizes, multipliers = np.meshgrid(
        positive("params", plan.params), positive("multiplier", plan.multipliers), indexing="ij"
    )
    progress("fitting the laws", 0.0)
    found = plan.table.laws(plan.runs)
    predicted = found.predictions(sizes.ravel(), multipliers.ravel(), plan.seed)
    fitted = found.runs.where(found.chosen)
    data = {
        "kind": "scaling predict",
        "runs": found.name,
        "fitted": len(fitted.N),
        "most_fitted_flops": float(fitted.compute.max()),
        "warnings": found.warnings,
        "predictions": predicted,
        "fans": [
            found.fan(multiplier, max(run["flops"] for run in predicted if run["multiplier"] == multiplier))
            for multiplier in dict.fromkeys(multipliers.ravel().tolist())
        ],
        "settings": plan_settings(plan),
    }
    return Result(f"Predicted runs, {found.name}", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the predictions and the fan of each number of tokens per parameter."""
    predicted = data["predictions"]
    farthest = max(run["flops"] for run in predicted) / data["most_fitted_flops"]
    lead = f"From {data['fitted']} runs of {data['runs']}, up to {farthest:,.0f} times the compute of the largest of them."
    return [
        Text(lead, "lead"),
        *(Text(warning, "warning") for warning in data["warnings"]),
        Table(
            "Predicted runs",
            (
                Column("parameters", "", ".3g"), Column("tokens", "", ".3g"), Column("M", "", ".4g"), Column("FLOPs", "", ".3g"),
                Column("loss", "nats", ".3f"), Column("error", "", ".3f"),
            ),
            [
                (run["params"], run["tokens"], run["multiplier"], run["flops"], _with_ends(run, "loss"), _with_ends(run, "error"))
                for run in predicted
            ],
            notes=("Under the loss: the 90 % interval of what one run measures; under the error: that of both laws.",),
        ),
        *map(fan_figure, data["fans"]),
    ]  # fmt: skip


def _with_ends(run: Mapping[str, Any], name: str) -> Any:
    if run.get(f"{name}_low") is None:
        return run.get(name)
    return interval_cell(run[name], run[f"{name}_low"], run[f"{name}_high"], style=".3f")
