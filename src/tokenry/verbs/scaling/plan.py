"""How large a model and how many tokens: for a budget of FLOPs, or for a loss, with what serving the model will cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Column, Figure, Series, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._estimates import between
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs.scaling._runs import RunTable

if TYPE_CHECKING:
    from tokenry.pretraining.scaling import TrainingRun
    from tokenry.verbs.scaling._runs import FittedLaws


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Choose the size and the tokens of a run for a budget of FLOPs or for a loss.

    Attributes:
        runs: CSV file with params, tokens, loss and, if wanted, error; by default the 104 models of the paper.
        budget: FLOPs for training and serving, such as 1e21.
        target_loss: loss to reach in nats per token, instead of a budget.
        served_tokens: tokens that the model will read and write in use, at 2 FLOPs per parameter each.
        sizes: parameters of the models to choose from; by default any.
        draws: samples of the bootstrap behind the intervals; 0 for none.
        seed: random seed of the bootstrap.
    """

    runs: Path | None = argument(None)
    table: RunTable = field(default_factory=RunTable)
    budget: float | None = option(None, metavar="FLOPS")
    target_loss: float | None = None
    served_tokens: float = 0.0
    sizes: tuple[float, ...] = option((), metavar="1e9,7e9", commas=True)
    draws: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(0, draws=self.draws, seed=self.seed)


def run(plan: Plan, progress: Progress) -> Result:
    """Fit the law and look for the best run."""
    from tokenry.pretraining.scaling import plan_training

    progress("fitting the law", 0.0)
    found = plan.table.laws(plan.runs)
    options = plan_training(
        found.law,
        plan.budget,
        plan.target_loss,
        plan.served_tokens,
        plan.sizes or None,
        plan.draws,
        plan.seed,
    )
    data = {
        "kind": "scaling plan",
        "runs": found.name,
        "fitted": int(found.chosen.sum()),
        "budget": plan.budget,
        "target_loss": plan.target_loss,
        "served_tokens": plan.served_tokens,
        "warnings": found.warnings,
        "best": _as_json(found, options.best),
        "params_interval": options.n_interval and list(options.n_interval),
        "tokens_interval": options.d_interval and list(options.d_interval),
        "options": [_as_json(found, option) for option in options.runs],
        "settings": plan_settings(plan),
    }
    return Result(f"What to train, {found.name}", data, lay_out(data))


def _as_json(found: "FittedLaws", run: "TrainingRun") -> dict[str, Any]:
    return {
        "params": run.N,
        "tokens": run.D,
        "multiplier": run.M,
        "loss": run.loss,
        "error": None if found.error_law is None else float(found.error_law.predict(run.loss)),
        "training_flops": run.training_flops,
        "inference_flops": run.inference_flops,
    }


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the best run, the others beside it, and what they differ in."""
    best, by_budget = data["best"], data["budget"] is not None
    lead = f"Best: {best['params']:.3g} parameters and {best['tokens']:.3g} tokens ({best['multiplier']:.3g} per parameter), "
    lead += f"loss {best['loss']:.3f}, for {best['training_flops'] + best['inference_flops']:.3g} FLOPs."
    blocks: list[Block] = [
        Text(lead, "lead"),
        *(Text(warning, "warning") for warning in data["warnings"]),
    ]
    if data["params_interval"]:
        sizes, tokens = (
            between(low, high, ".3g") for low, high in (data["params_interval"], data["tokens_interval"])
        )
        blocks.append(Text(f"90 % of the bootstrap: {sizes} parameters and {tokens} tokens."))
    given = f"{data['budget']:.3g} FLOPs" if by_budget else f"a loss of {data['target_loss']:g}"
    served = f", {data['served_tokens']:.3g} tokens served" if data["served_tokens"] else ""
    blocks.append(_table(f"Runs for {given}{served}", data["options"]))
    if len(data["options"]) > 1:
        blocks.append(_curve(data["options"], by_budget))
    return blocks


def _table(title: str, options: list[dict[str, Any]]) -> Table:
    return Table(
        title,
        (
            Column("parameters", "", ".3g"), Column("tokens", "", ".3g"), Column("M", "", ".3g"), Column("loss", "nats", ".3f"),
            Column("error", "", ".3f"), Column("training", "FLOPs", ".2e"), Column("serving", "FLOPs", ".2e"),
            Column("both", "FLOPs", ".2e"),
        ),
        [
            (run["params"], run["tokens"], run["multiplier"], run["loss"], run["error"], run["training_flops"],
             run["inference_flops"], run["training_flops"] + run["inference_flops"])
            for run in options
        ],
    )  # fmt: skip


def _curve(options: list[dict[str, Any]], by_budget: bool) -> Figure:
    import math

    across = [math.log10(run["params"]) for run in options]
    if by_budget:
        return Figure(
            "Loss of each size under the budget",
            "lines",
            [Series("loss", across, [run["loss"] for run in options])],
            x_label="log10 of parameters",
            y_label="loss, nats per token",
            summary="predicted loss over the size of the model when the budget is spent",
        )
    parts = {"training": ("training_flops",), "training and serving": ("training_flops", "inference_flops")}
    return Figure(
        "FLOPs of each size for the loss",
        "lines",
        [
            Series(name, across, [sum(run[part] for part in of) for run in options])
            for name, of in parts.items()
        ],
        x_label="log10 of parameters",
        y_label="FLOPs",
        logarithmic=True,
        summary="FLOPs over the size of the model along the iso-loss curve",
    )
