"""Formatting of values, the same on a page, in a terminal and in the documentation.

A mean stands beside its standard error, with as many decimals as the smallest error of its column needs; a minus is a minus sign,
what is missing is a dash.
"""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from tokenry.core.stats import Estimate
from tokenry.report.blocks import Cell, Column, Table, Value

MISSING = "–"
_LEAST_DECIMALS, _MOST_DECIMALS = 3, 6


def written_rows(table: Table) -> list[list[tuple[str, str]]]:
    """Value and note of every cell as text, row by row."""
    headings = table.headings
    written = [
        _written_column(column, [row[place] for row in table.rows]) for place, column in enumerate(headings)
    ]
    return [list(row) for row in zip(*written, strict=True)]


def setting_pairs(settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Settings as names and words, without those that are None."""
    return [
        (name.replace("_", " "), written_setting(value))
        for name, value in settings.items()
        if value is not None
    ]


def written_setting(value: Any) -> str:
    """The value of a setting: text and numbers as they are, anything nested as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def plural(count: int, noun: str, several: str = "") -> str:
    """A count with its noun: `1 sample`, `2 samples`."""
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"


def is_number(column: Column, cells: Iterable[Value | Cell]) -> bool:
    """Whether a column holds numbers, and is aligned to the right."""
    return bool(column.format or column.unit) or all(not isinstance(_value(cell), str) for cell in cells)


def _value(cell: Value | Cell) -> Value:
    return cell.value if isinstance(cell, Cell) else cell


def _written_column(column: Column, cells: Sequence[Value | Cell]) -> list[tuple[str, str]]:
    decimals = decimals_of(
        value.standard_error for cell in cells if isinstance(value := _value(cell), Estimate)
    )
    return [
        (_written(column, _value(cell), decimals), cell.note if isinstance(cell, Cell) else "")
        for cell in cells
    ]


def _written(column: Column, value: Value, decimals: int) -> str:
    if value is None:
        return MISSING
    if isinstance(value, str):
        return value
    scale = 100 if column.unit == "%" else 1
    if isinstance(value, Estimate):
        style = column.format or (".1f" if column.unit == "%" else f",.{decimals}f")
        number = written_number(scale * value.value, style)
        if math.isnan(value.standard_error):
            return number
        return f"{number} ± {written_number(scale * value.standard_error, style.removeprefix('+'))}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    default = "," if isinstance(value, int) and scale == 1 else ".1f" if scale == 100 else ".4g"
    return written_number(scale * value, column.format or default)


def written_number(value: float | int, style: str) -> str:
    """A number in a Python format, with a minus sign."""
    if not math.isfinite(value):
        return "not finite"
    return format(value, style).replace("-", "−", 1 if format(value, style).startswith("-") else 0)


def decimals_of(errors: Iterable[float]) -> int:
    """Number of decimals at which the smallest error is visible."""
    smallest = min((error for error in errors if error > 0 and math.isfinite(error)), default=1.0)
    return max(_LEAST_DECIMALS, min(_MOST_DECIMALS, -math.floor(math.log10(smallest))))
