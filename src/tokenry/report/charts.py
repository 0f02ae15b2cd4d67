"""Charts as geometry: what a template needs to draw curves, mirrored histograms and intervals as inline SVG.

Coordinates are in the units of the chart's own view box. Colours, dashes and fonts come from the page's style sheet, so a
chart follows light, dark and print. Series differ by dash and marker as well as by colour, and are labelled at their ends.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenry.core.records import Histogram, Run
from tokenry.report.axes import LABEL_LENGTH, Axis, Tick, shorten, spread_labels, ticks, value_range
from tokenry.report.text import label

# A curve of more points than this is drawn as means of neighbouring points: it is no wider on the page.
POINTS = 80
# Circle, square, triangle, diamond, cross: drawn around the origin.
MARKERS = (
    "M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0",
    "M-2.9-2.9h5.8v5.8h-5.8z",
    "M0-3.8l3.6 6.4h-7.2z",
    "M0-4l4 4l-4 4l-4-4z",
    "M-3-3l6 6M3-3l-6 6",
)
_CURVE_TITLES = {"loss": "training loss"}
_FIRST_CURVES = ("loss", "nll_kept", "nll_dropped", "share_kept")


@dataclass(frozen=True)
class Line:
    """One run's curve: an SVG path, its markers, and the label at its end (with a leader where it had to move)."""

    series: int
    path: str
    marks: list[tuple[float, float]]
    name: str
    label: str
    end: tuple[float, float]
    label_y: float


@dataclass(frozen=True)
class LineChart:
    """One quantity over the optimisation steps, one line per run."""

    title: str
    width: float
    height: float
    left: float
    right: float
    bottom: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    averaged: int
    summary: str


@dataclass(frozen=True)
class Bin:
    """One bin of a histogram: kept tokens above the axis, dropped ones below."""

    x: float
    width: float
    up: float
    down: float
    text: str


@dataclass(frozen=True)
class HistogramChart:
    """Where the values of one signal lie, for kept and dropped tokens of one run."""

    signal: str
    run: str
    width: float
    height: float
    axis: float
    x_ticks: list[Tick]
    bins: list[Bin]
    counts: list[str]


@dataclass(frozen=True)
class IntervalRow:
    """One run's difference to its control."""

    series: int
    name: str
    y: float
    centre: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class IntervalChart:
    """Paired differences to the control with their 95 % intervals, around a line at zero."""

    width: float
    height: float
    left: float
    zero: float
    x_ticks: list[Tick]
    rows: list[IntervalRow]


def curve_charts(runs: Sequence[Run]) -> list[LineChart]:
    """Draw one chart per quantity that any run logged; loss, NLL of kept and dropped tokens and share kept come first."""
    logged = dict.fromkeys(
        key for run in runs for point in run.curves for key in point if key not in ("step", "epoch")
    )
    keys = [key for key in _FIRST_CURVES if key in logged] + [
        key for key in logged if key not in _FIRST_CURVES
    ]
    charts = (_line_chart(key, runs) for key in keys)
    return [chart for chart in charts if chart is not None]


def histogram_chart(
    signal: str, histogram: Histogram, span: tuple[float, float], run: str = "", chosen: bool = True
) -> HistogramChart:
    """Draw one histogram over `span` (lowest and highest edge), kept tokens up and dropped tokens down.

    The area of a bar is its count, so bins of unequal width stay honest. Without a choice (`chosen` false) all tokens
    stand in the counts of kept ones.
    """
    width, height, margin = 320.0, 150.0, 8.0
    edges, kept, dropped = (
        np.asarray(each, dtype=float) for each in (histogram.edges, histogram.kept, histogram.dropped)
    )
    widths = np.diff(edges)
    widths = np.where(widths > 0, widths, widths[widths > 0].min(initial=1.0))
    up, down = kept / widths, dropped / widths
    scale = (height - 22.0 - 2 * margin) / max(up.max(initial=0.0) + down.max(initial=0.0), 1e-12)
    place = Axis(span[0], span[1], margin, width - margin)
    bins = [
        Bin(
            x=place(low),
            width=round(max(place(high) - place(low), 0.6), 1),
            up=round(float(above * scale), 1),
            down=round(float(below * scale), 1),
            text=f"{low:.3g} to {high:.3g}: {', '.join(_counts(above * size, below * size, chosen))}",
        )
        for low, high, size, above, below in zip(edges[:-1], edges[1:], widths, up, down, strict=True)
        if above or below
    ]
    return HistogramChart(
        signal=signal,
        run=run,
        width=width,
        height=height,
        axis=round(margin + float(up.max(initial=0.0) * scale), 1),
        x_ticks=[Tick(place(value), text) for value, text in ticks(*span, count=4)],
        bins=bins,
        counts=_counts(kept.sum(), dropped.sum(), chosen),
    )


def interval_chart(runs: Sequence[Run]) -> IntervalChart | None:
    """Draw the paired differences of all runs that have one."""
    compared = [(series, run.name, run.paired) for series, run in enumerate(runs) if run.paired]
    drawn = [(s, name, p.estimate) for s, name, p in compared if math.isfinite(p.estimate.low)]
    if not drawn:
        return None
    width, left, right, row = 440.0, 128.0, 16.0, 28.0
    lowest = min(0.0, *(found.low for _, _, found in drawn))
    highest = max(0.0, *(found.high for _, _, found in drawn))
    pad = 0.06 * ((highest - lowest) or 1.0)
    place = Axis(lowest - pad, highest + pad, left, width - right)
    rows = [
        IntervalRow(
            series=series,
            name=shorten(name, LABEL_LENGTH + 5),
            y=18 + row * index,
            centre=place(found.value),
            low=place(found.low),
            high=place(found.high),
            text=f"{name}: {found.value:+.4f}, 95 % interval {found.low:+.4f} to {found.high:+.4f}",
        )
        for index, (series, name, found) in enumerate(drawn)
    ]
    marks = [Tick(place(value), text) for value, text in ticks(lowest - pad, highest + pad, count=6)]
    return IntervalChart(width, 18 + row * len(rows) + 26, left, place(0.0), marks, rows)


def signal_span(histograms: Sequence[Histogram]) -> tuple[float, float]:
    """The lowest and highest edge of several histograms of one signal, so that they share one axis; zero if it is near."""
    low, high = _span([(histogram.edges[0], histogram.edges[-1]) for histogram in histograms])
    return (0.0 if 0 < low < 0.1 * high else low), high


def _span(ranges: Sequence[tuple[float, float]]) -> tuple[float, float]:
    low, high = float(min(low for low, _ in ranges)), float(max(high for _, high in ranges))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _line_chart(key: str, runs: Sequence[Run]) -> LineChart | None:
    curves = [(series, run.name, *_points(run, key)) for series, run in enumerate(runs)]
    curves = [curve for curve in curves if len(curve[2])]
    if not curves:
        return None
    title = _CURVE_TITLES.get(key, label(key))
    thinned = [(series, name, *_thin(steps, values)) for series, name, steps, values in curves]
    steps_low, steps_high = _span([(steps.min(), steps.max()) for _, _, steps, _ in thinned])
    values_low, values_high = value_range(np.concatenate([values for _, _, _, values in thinned]))
    levels = ticks(values_low, values_high, count=5)
    width, height, right, top, bottom = 400.0, 220.0, 276.0, 12.0, 186.0
    left = max(42.0, 12.0 + 6.5 * max((len(text) for _, text in levels), default=0))
    across, up = Axis(steps_low, steps_high, left, right), Axis(values_low, values_high, bottom, top)
    placed = [
        (series, name, [(across(x), up(y)) for x, y in zip(steps, values, strict=True)], values[-1])
        for series, name, steps, values in thinned
    ]
    heights = spread_labels([points[-1][1] for _, _, points, _ in placed], top + 4, bottom)
    lines = [
        Line(
            series=series,
            path="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points),
            marks=[
                points[i] for i in sorted({round(f * (len(points) - 1)) for f in (0.0, 0.25, 0.5, 0.75, 1.0)})
            ],
            name=name,
            label=f"{shorten(name, LABEL_LENGTH)} {last:.3g}",
            end=points[-1],
            label_y=label_y,
        )
        for (series, name, points, last), label_y in zip(placed, heights, strict=True)
    ]
    said = "; ".join(f"{name} from {values[0]:.3g} to {values[-1]:.3g}" for _, name, _, values in thinned)
    return LineChart(
        title=title,
        width=width,
        height=height,
        left=left,
        right=right,
        bottom=bottom,
        x_ticks=[Tick(across(v), text) for v, text in ticks(steps_low, steps_high, count=5, whole=True)],
        y_ticks=[Tick(up(v), text) for v, text in levels],
        lines=lines,
        averaged=max(math.ceil(len(steps) / POINTS) for _, _, steps, _ in curves),
        summary=f"{title} over steps: {said}",
    )


def _points(run: Run, key: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps and finite values at which a run logged `key`; a point without a step is placed by its order."""
    found = [(point.get("step", float(i)), point[key]) for i, point in enumerate(run.curves) if key in point]
    finite = [(step, value) for step, value in found if math.isfinite(step) and math.isfinite(value)]
    steps, values = zip(*finite, strict=True) if finite else ((), ())
    return np.asarray(steps, dtype=float), np.asarray(values, dtype=float)


def _thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    starts = np.arange(0, len(steps), math.ceil(len(steps) / POINTS))
    sizes = np.diff(starts, append=len(steps))
    return np.add.reduceat(steps, starts) / sizes, np.add.reduceat(values, starts) / sizes


def _counts(kept: float, dropped: float, chosen: bool) -> list[str]:
    return [f"{kept:,.0f} kept", f"{dropped:,.0f} dropped"] if chosen else [f"{kept:,.0f} tokens"]
