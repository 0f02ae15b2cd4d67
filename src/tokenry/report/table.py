"""The comparison in aligned numbers and plain words, written once for the page and for the terminal.

A mean stands beside its standard error, with as many decimals as the smallest error of its column needs.
What a difference shows is said by `core.stats.shown`.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from tokenry.core.records import Comparison, Example, Paired, Run
from tokenry.core.stats import Estimate, Verdict
from tokenry.report.text import harmless

MISSING = "–"

_WAYS: Mapping[Verdict, str] = {"shown": "lower", "opposite": "higher"}


@dataclass(frozen=True)
class Cell:
    """One value as it is printed, and a smaller note below it."""

    value: str = MISSING
    note: str = ""

    @property
    def absent(self) -> bool:
        """Whether there is nothing to read here."""
        return self.value == MISSING and not self.note


@dataclass(frozen=True)
class Column:
    """One measure of every run, in the order of the rows."""

    title: str
    unit: str
    cells: list[Cell]


@dataclass(frozen=True)
class ClassCell:
    """What one run learned of one token class; all numbers but the counts are fractions in [0, 1].

    `share` is the share kept of the class, `part` the part of this class in all that was learned from, and
    `plain` the part it has when every token is learned from (plain SFT).
    """

    tokens: int
    kept: float
    share: float
    part: float
    plain: float

    @property
    def counts(self) -> str:
        """How much of the class was learned from, in tokens (weights summed)."""
        return f"{_count(self.kept)} of {self.tokens:,}"


@dataclass(frozen=True)
class ClassTable:
    """Share kept by token class: `cells[class][run]`, `None` where a run has no such class."""

    classes: list[str]
    runs: list[str]
    cells: list[list[ClassCell | None]]


def verdict(paired: Paired, decimals: int = 3) -> str:
    """Say in plain words what a paired difference of held-out NLL shows."""
    error, signed = _number(paired.standard_error, decimals), _signed(paired.difference, decimals)
    if paired.verdict in _WAYS:
        size = _number(abs(paired.difference), decimals)
        return f"{_WAYS[paired.verdict]} than {paired.to} by {size} ± {error}: shown"
    if paired.verdict == "too few":
        return f"too few held-out items to say whether it differs from {paired.to} ({signed} ± {error}, n = {paired.samples})"
    return f"no difference to {paired.to} can be told ({signed} ± {error})"


def findings(comparison: Comparison) -> list[tuple[str, str]]:
    """List what the comparison shows: a run's name and its verdict, for every run that was compared."""
    decimals = _decimals(run.paired.standard_error for run in comparison.runs if run.paired)
    return [(run.name, verdict(run.paired, decimals)) for run in comparison.runs if run.paired]


def comparison_rows(comparison: Comparison) -> list[tuple[str, str]]:
    """Name the rows of the comparison: a name and the weighing, the model before training first if it was measured."""
    untrained = [("before training", "")] if comparison.untrained_nll else []
    return untrained + [
        (run.name, run.weighing if run.weighing != run.name else "") for run in comparison.runs
    ]


def comparison_columns(comparison: Comparison) -> list[Column]:
    """Lay out every measure that at least one run has; rows as in `comparison_rows`."""
    runs = comparison.runs
    before = [Cell()] if comparison.untrained_nll else []
    nll = [comparison.untrained_nll] if comparison.untrained_nll else []
    columns = [
        Column("held-out NLL", "nats per token", _estimates([*nll, *(run.held_out_nll for run in runs)])),
        Column("difference to the control", "nats per token", before + _differences(runs)),
        Column("accuracy", "%", before + _estimates([run.accuracy for run in runs], percent=True)),
        Column("bits per byte", "", before + [_optional(run.bits_per_byte, "{:.3f}") for run in runs]),
        Column("learned from", "tokens", before + [Cell(_count(run.tokens_learned)) for run in runs]),
        Column("share kept", "%", before + [Cell(_percent(run.share_kept)) for run in runs]),
        Column("steps", "", before + [Cell(f"{run.steps:,}") for run in runs]),
        Column("time per step", "seconds", before + [Cell(_seconds(run.seconds_per_step)) for run in runs]),
        Column("peak memory", "MB", before + [_optional(run.peak_memory_mb, "{:,.0f}") for run in runs]),
    ]
    return [column for column in columns if not all(cell.value == MISSING for cell in column.cells)]


def comparison_table(comparison: Comparison) -> Table:
    """Draw the comparison for a terminal: a column per run, a row per measure, the findings in words below."""
    words = [f"{name}: {said}" for name, said in findings(comparison)]
    if comparison.untrained_nll:
        (untrained,) = _estimates([comparison.untrained_nll])
        words.insert(0, f"before training: held-out NLL {untrained.value}, {untrained.note}")
    words += comparison.notes
    table = Table(
        title=Text(harmless(f"{comparison.model} on {comparison.data}"), style="bold"),
        title_justify="left",
        caption=Text(harmless("\n".join(words))) if words else None,
        caption_justify="left",
        box=None,
        padding=(0, 1),
        pad_edge=False,
        header_style="bold",
    )
    table.add_column("")
    for run in comparison.runs:
        table.add_column(Text(harmless(run.name)), justify="right", overflow="fold")
    for column in comparison_columns(comparison.model_copy(update={"untrained_nll": None})):
        measure = Text(", ".join(filter(None, (column.title, column.unit))), style="dim")
        table.add_row(measure, *map(_terminal_cell, column.cells))
    return table


def class_table(runs: Sequence[Run]) -> ClassTable | None:
    """Gather the share kept by token class of all runs that know it, the largest class first."""
    known = [run for run in runs if run.share_by_class]
    tokens: dict[str, int] = {}
    for run in known:
        for name, share in run.share_by_class.items():
            tokens[name] = max(tokens.get(name, 0), share.tokens)
    classes = sorted(tokens, key=lambda name: (-tokens[name], name))
    cells = [[_class_cell(run, name) for run in known] for name in classes]
    return ClassTable(classes, [run.name for run in known], cells) if known else None


def signal_values(examples: Iterable[Example]) -> dict[str, np.ndarray]:
    """Collect the finite values of every signal over all tokens, in the order the signals first appear."""
    values: dict[str, list[float]] = {}
    for example in examples:
        for token in example.tokens:
            for name, value in token.signals.items():
                if math.isfinite(value):
                    values.setdefault(name, []).append(value)
    return {name: np.asarray(found) for name, found in values.items()}


def setting(value: Any) -> str:
    """Write the value of a setting: text and numbers as they are, anything nested as JSON."""
    if value is None:
        return "not set"
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _class_cell(run: Run, name: str) -> ClassCell | None:
    share = run.share_by_class.get(name)
    if share is None or share.tokens == 0:
        return None
    kept = sum(each.kept for each in run.share_by_class.values())
    tokens = sum(each.tokens for each in run.share_by_class.values())
    return ClassCell(
        tokens=share.tokens,
        kept=share.kept,
        share=share.kept / share.tokens,
        part=share.kept / kept if kept else 0.0,
        plain=share.tokens / tokens,
    )


def _estimates(estimates: Sequence[Estimate | None], percent: bool = False) -> list[Cell]:
    scale = 100.0 if percent else 1.0
    decimals = 1 if percent else _decimals(each.standard_error for each in estimates if each)
    return [
        Cell(
            f"{_number(scale * each.value, decimals)} ± {_number(scale * each.standard_error, decimals)}",
            f"n = {each.samples:,}",
        )
        if each
        else Cell()
        for each in estimates
    ]


def _differences(runs: Sequence[Run]) -> list[Cell]:
    controls = {run.paired.to for run in runs if run.paired}
    decimals = _decimals(run.paired.standard_error for run in runs if run.paired)
    return [
        Cell(
            f"{_signed(run.paired.difference, decimals)} ± {_number(run.paired.standard_error, decimals)}",
            f"{_short_verdict(run.paired)}, n = {run.paired.samples:,}",
        )
        if run.paired
        else Cell(MISSING, "the control" if run.name in controls else "")
        for run in runs
    ]


def _short_verdict(paired: Paired) -> str:
    if paired.verdict in _WAYS:
        return f"{_WAYS[paired.verdict]}: shown"
    return "too few to say" if paired.verdict == "too few" else "cannot be told"


def _terminal_cell(cell: Cell) -> Text:
    text = Text(harmless(cell.value))
    return text.append("\n" + harmless(cell.note).replace(", ", "\n"), style="dim") if cell.note else text


def _decimals(errors: Iterable[float]) -> int:
    """As many decimals as the smallest error needs to be seen, at least 3 and at most 6."""
    smallest = min((error for error in errors if error > 0 and math.isfinite(error)), default=1.0)
    return max(3, min(6, -math.floor(math.log10(smallest))))


def _number(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}".replace("-", "−") if math.isfinite(value) else "not finite"


def _signed(value: float, decimals: int) -> str:
    return ("+" if value > 0 else "−" if value < 0 else "") + _number(abs(value), decimals)


def _count(value: float) -> str:
    return _number(value, 1).removesuffix(".0")


def _percent(value: float) -> str:
    return _number(100 * value, 1)


def _seconds(value: float) -> str:
    return _number(value, 2 if value >= 1 else 3)


def _optional(value: float | None, pattern: str) -> Cell:
    return Cell() if value is None else Cell(pattern.format(value))
