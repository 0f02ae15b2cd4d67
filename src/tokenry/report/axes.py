"""Axes of a chart: the map from data to the view box, the ticks, and labels that do not cover each other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

LABEL_LENGTH = 11
_LINE_HEIGHT = 14.0


@dataclass(frozen=True)
class Axis:
    """A linear map from data to the view box, rounded to a tenth of a unit."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Map a value to its place."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


@dataclass(frozen=True)
class Tick:
    """One mark of an axis: where, and what is written there."""

    position: float
    text: str


def value_range(values: np.ndarray) -> tuple[float, float]:
    """A little more than the values need; a change of less than a fifth of their size is not blown up."""
    low, high = float(values.min()), float(values.max())
    half = max((high - low) * 0.56, 0.1 * max(abs(low), abs(high))) or 0.5
    return (low + high) / 2 - half, (low + high) / 2 + half


def ticks(low: float, high: float, count: int, whole: bool = False) -> list[tuple[float, str]]:
    """Round values between `low` and `high`, about `count` of them, each with what is written beside it."""
    values = MaxNLocator(nbins=count, steps=[1, 2, 5, 10], integer=whole).tick_values(low, high)
    step = abs(values[1] - values[0]) if len(values) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    inside = [0.0 if abs(value) < 1e-9 * step else float(value) for value in values if low <= value <= high]
    pattern = f"{{:,.{decimals}f}}" if decimals <= 4 else "{:g}"
    return [(value, pattern.format(value).replace("-", "−")) for value in inside]


def spread_labels(heights: Sequence[float], top: float, bottom: float) -> list[float]:
    """Move labels apart until none covers another, keeping their order."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = [heights[i] for i in order]
    for index in range(1, len(placed)):
        placed[index] = max(placed[index], placed[index - 1] + _LINE_HEIGHT)
    overflow = max(0.0, placed[-1] - bottom)
    for index in reversed(range(len(placed))):
        limit = placed[index + 1] - _LINE_HEIGHT if index + 1 < len(placed) else placed[index] - overflow
        placed[index] = min(placed[index], limit)
    return [round(dict(zip(order, placed, strict=True))[i], 1) for i in range(len(heights))]


def shorten(name: str, length: int) -> str:
    """Cut a name to `length` characters; the last is then an ellipsis."""
    return name if len(name) <= length else name[: length - 1] + "…"
