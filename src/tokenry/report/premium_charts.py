"""The premium map as geometry: a row per language, the dearest on top, a dot with its interval per tokenizer, on a logarithmic axis."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tokenry.report.axes import Tick, shorten
from tokenry.tokenization.premiums.premium_table import PremiumTable

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 660.0, 190.0, 640.0, 22.0, 17.0
_LONGEST_NAME = 26
_STEPS = (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


@dataclass(frozen=True)
class Dot:
    """One premium: where its dot stands, and from where to where its interval goes."""

    series: int
    x: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class DotRow:
    """One language."""

    name: str
    y: float
    dots: list[Dot]


@dataclass(frozen=True)
class DotPlot:
    """All languages under one group of tokenizers."""

    title: str
    width: float
    height: float
    left: float
    bottom: float
    one: float
    x_ticks: list[Tick]
    rows: list[DotRow]
    series: list[str]
    summary: str


def premium_plots(tables: Sequence[PremiumTable], names: dict[str, str]) -> list[DotPlot]:
    """Draw one plot per group, all on the same axis.

    Args:
        tables: of one or more groups.
        names: of languages, where they are known.
    """
    edges = [
        edge for table in tables for row in table.languages for edge in (row.premium.low, row.premium.high)
    ]
    low, high = min(1.0, *edges) / 1.04, max(1.0, *edges) * 1.04
    groups = dict.fromkeys(table.group for table in tables)
    return [
        _plot(group, [table for table in tables if table.group == group], names, low, high)
        for group in groups
    ]


def _plot(
    group: str, tables: Sequence[PremiumTable], names: dict[str, str], low: float, high: float
) -> DotPlot:
    def across(value: float) -> float:
        share = math.log(value / low) / math.log(high / low)
        return round(_LEFT + share * (_RIGHT - _LEFT), 1)

    premiums = [{row.language: row.premium for row in table.languages} for table in tables]
    changed = [{row.language for row in table.not_given_back} for table in tables]
    # As the first tokenizer has them.
    order = [row.language for row in tables[0].languages]
    rows = [
        DotRow(
            shorten(names.get(language, language), _LONGEST_NAME),
            round(_TOP + _ROW * place, 1),
            [
                Dot(
                    series,
                    across(of[language].value),
                    across(of[language].low),
                    across(of[language].high),
                    f"{names.get(language, language)}, {table.name}: {of[language].value:.3f} "
                    f"(95 %: {of[language].low:.3f} to {of[language].high:.3f})"
                    + "; texts do not come back"
                    * (language in lost),
                )
                for series, (table, of, lost) in enumerate(
                    zip(tables, premiums, changed, strict=True), start=1
                )
            ],
        )
        for place, language in enumerate(order)
    ]
    bottom = _TOP + _ROW * len(rows)
    said = "; ".join(
        f"{table.name}: {table.languages[0].language} {table.languages[0].premium.value:.2f} to "
        f"{table.languages[-1].language} {table.languages[-1].premium.value:.2f}"
        for table in tables
    )
    return DotPlot(
        title=group,
        width=_WIDTH,
        height=bottom + 24,
        left=_LEFT,
        bottom=bottom,
        one=across(1.0),
        x_ticks=[Tick(across(float(step)), f"{step:g}") for step in _shown_steps(low, high)],
        rows=rows,
        series=[table.name for table in tables],
        summary=f"token premiums{', ' * bool(group)}{group}: {said}",
    )


def _shown_steps(low: float, high: float) -> list[float]:
    """Round ratios on the axis; every second one of many."""
    inside = [float(step) for step in _STEPS if low <= step <= high]
    return (
        inside
        if len(inside) <= 9
        else [step for step in inside if step in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)]
    )
