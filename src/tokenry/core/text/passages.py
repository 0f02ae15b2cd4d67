"""Text files as texts: cut at empty lines, and into passages of about one length."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from tokenry.core.errors import UserError
from tokenry.core.io.reading import open_text


def read_texts(file: Path, most_characters: int | None = None) -> list[str]:
    """Read a text file, or its beginning, cut at empty lines.

    Raises:
        UserError: the file is missing, is no UTF-8, or is empty.
    """
    with open_text(file) as opened:
        beginning = opened.read(-1 if most_characters is None else most_characters)
    texts = [text.strip("\n") for text in beginning.split("\n\n") if text.strip()]
    if not texts:
        raise UserError(f"{file} holds no text: give a file with some paragraphs.")
    return texts


def passages(texts: Sequence[str], length: int) -> list[str]:
    """Cut texts at spaces into passages of about `length` characters; a much shorter remainder is dropped, a short text kept."""
    return [passage for text in texts for passage in _passages_of(text, length)]


def _passages_of(text: str, length: int) -> list[str]:
    cut, words, size = [], [], 0
    for word in text.split(" "):
        words.append(word)
        size += len(word) + 1
        if size >= length:
            cut.append(" ".join(words))
            words, size = [], 0
    rest = " ".join(words)
    if rest and (not cut or len(rest) >= length // 4):
        cut.append(rest)
    return cut


def in_batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Cut any number of texts, streamed ones too, into lists of `size`; the last may be shorter."""
    remaining = iter(texts)
    while batch := list(islice(remaining, size)):
        yield batch
