"""What a result is laid out in: text, tables, figures and pictures of tokens, as data that every renderer draws.

A verb lays its measurements out in blocks; the terminal, the HTML page and the documentation draw the same blocks. Numbers stay
numbers until then: a column says how its numbers are written.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tokenry.core.stats import Estimate

Value = str | int | float | Estimate | None
"""A value in a table; None for a missing one."""


@dataclass(frozen=True)
class Cell:
    """A value with a smaller note below it."""

    value: Value
    note: str = ""


@dataclass(frozen=True)
class Column:
    """One measure of a table.

    Attributes:
        name: heading of the column.
        unit: unit of its numbers, below the heading; `%` writes fractions as percentages.
        format: Python format of its numbers; empty writes whole numbers with separators, other numbers with four digits, and an
            estimate with as many decimals as the smallest error of the column needs.
    """

    name: str
    unit: str = ""
    format: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        kind: `lead` opens a page, `note` explains, `warning` must not be missed.
    """

    text: str
    kind: Literal["lead", "note", "warning"] = "note"


@dataclass(frozen=True)
class Findings:
    """Findings in one sentence each, with the name of their subject."""

    sentences: Sequence[tuple[str, str]]
    title: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of values under named columns.

    Attributes:
        title: what the table shows.
        columns: headings; strings are columns of text or of plainly written numbers.
        rows: one value per column; the first names the row.
        notes: sentences below the table.
        folded: left out of the terminal, and folded on a page.
    """

    title: str
    columns: Sequence[Column | str]
    rows: Sequence[Sequence[Value | Cell]]
    notes: Sequence[str] = ()
    folded: bool = False

    @property
    def headings(self) -> list[Column]:
        """The columns, strings included."""
        return [Column(column) if isinstance(column, str) else column for column in self.columns]


@dataclass(frozen=True)
class Series:
    """One line, one set of intervals, or one side of a histogram.

    Attributes:
        name: what the legend calls it.
        x: positions; names of categories for intervals; edges (one more than counts) for a histogram.
        y: values; None leaves a gap.
        low: lower ends of intervals, or nothing.
        high: upper ends of intervals, or nothing.
        look: number of its colour, marker and dash, where it must look alike in several charts; by default its place.
    """

    name: str
    x: Sequence[float | int | str]
    y: Sequence[float | int | None]
    low: Sequence[float | int] = ()
    high: Sequence[float | int] = ()
    look: int | None = None


@dataclass(frozen=True)
class Figure:
    """A chart; the numbers it shows stand in a table beside it.

    Attributes:
        title: what the chart shows.
        kind: `lines` over a quantity, `intervals` per category, or a `histogram` of what was kept (up) and dropped (down).
        series: what is drawn.
        x_label: quantity and unit of the horizontal axis.
        y_label: quantity and unit of the vertical axis.
        summary: the chart in words, for readers who cannot see it.
        reference: value at which a line is drawn: no difference, no premium.
        logarithmic: whether the axis of the values is logarithmic.
        limits: ends of the axis of the values, so that charts can be compared; by default as the values need them.
    """

    title: str
    kind: Literal["lines", "intervals", "histogram"]
    series: Sequence[Series]
    x_label: str = ""
    y_label: str = ""
    summary: str = ""
    reference: float | int | None = None
    logarithmic: bool = False
    limits: tuple[float, float] | None = None
    folded: bool = False


@dataclass(frozen=True)
class Token:
    """One token of a heat-map.

    Attributes:
        text: the token's text.
        state: outcome of the choice; `open` if nothing was chosen; `large` where the larger of two models wrote it.
        weight: its weight in the loss; None where it has none.
        token_class: its class in the data; None where it has none.
    """

    text: str
    state: Literal["kept", "lowered", "dropped", "prompt", "large", "open"] = "open"
    signals: Mapping[str, float] = field(default_factory=dict)
    weight: float | int | None = None
    token_class: str | None = None


@dataclass(frozen=True)
class Heatmap:
    """One text token by token, coloured by a signal, once for every run that saw it: the run's name and its tokens.

    A folded one is left out of the terminal.
    """

    title: str
    maps: Sequence[tuple[str, Sequence[Token]]]
    folded: bool = False


@dataclass(frozen=True)
class Piece:
    """One token of a segmentation: its text, its id, and whether it stands where the first tokenizer cuts too (`same`), only here
    (`other`), or for text that it does not give back (`lost`).
    """

    text: str
    id: int
    kind: Literal["same", "other", "lost"] = "same"


@dataclass(frozen=True)
class Segmentation:
    """One text cut by several tokenizers, side by side: name, note and pieces of each."""

    title: str
    note: str
    columns: Sequence[tuple[str, str, Sequence[Piece]]]


@dataclass(frozen=True)
class Patches:
    """One image as a model sees it, and what became of its patches.

    Attributes:
        title: name of the image.
        image: base64 of a JPEG.
        rows: patches from top to bottom.
        columns: patches from left to right.
        panels: caption and places per setting or layer: the token each patch went to, -1 for dropped ones.
    """

    title: str
    image: str
    rows: int
    columns: int
    panels: Sequence[tuple[str, Sequence[int]]]


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: Sequence["Block"]
    folded: bool = False


Block = Text | Findings | Table | Figure | Heatmap | Segmentation | Patches | Section


def warnings_in(blocks: Sequence[Block]) -> Iterator[str]:
    """The texts of all warnings in blocks."""
    for block in blocks:
        if isinstance(block, Section):
            yield from warnings_in(block.blocks)
        elif isinstance(block, Text) and block.kind == "warning":
            yield block.text
