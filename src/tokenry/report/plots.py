"""Charts: one style for pages, recipes and documentation, drawn by matplotlib.

On a page a chart is inline SVG whose colours are the page's own CSS variables, so it follows light, dark and print; series differ by
marker and dash as well as by colour. The same data gives the same bytes.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from tokenry.report.blocks import Figure, Series
from tokenry.report.text import harmless

# Stand-ins that the page's variables replace: no other colour of a drawing can be mistaken for one of them.
_SERIES = [f"#01010{number}" for number in range(1, 9)]
_INK, _QUIET, _RULE = "#020201", "#020202", "#020203"
_VARIABLES = {
    **{colour: f"var(--s{number})" for number, colour in enumerate(_SERIES)},
    _INK: "var(--ink)",
    _QUIET: "var(--quiet)",
    _RULE: "var(--rule)",
}
_PRINTED = ["#3d4248", "#0b5a9d", "#a8480c", "#0f6e4f", "#7d3c8c", "#7a5a00", "#0b6b75", "#b02a56"]
_MARKERS, _DASHES = (
    "osD^vPX*",
    ("-", "--", ":", "-.", (0, (4, 3)), (0, (9, 3, 2, 3)), (0, (1, 3)), (0, (6, 2))),
)
_WIDTH, _HEIGHT = 5.0, 2.9
_ROW_HEIGHT, _LABEL_LENGTH = 0.24, 28


def style(
    colours: Sequence[str] = _PRINTED, ink: str = "#1b1d20", quiet: str = "#5a5f66", rule: str = "#dedcd4"
) -> dict[str, Any]:
    """Matplotlib settings of every chart of the house."""
    return {
        "svg.hashsalt": "tokenry",
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.family": "sans-serif",
        "font.size": 10.5,
        "axes.titlesize": 10.5,
        "axes.labelsize": 10.5,
        "legend.fontsize": 10.5,
        "xtick.labelsize": 10.5,
        "ytick.labelsize": 10.5,
        "text.color": ink,
        "axes.edgecolor": quiet,
        "axes.labelcolor": ink,
        "xtick.color": quiet,
        "ytick.color": quiet,
        "xtick.labelcolor": ink,
        "ytick.labelcolor": ink,
        "axes.prop_cycle": cycler(color=colours),
        "axes.grid": True,
        "grid.color": rule,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "legend.frameon": False,
    }


def inline_svg(figure: Figure) -> str:
    """Draw a figure as SVG that stands inside a page and follows its colours."""
    figure = _harmless(figure)
    with mpl.rc_context(style(_SERIES, _INK, _QUIET, _RULE)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # text stays text: the reader's fonts draw it
        canvas = Canvas(figsize=_size(figure), layout="constrained")
        _draw(canvas.subplots(), figure)
        written = io.StringIO()
        # Identifiers differ between figures of one page.
        with mpl.rc_context({"svg.hashsalt": f"tokenry {figure.title}"}):
            canvas.savefig(written, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = written.getvalue()
    svg = re.sub(
        r'<g id="[^"]*">', "<g>", svg[svg.index("<svg") :]
    )  # names of groups, the same in every figure
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(figure.summary or figure.title)}" ', 1)


def _harmless(figure: Figure) -> Figure:
    """The figure with names that an SVG can hold."""
    series = [
        replace(
            line,
            name=harmless(line.name),
            x=[harmless(place) if isinstance(place, str) else place for place in line.x],
        )
        for line in figure.series
    ]
    return replace(
        figure,
        series=series,
        title=harmless(figure.title),
        x_label=harmless(figure.x_label),
        y_label=harmless(figure.y_label),
        summary=harmless(figure.summary),
    )


@contextmanager
def picture(path: Path, size: tuple[float, float] = (7.0, 4.0), panels: int = 1) -> Iterator[list[Axes]]:
    """Draw a PNG of `panels` charts side by side, written to `path` when the block ends."""
    with mpl.rc_context({**style(), "figure.facecolor": "white"}):
        canvas = Canvas(figsize=size, layout="constrained")
        axes = canvas.subplots(1, panels, squeeze=False)[0]
        yield list(axes)
        path.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(path, dpi=150)


def _size(figure: Figure) -> tuple[float, float]:
    if figure.kind != "intervals":
        return _WIDTH, _HEIGHT + 0.26 * (len(figure.series) > 1) * -(-len(figure.series) // 2)
    return _WIDTH, 0.9 + _ROW_HEIGHT * max(1, len(_categories(figure.series))) + 0.26 * len(figure.series)


def _draw(axes: Axes, figure: Figure) -> None:
    {"lines": _lines, "intervals": _intervals, "histogram": _histogram}[figure.kind](axes, figure)
    axes.set(xlabel=figure.x_label, ylabel=figure.y_label)
    if figure.limits is not None:
        (axes.set_xlim if figure.kind == "intervals" else axes.set_ylim)(*figure.limits)
    if len(figure.series) > 1:
        axes.figure.legend(loc="outside upper left", ncols=2 if figure.kind != "intervals" else 1)


def _lines(axes: Axes, figure: Figure) -> None:
    for place, series in enumerate(figure.series):
        number = place if series.look is None else series.look
        across = np.array(series.x, dtype=float)
        up = np.array([np.nan if value is None else value for value in series.y], dtype=float)
        look: dict[str, Any] = {
            "marker": _MARKERS[number % len(_MARKERS)],
            "linestyle": _DASHES[number % len(_DASHES)],
            "color": f"C{number}",
            "markersize": 4,
            "markevery": max(1, len(across) // 12),
            "label": shorten(series.name),
        }
        if len(series.low):
            axes.errorbar(across, up, yerr=_errors(series, up), capsize=2, **look)
        else:
            axes.plot(across, up, **look)
    if all(float(x).is_integer() for series in figure.series for x in series.x):
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    if figure.reference is not None:
        axes.axhline(figure.reference, color=mpl.rcParams["axes.edgecolor"], linewidth=1)
    if figure.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")


def _intervals(axes: Axes, figure: Figure) -> None:
    categories = _categories(figure.series)
    rows = {name: len(categories) - 1 - place for place, name in enumerate(categories)}
    spread = 0.6 / max(1, len(figure.series))
    for number, series in enumerate(figure.series):
        values = np.array([np.nan if value is None else value for value in series.y], dtype=float)
        offset = spread * ((len(figure.series) - 1) / 2 - number)
        axes.errorbar(
            values,
            [rows[str(name)] + offset for name in series.x],
            xerr=_errors(series, values) if len(series.low) else None,
            fmt=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            capsize=2,
            label=shorten(series.name),
        )
    axes.set_yticks(list(rows.values()), [shorten(name) for name in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(axis="y", visible=False)
    if figure.logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
    if figure.reference is not None:
        axes.axvline(figure.reference, color=mpl.rcParams["axes.edgecolor"], linewidth=1)


def _histogram(axes: Axes, figure: Figure) -> None:
    for number, (series, way) in enumerate(zip(figure.series, (1, -1), strict=False)):
        axes.stairs(
            [way * (value or 0) for value in series.y],
            [float(edge) for edge in series.x],
            fill=number == 0,
            label=series.name,
        )
    axes.axhline(0, color=mpl.rcParams["axes.edgecolor"], linewidth=1)
    axes.yaxis.set_major_locator(MaxNLocator(nbins="auto", steps=[1, 2, 5, 10], integer=True))
    axes.yaxis.set_major_formatter(lambda count, _: f"{abs(count):,.0f}")


def _errors(series: Series, values: np.ndarray) -> np.ndarray:
    below, above = values - np.array(series.low, dtype=float), np.array(series.high, dtype=float) - values
    return np.clip(np.nan_to_num(np.stack([below, above])), 0, None)


def _categories(series: Sequence[Series]) -> list[str]:
    return list(dict.fromkeys(str(name) for line in series for name in line.x))


def shorten(name: str) -> str:
    """A name that fits beside a chart."""
    return name if len(name) <= _LABEL_LENGTH else f"{name[: _LABEL_LENGTH - 1]}…"
