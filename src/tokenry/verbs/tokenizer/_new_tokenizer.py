"""Shared by the verbs that give a model another tokenizer: measured texts and their layout."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenry.core.errors import require_at_least
from tokenry.core.plans import option
from tokenry.report.blocks import Block, Column, Table
from tokenry.verbs._estimates import stored_estimate

_SHOWN = 8


@dataclass(frozen=True)
class MeasuredTexts:
    """Texts whose bits per byte are measured before and after.

    Attributes:
        texts: text file whose bits per byte are measured before and after; can be repeated.
        most_characters: number of characters to read of each text file, from its beginning.
    """

    texts: tuple[Path, ...] = option((), flag="--text", metavar="FILE")
    most_characters: int = 20_000

    def __post_init__(self) -> None:
        require_at_least(1, most_characters=self.most_characters)

    def read(self) -> list[str]:
        """The texts of all files; one ends at an empty line."""
        from tokenry.core.text.passages import read_texts

        return [text for file in self.texts for text in read_texts(file, self.most_characters)]


NO_TEXTS = MeasuredTexts()


def bits_per_byte(measured: Mapping[str, Mapping[str, Any] | None]) -> list[Block]:
    """A table of bits per byte before and after, if texts were measured."""
    rows = [
        (f"bits per byte {when}", stored_estimate(loss, samples="texts"), loss["tokens"])
        for when, loss in measured.items()
        if loss
    ]
    return [Table("Texts", ("", Column("bits", "per byte"), "tokens"), rows)] if rows else []


def text_back(found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Whether each tokenizer gives texts back."""
    return [(f"text back, {which} tokenizer", back["summary"]) for which, back in found.items()]


def some(names: Sequence[str], none: str = "none") -> str:
    """The first of some tokens or texts, and how many more there are."""
    if not names:
        return none
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
