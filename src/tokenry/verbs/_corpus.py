"""A corpus of plain texts, of which a share is held out."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from tokenry.core.errors import UserError
from tokenry.report.writing import plural

_Row = TypeVar("_Row")


def read_corpus(corpus: Path) -> list[str]:
    """Read a text file, cut at empty lines, or the `text` of rows.

    Raises:
        UserError: it holds no text.
    """
    from tokenry.core.chat.reading import read_rows
    from tokenry.core.text.passages import read_texts

    is_text = corpus.suffix.lower() in ("", ".txt", ".md") and corpus.is_file()
    read = read_texts(corpus) if is_text else (row.get("text") for row in read_rows(str(corpus)))
    texts = [text for text in read if isinstance(text, str) and text.strip()]
    if not texts:
        raise UserError(f"{corpus} holds no text: give rows with a text under `text`, or a text file.")
    return texts


def held_out_texts(texts: int, share: float, corpus: Path) -> list[bool]:
    """Which of so many texts are held out: a share of them.

    Raises:
        UserError: none, or all of them.
    """
    apart = round(share * texts)
    if not 0 < apart < texts:
        raise UserError(
            f"{corpus} has {plural(texts, 'text')}, of which a share of {share} holds out {apart}: give more texts or "
            "another share."
        )
    return evenly(texts, apart)


def evenly(rows: int, apart: int) -> list[bool]:
    """Which of so many rows are the `apart` that are held out: evenly over all of them, which may be sorted."""
    every = rows // apart
    return [number % every == 0 and number // every < apart for number in range(rows)]


def parted(rows: Iterable[_Row], is_held_out: list[bool]) -> tuple[list[_Row], list[_Row]]:
    """What is trained on, and what is held out."""
    pairs = list(zip(rows, is_held_out, strict=True))
    return [row for row, out in pairs if not out], [row for row, out in pairs if out]
