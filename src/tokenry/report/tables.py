"""Every table of a result as CSV, with the numbers as they were measured: an estimate takes a column for its error and its count."""

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence

from tokenry.core.stats import Estimate
from tokenry.report.blocks import Block, Cell, Column, Section, Table, Value


def tables_as_csv(blocks: Iterable[Block]) -> dict[str, str]:
    """The tables by file name, `tables/NUMBER-TITLE.csv`."""
    files = {}
    for number, (title, table) in enumerate(_tables(blocks, ""), start=1):
        name = re.sub(r"[^a-z0-9]+", "-", (table.title or title).lower()).strip("-")[:60] or "table"
        files[f"tables/{number}-{name}.csv"] = _csv(table)
    return files


def _tables(blocks: Iterable[Block], title: str) -> Iterator[tuple[str, Table]]:
    for block in blocks:
        if isinstance(block, Section):
            yield from _tables(block.blocks, block.title)
        elif isinstance(block, Table):
            yield title, block


def _csv(table: Table) -> str:
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\n")
    columns = [
        _column(column, [_value(row[place]) for row in table.rows])
        for place, column in enumerate(table.headings)
    ]
    rows.writerow([name for names, _ in columns for name in names])
    for number in range(len(table.rows)):
        rows.writerow([cell for _, cells in columns for cell in cells[number]])
    return written.getvalue()


def _column(column: Column, values: Sequence[Value]) -> tuple[list[str], list[list[str]]]:
    name = f"{column.name} ({column.unit})" if column.unit and column.unit != "%" else column.name
    if not any(isinstance(value, Estimate) for value in values):
        return [name], [[_text(value)] for value in values]
    names = [name, f"{name}: standard error", f"{name}: n"]
    cells = [
        [_text(value.value), _text(value.standard_error), str(value.samples)]
        if isinstance(value, Estimate)
        else [_text(value), "", ""]
        for value in values
    ]
    return names, cells


def _value(cell: Value | Cell) -> Value:
    return cell.value if isinstance(cell, Cell) else cell


def _text(value: Value) -> str:
    """Numbers in full; a text that a spreadsheet would take for a formula is marked as text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text[:1] in "=+-@\t\r" else text
