"""The model size and the number of visual tokens on which a budget of FLOPs per query is best spent.

A table of scores has one row per measured pair: the size in billions of parameters, the visual tokens, the score in [0, 1]. As CSV with
the columns `size`, `tokens` and `score`, or as JSON, a list of objects with these keys.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import read_json
from tokenry.core.io.progress import Progress
from tokenry.core.io.reading import read_csv, read_number
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Column, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._estimates import between, finite_or_none
from tokenry.verbs._output import OptionalOutput

if TYPE_CHECKING:
    from numpy import ndarray

    from tokenry.compression.vision.vlm_scaling import ScalingFit

COLUMNS = ("size", "tokens", "score")
_NAMES = {"alpha_beta_ratio": "alpha / beta"}


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Fit the scaling law of a table of scores and choose model size and visual tokens under each budget.

    Attributes:
        scores: CSV or JSON file with size (billions of parameters), tokens and score (0 to 1); the paper's if left out.
        table: the paper's table to fit instead of a file; by default reasoning.
        budgets: FLOPs per query, such as 2e12; can be repeated.
        sizes: models to choose from, in billions of parameters: 0.5,7,14; by default those of the table.
        tokens: visual tokens to choose from: 1,16,576; by default those of the table.
        text_tokens: prompt tokens that no cache holds.
        decode_tokens: tokens of the answer; the paper counts none.
        fix_d: hold the irreducible error D here instead of fitting it.
        bootstrap: samples behind the intervals; 0 for none.
        seed: random seed of the bootstrap.
    """

    scores: Path | None = argument(None)
    table: Literal["reasoning", "ocr"] | None = None
    budgets: tuple[float, ...] = option((1e10, 1e11, 1e12, 1e13), flag="--budget", metavar="FLOPS")
    sizes: str | None = None
    tokens: str | None = None
    text_tokens: int = 0
    decode_tokens: int = 0
    fix_d: float | None = None
    bootstrap: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scores is not None and self.table is not None:
            raise UserError(
                f"give a file of scores or --table, not both: got {self.scores} and --table {self.table}."
            )
        require_at_least(0, bootstrap=self.bootstrap, seed=self.seed)
        numbers(self.sizes, "sizes", float)
        numbers(self.tokens, "tokens", int)


def run(plan: Plan, progress: Progress) -> Result:
    """Fit the law and choose for each budget."""
    from tokenry.compression.vision.published_scaling import published_scores
    from tokenry.compression.vision.vlm_scaling import (
        ScalingFit,
        compute_optimal,
        fit_vlm_scaling,
        optimal_tokens_closed_form,
    )

    paper = plan.table or "reasoning"
    name = f"paper: {paper}" if plan.scores is None else str(plan.scores)
    measured = published_scores(paper) if plan.scores is None else read_scores(plan.scores)
    sizes = numbers(plan.sizes, "sizes", float) or sorted(set(measured[0].tolist()))
    tokens = numbers(plan.tokens, "tokens", int) or [int(count) for count in sorted(set(measured[1]))]

    def best(fit: ScalingFit, budget: float) -> Any:
        return compute_optimal(fit, sizes, tokens, budget, plan.text_tokens, plan.decode_tokens)

    # Asked before the fit, so that a budget that cannot be is refused at once.
    for budget in plan.budgets:
        best(ScalingFit(1.0, 0.0, 0.0, 0.0), budget)
    progress("fitting the law", 0.0)
    fit = fit_vlm_scaling(*measured, fix_d=plan.fix_d, bootstrap=plan.bootstrap, seed=plan.seed)
    chosen = [(budget, best(fit, budget)) for budget in plan.budgets]
    unpaid = plan.text_tokens + plan.decode_tokens
    data = {
        "kind": "compression plan",
        "scores": name,
        "points": fit.points,
        "constants": [_constant(fit, name) for name in ("A", "alpha", "beta", "D", "alpha_beta_ratio")],
        "rmse": math.sqrt(fit.sse / fit.points),
        "warnings": list(fit.warnings),
        "sizes": sizes,
        "tokens": tokens,
        "text_tokens": plan.text_tokens,
        "decode_tokens": plan.decode_tokens,
        "tokens_at_any_size": finite_or_none(optimal_tokens_closed_form(fit.alpha, fit.beta, unpaid)),
        "choices": [{"budget_flops": budget, "best": choice and asdict(choice)} for budget, choice in chosen],
        "settings": plan_settings(plan) | {"scores": name, "sizes": sizes, "tokens": tokens},
    }
    return Result(f"Model size and visual tokens, {name}", data, lay_out(data))


def _constant(fit: "ScalingFit", name: str) -> dict[str, Any]:
    low, high = fit.ci.get(name, (math.nan, math.nan))
    return {
        "name": name,
        "value": finite_or_none(getattr(fit, name)),
        "low": finite_or_none(low),
        "high": finite_or_none(high),
    }


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay the law and the choices out."""
    free = data["tokens_at_any_size"]
    unbound = "as many visual tokens as there are"
    if free is not None:
        unbound = f"{free:.3g} visual {'token' if free == 1 else 'tokens'}"
    law = Table(
        f"error = A / N^alpha / V^beta + D, {data['points']} points of {data['scores']}, RMSE {data['rmse']:.4f}",
        ("constant", Column("value", "", ".4g"), "95 % interval"),
        [
            (
                _NAMES.get(constant["name"], constant["name"]),
                constant["value"],
                between(constant["low"], constant["high"], ".3g"),
            )
            for constant in data["constants"]
        ],
    )
    choices = Table(
        f"best choice with {data['text_tokens']} text and {data['decode_tokens']} answer tokens",
        ("budget, FLOPs", "model", Column("visual tokens", "", "d"), Column("error", "", ".4f"), Column("FLOPs", "", ".3g")),
        [(f"{choice['budget_flops']:.3g}", *_choice(choice["best"])) for choice in data["choices"]],
        notes=(f"Best if any size could be had: {unbound}.",),
    )  # fmt: skip
    return [*(Text(warning, "warning") for warning in data["warnings"]), law, choices]


def _choice(best: Mapping[str, Any] | None) -> tuple[Any, ...]:
    if best is None:
        return "nothing fits", None, None, None
    return f"{best['n_billion']:g}B", best["visual_tokens"], best["error"], best["flops"]


# --- input ---------------------------------------------------------------------------------------------------------------------------


def numbers(listed: str | None, name: str, kind: type) -> list[Any]:
    """Read `1,4,16`; an empty list where nothing is given."""
    try:
        return [kind(number) for number in listed.split(",")] if listed is not None else []
    except ValueError as error:
        raise UserError(
            f"{name} takes numbers separated by commas, such as 1,4,16, got {listed!r}."
        ) from error


def read_scores(path: Path) -> "tuple[ndarray, ndarray, ndarray]":
    """Read a table of scores as (sizes in billions, visual tokens, errors = 1 - score)."""
    import numpy as np

    rows = _json_rows(path) if path.suffix.lower() == ".json" else _csv_rows(path)
    values = [
        [read_number(row, column, f"row {number} of {path}") for column in COLUMNS] for number, row in rows
    ]
    if not values:
        raise UserError(f"{path} has no rows: give one per measured pair, with {', '.join(COLUMNS)}.")
    size, tokens, score = np.array(values).T
    if len(wrong := score[~((score >= 0) & (score <= 1))]):
        raise UserError(
            f"scores must be in [0, 1], got {wrong[0]:g} in {path}: give fractions (divide per cent by 100)."
        )
    return size, tokens, 1 - score


def _csv_rows(path: Path) -> Sequence[tuple[int, Mapping[str, Any]]]:
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    columns, rows = read_csv(path)
    _require_columns(columns, path)
    return rows


def _json_rows(path: Path) -> Sequence[tuple[int, Mapping[str, Any]]]:
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} must hold a list of objects with the keys {', '.join(COLUMNS)}.")
    for row in rows:
        _require_columns(row, path)
    return list(enumerate(rows, start=1))


def _require_columns(found: Iterable[str], path: Path) -> None:
    if missing := [column for column in COLUMNS if column not in set(found)]:
        raise UserError(
            f"{path} has no {missing[0]}: a table of scores has the columns {', '.join(COLUMNS)} "
            "(billions of parameters, visual tokens, score from 0 to 1)."
        )
