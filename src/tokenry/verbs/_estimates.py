"""Figures with their uncertainty as rows of stored results hold them: an error that is undefined is null there."""

import math
from collections.abc import Mapping
from typing import Any

from tokenry.core.stats import Estimate
from tokenry.report.blocks import Cell


def stored_estimate(row: Mapping[str, Any], value: str = "value", samples: str = "samples") -> Estimate:
    """The estimate in a row: its figure and its number of items have names of their own, its error is `standard_error`."""
    error = row["standard_error"]
    return Estimate(row[value], math.nan if error is None else error, row.get(samples) or 0)


def interval_cell(value: float | int, low: float | int, high: float | int, *, style: str) -> Cell:
    """A figure with its interval under it, in the style of the figure."""
    return Cell(value, f"{low:{style}} to {high:{style}}")
