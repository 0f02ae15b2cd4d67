"""A list put back in order: weights written down that do it, what no causal model can do, and what a trained one reaches."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.core.io.progress import Progress, one_stage, part
from tokenry.core.plans import option, plan_settings
from tokenry.core.stats import Estimate
from tokenry.report.blocks import Block, Column, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._models import model_title, text_model
from tokenry.verbs._output import OptionalOutput

LAYOUTS = {
    "none": "no scratch rows",
    "suffix": "scratch rows behind",
    "both": "scratch rows before and behind",
}
PROMPTS = {"plain": "plain", "filler": "filler tokens before the answer", "repeated": "the list twice"}
BETAS = {"float64": 30.0, "float32": 20.0, "bfloat16": 10.0}


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Solve inverse permutation with two layers of attention that are written down, beside the least error of any causal model.

    Attributes:
        n: rows of the list, and entries of a row.
        layout: where scratch rows stand: none, suffix or both.
        beta: sharpness of attention; by default 30 in float64, 20 in float32, 10 in bfloat16.
        lists: lists that errors are measured on.
        steps: steps of training for a causal model without and with scratch rows; 0 for none.
        model: a causal language model that is asked to put n letters in order: `embedded`, a folder, a hub name, or an endpoint as URL#MODEL.
        prompts: lists that it is asked about.
        seed: random seed.
    """

    n: int = 10
    layout: str = "suffix"
    beta: float | None = None
    lists: int = 512
    steps: int = 0
    model: str | None = option(None, metavar="NAME")
    prompts: int = 64
    seed: int = 0
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        require_at_least(1, n=self.n, lists=self.lists)
        require_at_least(2, prompts=self.prompts)
        require_at_least(0, steps=self.steps, seed=self.seed)
        require_one_of(self.layout, tuple(LAYOUTS), "layout")
        if self.beta is not None and not self.beta > 0:
            raise UserError(f"beta must be above 0, got {self.beta}: it makes attention sharp.")
        if self.n < 2 and (self.steps or self.model):
            raise UserError(
                "a list of one row is in order already: train, or ask a model, with n of 2 or more."
            )


def run(plan: Plan, progress: Progress) -> Result:
    """Measure the construction in every precision, and train where asked to."""
    from tokenry.theory import best_causal_accuracy, best_causal_mse

    in_words = _in_words(plan, progress) if plan.model else []
    rows = [_constructed(plan, causal, name) for causal in _masks(plan) for name in BETAS]
    if plan.steps:
        rows += [
            _trained(plan, layout, part(progress, at, at + 0.5))
            for layout, at in (("none", 0.0), ("suffix", 0.5))
        ]
    data = {
        "kind": "theory permutation",
        "n": plan.n,
        "layout": plan.layout,
        "models": rows,
        "best_causal_mse": best_causal_mse(plan.n),
        "best_causal_accuracy": best_causal_accuracy(plan.n),
        "in_words": in_words,
        "settings": plan_settings(plan),
    }
    return Result(f"Inverse permutation of {plan.n} rows", data, lay_out(data))


def _masks(plan: Plan) -> tuple[bool, ...]:
    """Without scratch rows nothing solves it under the causal mask, so nothing is written down."""
    return (False,) if plan.layout == "none" else (True, False)


def _constructed(plan: Plan, causal: bool, dtype: str) -> dict[str, Any]:
    import torch

    from tokenry.theory import InversePermutationTask, solve_inverse_permutation

    task = InversePermutationTask(plan.n, plan.layout)
    kind = getattr(torch, dtype)
    model = solve_inverse_permutation(plan.n, plan.layout, causal, plan.beta or BETAS[dtype], kind)
    x, y = task.sample(plan.lists, torch.Generator().manual_seed(plan.seed))
    with torch.no_grad():
        found = model(x.to(kind), task.rows).double()
    return {
        "model": f"written down, {dtype}",
        "causal": causal,
        "layout": plan.layout,
        "loss": float((found - y).square().sum(dim=2).mean()),
        "accuracy": float(((found > 0.5) == (y > 0.5)).double().mean()),
    }


def _trained(plan: Plan, layout: str, progress: Progress) -> dict[str, Any]:
    from tokenry.theory import InversePermutationTask, PermutationTraining, train_inverse_permutation

    task = InversePermutationTask(plan.n, layout, "Y" if layout == "none" else None)
    config = PermutationTraining(task, steps=plan.steps, test_size=max(plan.lists, 2), seed=plan.seed)
    found = train_inverse_permutation(config, progress=one_stage(progress, f"training, {LAYOUTS[layout]}"))
    return {
        "model": f"trained, {plan.steps:,} steps",
        "causal": True,
        "layout": layout,
        "loss": float(found.loss.mean()),
        "accuracy": found.accuracy,
    }


def _in_words(plan: Plan, progress: Progress) -> list[dict[str, Any]]:
    """What a language model puts in order, by the layout of its prompt."""
    from tokenry.core.stats import estimate_of_mean, paired_difference
    from tokenry.theory import ReorderingTask, reorder_by_text

    assert plan.model is not None
    tasks = {layout: ReorderingTask(plan.n, layout) for layout in PROMPTS}
    progress("reading the model", 0.0)
    model = text_model(plan.model, plan.hardware, share_prefix=True)
    rows, plain = [], None
    for number, (layout, task) in enumerate(tasks.items()):
        progress(f"asking, {PROMPTS[layout]}", number / len(tasks))
        right = reorder_by_text(model, task, plan.prompts, plan.seed).astype(float)
        plain = right if plain is None else plain
        change = None if layout == "plain" else asdict(paired_difference(right, plain))
        rows.append({"layout": layout, "right": asdict(estimate_of_mean(right)), "change": change})
    return rows


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out what each model reaches."""
    lead = (
        f"A causal model that reads a permutation of {data['n']} rows and the permuted rows, and says each row of the answer where a row of the "
        f"list stands, cannot get below an error of {data['best_causal_mse']:.4g} a row, however deep it is. Scratch rows behind the list "
        "are enough for two layers."
    )
    table = Table(
        "squared error of a row, and entries right when cut at one half",
        ("model", "mask", "layout", Column("error", "", ".3g"), Column("right", "%")),
        [
            (
                row["model"],
                "causal" if row["causal"] else "none",
                LAYOUTS[row["layout"]],
                row["loss"],
                row["accuracy"],
            )
            for row in data["models"]
        ]
        + [
            (
                "best possible",
                "causal",
                LAYOUTS["none"],
                data["best_causal_mse"],
                data["best_causal_accuracy"],
            )
        ],
    )
    return [Text(lead, "lead"), table, *_words(data)]


def _words(data: Mapping[str, Any]) -> list[Block]:
    if not data.get("in_words"):
        return []
    rows = [
        (PROMPTS[row["layout"]], Estimate(**row["right"]), row["change"] and Estimate(**row["change"]))
        for row in data["in_words"]
    ]
    return [
        Table(
            f"lists of {data['n']} letters that {model_title(data['settings']['model'])} puts in order",
            ("prompt", Column("right", "%"), Column("against", "the plain one", "%")),
            rows,
            notes=(
                "The answer stands behind the list, where nothing forbids it: filler tokens are of use to models that were trained with them.",
            ),
        )
    ]
