"""Charts of token reduction: how many tokens each layer sees, and how agreement and accuracy fall with FLOPs and rise against speed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tokenry.core.stats import Estimate
from tokenry.core.vision_records import Reduced, VisionRun
from tokenry.report.axes import LABEL_LENGTH, Axis, Tick, shorten, spread_labels, ticks, value_range
from tokenry.report.charts import Line

_WIDTH, _HEIGHT, _RIGHT, _TOP, _BOTTOM = 460.0, 250.0, 336.0, 12.0, 204.0
_LONGEST_LABEL = LABEL_LENGTH + 6


@dataclass(frozen=True)
class Whisker:
    """A standard error around one point: where, from and to."""

    series: int
    x: float
    low: float
    high: float


@dataclass(frozen=True)
class CurveChart:
    """Lines over one quantity; `across` names it."""

    title: str
    across: str
    width: float
    height: float
    left: float
    right: float
    bottom: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    whiskers: list[Whisker]
    summary: str


@dataclass(frozen=True)
class _Curve:
    series: int
    name: str
    x: Sequence[float]
    y: Sequence[float]
    errors: Sequence[float] = ()


def token_chart(record: VisionRun) -> CurveChart | None:
    """Draw how many tokens enter each layer, and leave the last, with each setting."""
    if not record.results:
        return None
    layers = [float(layer) for layer in range(len(record.results[0].token_counts))]
    dense = _Curve(0, "unpatched", layers, [float(record.unpatched.tokens)] * len(layers))
    curves = [
        _Curve(series, each.name, layers, [float(count) for count in each.token_counts])
        for series, each in enumerate(record.results, start=1)
    ]
    return _chart("tokens", "after layer", [dense, *curves], marked=False, floor=0.0)


def trade_off_charts(record: VisionRun) -> list[CurveChart]:
    """Draw what is left of agreement and accuracy against the FLOPs and against the measured speed-up, a line per method."""
    dense = record.unpatched
    measures: list[tuple[str, Callable[[Reduced], Estimate | None], float, float]] = [
        ("accuracy, %", lambda each: each.accuracy, 100.0, dense.accuracy.value if dense.accuracy else 1.0),
        _AGREEMENT[record.agreement_of],
    ]
    quantities: list[tuple[str, Callable[[Reduced], float], float]] = [
        ("% of the FLOPs saved", lambda each: 100 * (1 - each.flops / dense.flops), 0.0),
        ("times as fast, measured", lambda each: each.speedup.median, 1.0),
    ]
    charts = []
    for title, measure, scale, unpatched in measures:
        for across, quantity, start in quantities:
            curves = _by_method(record.results, measure, scale, unpatched, quantity, start)
            if curves:
                charts.append(_chart(title, across, curves, marked=True))
    return charts


_AGREEMENT: dict[str, tuple[str, Callable[[Reduced], Estimate | None], float, float]] = {
    "top-1": ("same class as unpatched, %", lambda each: each.agreement, 100.0, 1.0),
    "features": ("cosine to the unpatched features", lambda each: each.agreement, 1.0, 1.0),
}


def methods(record: VisionRun) -> list[str]:
    """The methods of a run in order: the number of a method is that of its colour."""
    return list(dict.fromkeys(each.method for each in record.results))


def _by_method(
    results: Sequence[Reduced],
    measure: Callable[[Reduced], Estimate | None],
    scale: float,
    unpatched: float,
    quantity: Callable[[Reduced], float],
    start: float,
) -> list[_Curve]:
    curves = []
    for series, method in enumerate(dict.fromkeys(each.method for each in results), start=1):
        # From much to little: measured speed may go to and fro, and the line shows it.
        settings = sorted((each for each in results if each.method == method), key=lambda each: -each.flops)
        found = [(quantity(each), measure(each)) for each in settings]
        points = [(x, each) for x, each in found if each is not None]
        if points:
            x = [start, *(x for x, _ in points)]
            y = [scale * unpatched, *(scale * each.value for _, each in points)]
            errors = [0.0, *(scale * each.standard_error for _, each in points)]
            curves.append(_Curve(series, method, x, y, errors))
    return curves


def _chart(
    title: str, across: str, curves: Sequence[_Curve], marked: bool, floor: float | None = None
) -> CurveChart:
    x_low, x_high = _around([value for curve in curves for value in curve.x])
    y_low, y_high = value_range(np.array([value for curve in curves for value in curve.y], dtype=float))
    y_low = y_low if floor is None else floor
    levels = ticks(y_low, y_high, count=5)
    left = max(42.0, 12.0 + 6.5 * max((len(text) for _, text in levels), default=0))
    to_x, to_y = Axis(x_low, x_high, left, _RIGHT), Axis(y_low, y_high, _BOTTOM, _TOP)
    points = [[(to_x(x), to_y(y)) for x, y in zip(curve.x, curve.y, strict=True)] for curve in curves]
    heights = spread_labels([line[-1][1] for line in points], _TOP + 4, _BOTTOM)
    lines = [
        Line(
            series=curve.series,
            path="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line),
            marks=line[1:] if marked else [line[0], line[len(line) // 2], line[-1]],
            name=curve.name,
            label=f"{shorten(curve.name, _LONGEST_LABEL)} {curve.y[-1]:.3g}",
            end=line[-1],
            label_y=height,
        )
        for curve, line, height in zip(curves, points, heights, strict=True)
    ]
    whiskers = [
        Whisker(curve.series, to_x(x), to_y(max(y_low, y - error)), to_y(min(y_high, y + error)))
        for curve in curves
        for x, y, error in zip(curve.x, curve.y, curve.errors, strict=False)
        if error
    ]
    return CurveChart(
        title=title,
        across=across,
        width=_WIDTH,
        height=_HEIGHT,
        left=left,
        right=_RIGHT,
        bottom=_BOTTOM,
        x_ticks=[Tick(to_x(value), text) for value, text in ticks(x_low, x_high, count=6)],
        y_ticks=[Tick(to_y(value), text) for value, text in levels],
        lines=lines,
        whiskers=whiskers,
        summary=f"{title} over {across}: "
        + "; ".join(f"{curve.name} from {curve.y[0]:.3g} to {curve.y[-1]:.3g}" for curve in curves),
    )


def _around(values: Sequence[float]) -> tuple[float, float]:
    low, high = float(min(values)), float(max(values))
    pad = 0.02 * ((high - low) or 1.0)
    return low - pad, high + pad
