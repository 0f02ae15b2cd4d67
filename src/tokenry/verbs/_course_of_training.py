"""The course of a training as its verb lays it out: some of its steps in a table, and curves over all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenry.report.blocks import Column, Figure, Series, Table

Curve = Sequence[Mapping[str, Any]]
"""Points of a training: `step`, and figures by name."""
_ROWS = 8


def course_table(
    curve: Curve, columns: Mapping[str, Column], held_out: tuple[str, Mapping[str, Any]] | None = None
) -> Table:
    """Steps at equal distances with the figures that have a column; what is held out follows in a row under its title."""
    shown = [(str(point["step"]), point) for point in curve[:: max(1, -(-len(curve) // _ROWS))]]
    rows = [(title, *map(point.get, columns)) for title, point in [*shown, *([held_out] if held_out else [])]]
    return Table("", ("step", *columns.values()), rows)


def course_figures(title: str, curve: Curve, names: Mapping[str, str], unit: str) -> list[Figure]:
    """A figure of curves over the steps; none of a single point.

    Args:
        title: of the figure.
        curve: the points.
        names: the figures to draw, and what they are called.
        unit: unit of all of them.
    """
    if len(curve) < 2:
        return []
    steps = [point["step"] for point in curve]
    series = [Series(called, steps, [point.get(name) for point in curve]) for name, called in names.items()]
    ends = {called: [curve[place].get(name) or 0.0 for place in (0, -1)] for name, called in names.items()}
    summary = "; ".join(f"{called} from {first:.3f} to {last:.3f}" for called, (first, last) in ends.items())
    return [Figure(title, "lines", series, "step", unit, summary)]
