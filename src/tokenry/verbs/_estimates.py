"""Figures with their uncertainty, as rows of stored results hold them and as they are drawn: what is not finite is null there."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tokenry.core.stats import Estimate
from tokenry.report.blocks import Cell, Series


def stored_estimate(row: Mapping[str, Any], value: str = "value", samples: str = "samples") -> Estimate:
    """The estimate in a row: its figure and its number of items have names of their own, its error is `standard_error`."""
    error = row["standard_error"]
    return Estimate(row[value], math.nan if error is None else error, row.get(samples) or 0)


def estimate_row(found: Estimate) -> dict[str, Any]:
    """An estimate as a row of a result, which `stored_estimate` reads; an error that is not known is null."""
    return {
        "value": float(found.value),
        "standard_error": finite_or_none(found.standard_error),
        "samples": found.samples,
    }


def interval_cell(value: float | int, low: float | int, high: float | int, *, style: str) -> Cell:
    """A figure with its interval under it, in the style of the figure."""
    return Cell(value, f"{low:{style}} to {high:{style}}")


def estimate_series(name: str, places: Sequence[float | int | str], estimates: Sequence[Estimate]) -> Series:
    """Estimates with their intervals, as one line or set of intervals."""
    value, low, high = ([getattr(found, end) for found in estimates] for end in ("value", "low", "high"))
    return Series(name, places, value, low, high)


def finite_or_none(value: Any) -> float | None:
    """A number as JSON holds it: null for one that is not finite."""
    return float(value) if math.isfinite(value) else None
