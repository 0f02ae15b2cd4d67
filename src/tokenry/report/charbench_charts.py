"""CharBench as geometry: accuracy over a property, and correlations with their intervals, one mark per model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pandas import DataFrame

from tokenry.report.axes import Axis, Tick, ticks

PROPERTY_NAMES = {
    "word_length": "word length",
    "gold": "true answer",
    "gold_over_length": "true answer / word length",
    "unique_characters": "unique characters",
    "number_of_tokens": "number of tokens",
    "compression": "characters per token",
    "target_token_length": "length of the token with the character",
    "frequency": "word frequency",
}
CURVES = ("word_length", "gold", "number_of_tokens", "target_token_length")

_MARK_GAP = 9.0


@dataclass(frozen=True)
class Mark:
    """A value with its interval: along the axis that is measured, `low` to `high`; `across` on the other."""

    series: int
    across: float
    value: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class AccuracyChart:
    """Accuracy at every value of a property."""

    title: str
    width: float
    height: float
    left: float
    right: float
    bottom: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    paths: list[tuple[int, str]]
    marks: list[Mark]
    summary: str


@dataclass(frozen=True)
class CorrelationRow:
    """One property."""

    name: str
    y: float
    marks: list[Mark]


@dataclass(frozen=True)
class CorrelationChart:
    """All properties of a task."""

    width: float
    height: float
    left: float
    bottom: float
    zero: float
    x_ticks: list[Tick]
    rows: list[CorrelationRow]
    summary: str


def accuracy_charts(curves: DataFrame, task: str, models: Sequence[str]) -> list[AccuracyChart]:
    """Draw the curves of one task, those that have more than one value.

    Args:
        curves: as of `CharBenchReport`.
        task: one of its tasks.
        models: in the order of their colours.
    """
    of_task = curves[curves["task"] == task]
    charts = []
    for prop in CURVES:
        rows = of_task[of_task["property"] == prop]
        if rows["value"].nunique() > 1:
            charts.append(_accuracy_chart(rows, prop, models))
    return charts


def correlation_chart(correlations: DataFrame, task: str, models: Sequence[str]) -> CorrelationChart | None:
    """Draw the correlations of one task; None where none is defined.

    Args:
        correlations: as of `CharBenchReport`.
        task: one of its tasks.
        models: in the order of their colours.
    """
    rows = correlations[(correlations["task"] == task)].dropna(subset=["r", "low", "high"])
    if not len(rows):
        return None
    width, left, right, top = 560.0, 230.0, 545.0, 14.0
    low, high = min(-0.1, rows["low"].min()), max(0.1, rows["high"].max())
    along = Axis(float(low), float(high), left, right)
    drawn, y = [], top
    for prop, of_one in rows.groupby("property", sort=False):
        name = PROPERTY_NAMES[str(prop)]
        marks = [
            Mark(
                models.index(row.model),
                y + _MARK_GAP * place,
                along(row.r),
                along(row.low),
                along(row.high),
                f"{row.model}, {name}: r = {row.r:+.3f} (95 %: {row.low:+.3f} to {row.high:+.3f})",
            )
            for place, row in enumerate(of_one.itertuples())
        ]
        drawn.append(CorrelationRow(name, y + _MARK_GAP * (len(marks) - 1) / 2, marks))
        y += _MARK_GAP * len(marks) + 11.0
    return CorrelationChart(
        width=width,
        height=y + 22,
        left=left,
        bottom=y,
        zero=along(0.0),
        x_ticks=[Tick(along(value), text) for value, text in ticks(float(low), float(high), count=6)],
        rows=drawn,
        summary=f"correlations with right answers, {task}: "
        + "; ".join(m.text for r in drawn for m in r.marks),
    )


def _accuracy_chart(rows: DataFrame, prop: str, models: Sequence[str]) -> AccuracyChart:
    width, height, left, right, top, bottom = 300.0, 190.0, 42.0, 288.0, 12.0, 156.0
    low, high = float(rows["value"].min()), float(rows["value"].max())
    pad = 0.04 * (high - low)
    across, up = Axis(low - pad, high + pad, left, right), Axis(0.0, 100.0, bottom, top)
    name = PROPERTY_NAMES[prop]
    paths, marks = [], []
    for series, model in enumerate(models):
        of_one = rows[rows["model"] == model].sort_values("value")
        points = [(across(row.value), up(100 * row.accuracy)) for row in of_one.itertuples()]
        if points:
            paths.append((series, "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)))
        marks += [
            Mark(
                series,
                x,
                y,
                up(100 * max(0.0, row.accuracy - row.standard_error)),
                up(100 * min(1.0, row.accuracy + row.standard_error)),
                f"{model}, {name} {row.value:g}: {100 * row.accuracy:.1f} ± {100 * row.standard_error:.1f} % of {row.n:,}",
            )
            for (x, y), row in zip(points, of_one.itertuples(), strict=True)
        ]
    return AccuracyChart(
        title=name,
        width=width,
        height=height,
        left=left,
        right=right,
        bottom=bottom,
        x_ticks=[
            Tick(across(value), text)
            for value, text in ticks(low, high, count=6, whole=all(map(_is_whole, rows["value"])))
        ],
        y_ticks=[Tick(up(value), f"{value:g}") for value in (0.0, 25.0, 50.0, 75.0, 100.0)],
        paths=paths,
        marks=marks,
        summary=f"accuracy in percent by {name}: " + "; ".join(mark.text for mark in marks),
    )


def _is_whole(value: float) -> bool:
    return math.isfinite(value) and value == int(value)
