"""What token reduction saves and costs, in aligned numbers, written once for the page and for the terminal.

A mean stands beside its standard error; a speed-up is the median of the rounds, with its quartiles below.
"""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from tokenry.core.stats import Estimate
from tokenry.core.vision_records import Reduced, Speed, VisionRun
from tokenry.report.table import MISSING, Cell, Column
from tokenry.report.text import harmless

UNPATCHED = "unpatched"


def vision_columns(record: VisionRun) -> list[Column]:
    """Lay out every measure that the run has; the first row is the unpatched model."""
    dense, results = record.unpatched, record.results
    agreement, unit = _AGREEMENT[record.agreement_of]
    columns = [
        Column("tokens", "", [Cell(f"{dense.tokens:,}"), *map(_tokens, results)]),
        Column("FLOPs", "% of all", [_flops(dense.flops, dense.flops), *(_flops(each.flops, dense.flops) for each in results)]),
        Column("speed-up", "wall time", [Cell("1"), *map(_speedup, results)]),
        Column("by CPU time", "", [Cell("1"), *(Cell(f"{each.cpu_speedup:.2f}×") for each in results)]),
        Column("images per second", "", [_rate(dense.speed), *(_rate(each.speed) for each in results)]),
        Column("peak memory", "MB", [_memory(dense.speed), *(_memory(each.speed) for each in results)]),
        Column("time spent reducing", "%", [Cell(), *(Cell(f"{100 * each.reduction_share:.1f}") for each in results)]),
        Column(agreement, unit, [Cell(), *(_estimate(each.agreement, unit) for each in results)]),
        Column("accuracy", "%", [_estimate(dense.accuracy, "%"), *map(_accuracy, results)]),
    ]  # fmt: skip
    return [column for column in columns if not all(cell.absent for cell in column.cells)]


_AGREEMENT = {"top-1": ("same class", "%"), "features": ("cosine of features", "")}


def vision_table(record: VisionRun) -> Table:
    """Draw the run for a terminal, the findings in words below; a sweep has a row per setting, else settings have columns."""
    words = [
        *(f"{name}: {said}" for name, said in record.findings),
        *(f"note: {note}" for note in record.notes),
    ]
    table = Table(
        title=Text(harmless(f"{record.model} on {record.number_of_images:,} images"), style="bold"),
        title_justify="left",
        caption=Text(harmless("\n".join(words))),
        caption_justify="left",
        box=None,
        padding=(0, 1),
        pad_edge=False,
        header_style="bold",
    )
    (_by_rows if record.swept else _by_columns)(table, names(record.results), vision_columns(record))
    return table


def names(results: Sequence[Reduced]) -> list[str]:
    """The settings of a run, the unpatched model first."""
    return [UNPATCHED, *(each.name for each in results)]


def _by_columns(table: Table, settings: Sequence[str], columns: Sequence[Column]) -> None:
    table.add_column("")
    for name in settings:
        table.add_column(Text(harmless(name)), justify="right", overflow="fold")
    for column in columns:
        measure = Text(", ".join(filter(None, (column.title, column.unit))), style="dim")
        table.add_row(measure, *map(_terminal_cell, column.cells))


_OF_A_SWEEP = ("FLOPs", "speed-up", "by CPU time", "same class", "cosine of features", "accuracy")


def _by_rows(table: Table, settings: Sequence[str], columns: Sequence[Column]) -> None:
    shown = [column for column in columns if column.title in _OF_A_SWEEP]
    table.add_column("")
    for column in shown:
        head = "\n".join((column.title, column.unit)) if column.unit else column.title
        table.add_column(Text(head, style="dim"), justify="right")
    for row, name in enumerate(settings):
        table.add_row(
            Text(harmless(name), style="bold", overflow="fold"),
            *(Text(column.cells[row].value) for column in shown),
        )


def _terminal_cell(cell: Cell) -> Text:
    text = Text(cell.value)
    return text.append(f"\n{cell.note}", style="dim") if cell.note else text


def _tokens(setting: Reduced) -> Cell:
    return Cell(f"{setting.token_counts[0]:,} → {setting.token_counts[-1]:,}")


def _flops(flops: int, dense: int) -> Cell:
    return Cell(f"{100 * flops / dense:.1f}", f"{flops / 1e9:,.3g} G")


def _speedup(setting: Reduced) -> Cell:
    spread = setting.speedup
    return Cell(f"{spread.median:.2f}×", f"{spread.lower:.2f} to {spread.upper:.2f}")


def _rate(speed: Speed) -> Cell:
    return Cell(_number(speed.images_per_second), f"{_number(speed.images_per_cpu_second)} per CPU second")


def _memory(speed: Speed) -> Cell:
    return Cell(_number(speed.peak_memory_mb))


def _accuracy(setting: Reduced) -> Cell:
    cell, change = _estimate(setting.accuracy, "%"), setting.accuracy_change
    if change is None:
        return cell
    signed = f"{100 * change.value:+.1f}".replace("-", "−")
    return Cell(cell.value, f"{signed} ± {100 * change.standard_error:.1f}")


def _estimate(estimate: Estimate | None, unit: str) -> Cell:
    if estimate is None:
        return Cell(MISSING)
    if unit == "%":
        return Cell(f"{100 * estimate.value:.1f} ± {100 * estimate.standard_error:.1f}")
    return Cell(f"{estimate.value:.4f} ± {estimate.standard_error:.4f}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
