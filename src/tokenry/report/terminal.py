"""Blocks in a terminal: tables as wide as it is, pictures of tokens in colour, what is folded left out.

Columns of text are folded between words. A table that is wider than the terminal even so is drawn in parts below each other, each
with the names of its rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table as Grid
from rich.text import Text as Line

from tokenry.report.blocks import (
    Block,
    Column,
    Findings,
    Heatmap,
    Section,
    Segmentation,
    Table,
    Text,
    Token,
)
from tokenry.report.text import harmless, label, visible
from tokenry.report.token_maps import terminal_heatmap
from tokenry.report.writing import is_number, written_rows

_GAP = 2
_FOLDED = 24
"""Width to which a column of text may be folded, where its longest word allows it."""
_EXAMPLES = 3
_TINTS = ("not dim black on rgb(190,215,240)", "not dim black on rgb(250,215,175)")


def terminal_blocks(blocks: Iterable[Block], width: int, coloured: bool = True) -> Iterator[RenderableType]:
    """Draw blocks for a terminal of `width` characters, one renderable after the other.

    Where it has no colours, the numbers of every token stand in a table below its text.
    """
    heatmaps = 0
    for block in blocks:
        match block:
            case Section(folded=False):
                inside = list(terminal_blocks(block.blocks, width, coloured))
                if inside:
                    yield Line(harmless(block.title), style="bold")
                    yield from inside
            case Text(kind="warning"):
                yield Line(f"Warning: {harmless(block.text)}")
            case Findings():
                for name, sentence in block.sentences:
                    yield Line(harmless(f"{name}: {sentence}" if name else sentence))
            case Table(folded=False):
                yield from _table(block, width)
            case Heatmap(folded=False) if heatmaps < _EXAMPLES:
                heatmaps += 1
                for run, tokens in block.maps:
                    yield terminal_heatmap(tokens)
                    if not coloured:
                        yield from _table(_token_table(run, tokens), width)
            case Segmentation():
                yield from _segmentation(block)


@dataclass(frozen=True)
class _Room:
    """The width that a column needs at least, and the width at which nothing in it is folded."""

    least: int
    most: int


def _table(table: Table, width: int) -> Iterator[RenderableType]:
    headings, rows = table.headings, written_rows(table)
    fixed = [
        place > 0 and is_number(column, [row[place] for row in table.rows])
        for place, column in enumerate(headings)
    ]
    rooms = [_room(_texts(table, rows, place), number, width) for place, number in enumerate(fixed)]
    if table.title:
        yield Line(harmless(table.title), style="bold")
    for part in _parts(rooms, width):
        grid = Grid(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim")
        for place, columns in zip(part, _fitted([rooms[place] for place in part], width), strict=True):
            heading = "\n".join(filter(None, (headings[place].name, headings[place].unit)))
            grid.add_column(
                Line(harmless(heading)),
                justify="right" if fixed[place] else "left",
                no_wrap=fixed[place],
                width=columns,
            )
        for row in rows:
            grid.add_row(*(_cell(*row[place], name=place == 0) for place in part))
        yield grid
    for note in table.notes:
        yield Line(harmless(note), style="dim")


def _cell(value: str, note: str, name: bool) -> Line:
    line = Line(harmless(value), style="bold" if name else "")
    return line.append(f"\n{harmless(note)}", style="dim") if note else line


def _texts(table: Table, rows: Sequence[Sequence[tuple[str, str]]], place: int) -> list[str]:
    """Every line of a column, its heading included, as it is drawn."""
    column = table.headings[place]
    texts = [column.name, column.unit, *(text for row in rows for text in row[place])]
    return [line for text in texts for line in harmless(text).split("\n")]


def _room(texts: Sequence[str], fixed: bool, width: int) -> _Room:
    """The room of a column: numbers are never folded, text is folded between words and takes no more than half of the terminal."""
    most = max(map(cell_len, texts), default=0)
    if fixed:
        return _Room(most, most)
    longest_word = max((cell_len(word) for text in texts for word in text.split()), default=0)
    return _Room(min(most, max(_FOLDED, longest_word), max(1, width // 2 - _GAP)), most)


def _parts(rooms: Sequence[_Room], width: int) -> list[list[int]]:
    """The columns of each part of a table: the names of the rows, and as many others as fit beside them."""
    parts: list[list[int]] = [[0]]
    for place in range(1, len(rooms)):
        used = sum(rooms[column].least + _GAP for column in parts[-1])
        if used + rooms[place].least > width and len(parts[-1]) > 1:
            parts.append([0])
        parts[-1].append(place)
    return parts


def _fitted(rooms: Sequence[_Room], width: int) -> list[int]:
    """Widths of columns that fill the terminal: each gets its least, and the rest goes evenly to those that are folded."""
    widths = [room.least for room in rooms]
    spare = width - sum(widths) - _GAP * (len(rooms) - 1)
    while spare > 0 and (folded := [place for place, room in enumerate(rooms) if widths[place] < room.most]):
        for place in folded[:spare]:
            widths[place] += 1
            spare -= 1
    return widths


def _token_table(title: str, tokens: Sequence[Token]) -> Table:
    names = list(dict.fromkeys(name for token in tokens for name in token.signals))
    states = any(token.state != "open" for token in tokens)
    rows = [
        (visible(token.text).rstrip(), *[token.state] * states, *(token.signals.get(name) for name in names))
        for token in tokens
    ]
    numbers = [Column(label(name), format=".3f") for name in names]
    return Table(title, [Column("token"), *[Column("state")] * states, *numbers], rows)


def _segmentation(block: Segmentation) -> Iterator[RenderableType]:
    yield Line(harmless(f"{block.title}, {block.note}"), style="bold")
    for name, note, pieces in block.columns:
        line = Line(harmless(f"{name}, {note}  "), style="dim")
        for piece, tint in zip(pieces, cycle(_TINTS), strict=False):
            # The bar shows the cut where there is no colour.
            line.append("│")
            line.append(visible(piece.text), style="not dim reverse" if piece.kind == "lost" else tint)
        yield line
