"""The page of `tokenry tokenizer compare`: each text cut by each tokenizer, side by side, and what it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from tokenry.report.rendering import render_template, setting_pairs
from tokenry.report.text import visible
from tokenry.tokenization.segmentation import Segmentation


@dataclass(frozen=True)
class PieceView:
    """One token ready to be drawn: its text with whitespace as signs, and whether the first tokenizer cuts before it too."""

    text: str
    id: int
    kind: str
    after_space: bool


@dataclass(frozen=True)
class ColumnView:
    """The beginning of a text as one tokenizer cuts it."""

    segmentation: Segmentation
    pieces: list[PieceView]


@dataclass(frozen=True)
class TextView:
    """One text, a column for each tokenizer."""

    title: str
    shown: str
    columns: list[ColumnView]


def render_tokenizers(
    cut: Mapping[str, Sequence[Segmentation]],
    most_bytes: int = 1500,
    names: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Draw segmentations as one self-contained HTML page.

    Args:
        cut: per text one segmentation for each tokenizer; the first is what the others are compared with.
        most_bytes: of each text are drawn, from its beginning; the counts are of the whole text.
        names: of texts, where they have longer ones.
        settings: shown at the head of the page.
    """
    known = dict(names or {})
    texts = [_text_view(known.get(name, name), columns, most_bytes) for name, columns in cut.items()]
    return render_template(
        "tokenizers.html.j2",
        kind="tokenizers",
        title="Tokenizers side by side",
        tokenizers=[column.segmentation.tokenizer for column in texts[0].columns],
        texts=texts,
        settings=setting_pairs(settings or {}),
    )


def _text_view(title: str, columns: Sequence[Segmentation], most_bytes: int) -> TextView:
    first = set(_starts(columns[0]))
    views = [ColumnView(column, _piece_views(column, first, most_bytes)) for column in columns]
    size = columns[0].size
    return TextView(
        title,
        f"the first {most_bytes:,} of {size:,} bytes" if size > most_bytes else f"{size:,} bytes",
        views,
    )


def _piece_views(column: Segmentation, first: set[int], most_bytes: int) -> list[PieceView]:
    views = []
    for start, piece in zip(_starts(column), column.pieces, strict=True):
        if start >= most_bytes:
            break
        compared = column.shared_cuts is not None and start not in first
        kind = "lost" if not piece.stands_for_text else "other" if compared else "same"
        views.append(PieceView(visible(piece.text), piece.id, kind, piece.data[:1].isspace()))
    return views


def _starts(column: Segmentation) -> list[int]:
    """Where each piece begins, in bytes."""
    return [0, *accumulate(len(piece.data) for piece in column.pieces)][: len(column.pieces)]
