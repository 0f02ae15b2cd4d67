"""What `tokenry compress plan` prints: the scaling law of a table of scores, and the best model size and tokens per budget.

A table of scores has one row per measured pair: the size in billions of parameters, the visual tokens, the score in [0, 1]. As CSV with
the columns `size`, `tokens` and `score`, or as JSON, a list of objects with these keys.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tokenry.compression.vision.vlm_scaling import (
    ScalingFit,
    compute_optimal,
    fit_vlm_scaling,
    optimal_tokens_closed_form,
)
from tokenry.core.errors import UserError
from tokenry.core.files import read_json

COLUMNS = ("size", "tokens", "score")
Scores = tuple[np.ndarray, np.ndarray, np.ndarray]


def read_scores(path: Path) -> Scores:
    """Read a table of scores as (sizes in billions, visual tokens, errors = 1 - score).

    Raises:
        UserError: the file is missing or unreadable, a column is missing, or an entry is no number or no score.
    """
    rows = _json_rows(path) if path.suffix.lower() == ".json" else _csv_rows(path)
    values = [[_number(row, column, number, path) for column in COLUMNS] for number, row in rows]
    if not values:
        raise UserError(f"{path} has no rows: give one per measured pair, with {', '.join(COLUMNS)}.")
    size, tokens, score = np.array(values).T
    if len(wrong := score[~((score >= 0) & (score <= 1))]):
        raise UserError(
            f"scores must be in [0, 1], got {wrong[0]:g} in {path}: give fractions (divide per cent by 100)."
        )
    return size, tokens, 1 - score


def plan_compression(
    scores: Scores,
    budgets: Sequence[float],
    sizes: Sequence[float] = (),
    tokens: Sequence[int] = (),
    text_tokens: int = 0,
    decode_tokens: int = 0,
    fix_d: float | None = None,
    bootstrap: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit the law and choose for each budget; what comes back is plain data.

    Args:
        scores: from `read_scores` or `published_scores`.
        budgets: FLOPs per query.
        sizes: models to choose from, in billions; those of the table if empty.
        tokens: numbers of visual tokens to choose from; those of the table if empty.
        text_tokens: prompt tokens that no cache holds.
        decode_tokens: tokens of the answer.
        fix_d: hold the irreducible error at this value.
        bootstrap: samples for the intervals; 0 for none.
        seed: of the bootstrap.

    Raises:
        UserError: as for `fit_vlm_scaling` and `compute_optimal`.
    """
    measured_sizes, measured_tokens, _ = scores
    sizes = sizes or sorted(set(measured_sizes.tolist()))
    tokens = tokens or [int(count) for count in sorted(set(measured_tokens.tolist()))]
    # Asked before the fit, so that a budget that cannot be is told at once.
    for budget in budgets:
        compute_optimal(ScalingFit(1.0, 0.0, 0.0, 0.0), sizes, tokens, budget, text_tokens, decode_tokens)
    fit = fit_vlm_scaling(*scores, fix_d=fix_d, bootstrap=bootstrap, seed=seed)
    chosen = (compute_optimal(fit, sizes, tokens, budget, text_tokens, decode_tokens) for budget in budgets)
    unpaid = text_tokens + decode_tokens
    return {
        "kind": "compression plan",
        "points": fit.points,
        "constants": [_constant(fit, name) for name in ("A", "alpha", "beta", "D", "alpha_beta_ratio")],
        "rmse": math.sqrt(fit.sse / fit.points),
        "warnings": list(fit.warnings),
        "sizes": list(sizes),
        "tokens": list(tokens),
        "text_tokens": text_tokens,
        "decode_tokens": decode_tokens,
        "tokens_at_any_size": _finite(optimal_tokens_closed_form(fit.alpha, fit.beta, unpaid)),
        "choices": [
            {"budget_flops": budget, "best": best and asdict(best)}
            for budget, best in zip(budgets, chosen, strict=True)
        ],
    }


def _constant(fit: ScalingFit, name: str) -> dict[str, Any]:
    low, high = fit.ci.get(name, (math.nan, math.nan))
    return {
        "name": name,
        "value": _finite(getattr(fit, name)),
        "low": _finite(low),
        "high": _finite(high),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _csv_rows(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as opened:
            table = csv.DictReader(opened)
            _require_columns(table.fieldnames or (), path)
            return [(table.line_num, row) for row in table]
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV ({error}).") from error


def _json_rows(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
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


def _number(row: Mapping[str, Any], column: str, number: int, path: Path) -> float:
    try:
        return float(row[column])
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{column} must be a number, got {row[column]!r} in row {number} of {path}."
        ) from error
