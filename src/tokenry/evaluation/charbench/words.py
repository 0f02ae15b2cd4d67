"""The words of the questions: from word lists that install with pip, from running text, or from a file.

    word lists   the union of the English lists of `wordfreq` (large) and `english-words` (web2, gcide), letters a to z only;
                 they are in lower case, so a share drawn by the seed is capitalised
    corpus       all runs of the letters a to z and A to Z that are words of their own; "The" and "the" are two words
    file         one word per line, any script

Benchmarks take the first words of each length, so lists and corpora come in an order drawn by the seed from the sorted words: the
authors' order is that of a Python set, which differs from process to process. The benchmark built here is a regeneration, not their file.

Source: CharBench (arXiv 2508.02591), section 3, and the released generator.
"""

import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

from tokenry.core.errors import UserError, require_fraction, require_one_of
from tokenry.core.io.reading import read_text

SOURCES = ("wordfreq", "english-words")

_WORD = re.compile(r"\b[a-zA-Z]+\b")


def load_word_list(
    source: str = "+".join(SOURCES),
    min_len: int = 4,
    max_len: int = 10,
    capitalize: float = 0.2,
    seed: int = 0,
) -> list[str]:
    """List English words, a share of them capitalised, in an order drawn by the seed.

    Args:
        source: `wordfreq`, `english-words`, or both joined by a plus. Only both together have 25,000 words of every length from 4 to 10.
        min_len: number of letters of the shortest words.
        max_len: number of letters of the longest words.
        capitalize: share of the words that are capitalised.
        seed: random seed of that choice and of the order.
    """
    _check_lengths(min_len, max_len)
    require_fraction(capitalize, "capitalize")
    names = source.split("+")
    for name in names:
        require_one_of(name, SOURCES, "a source of words")
    listed = {word for name in names for word in _LISTS[name]()}
    words = _in_drawn_order(
        (word for word in listed if min_len <= len(word) <= max_len and _WORD.fullmatch(word)), seed
    )
    chosen = set(random.Random(seed).sample(range(len(words)), round(capitalize * len(words))))
    return [word.capitalize() if place in chosen else word for place, word in enumerate(words)]


def frequent_words(number: int, min_len: int = 4, max_len: int = 10) -> list[str]:
    """List the most frequent English words (lower case, a to z), the most frequent first."""
    _check_lengths(min_len, max_len)
    suitable = (word for word in _wordfreq() if min_len <= len(word) <= max_len and _WORD.fullmatch(word))
    words = list(islice(suitable, number))
    if len(words) < number:
        raise UserError(
            f"wordfreq has {len(words):,} words of {min_len} to {max_len} letters, not {number:,}: ask for fewer."
        )
    return words


def words_of_corpus(
    documents: Iterable[str], min_len: int = 4, max_len: int = 10, seed: int = 0
) -> list[str]:
    """Find the distinct words of running text, in an order drawn by the seed.

    Args:
        documents: texts; the paper takes the first 100,000 of MiniPile.
        min_len: number of letters of the shortest words.
        max_len: number of letters of the longest words.
    """
    _check_lengths(min_len, max_len)
    found: set[str] = set()
    for document in documents:
        found.update(word for word in _WORD.findall(document) if min_len <= len(word) <= max_len)
    if not found:
        raise UserError(f"the corpus has no word of {min_len} to {max_len} letters (a to z).")
    return _in_drawn_order(found, seed)


def read_word_list(path: Path, nfc: bool = False) -> list[str]:
    """Read a file with one word per line; the order is kept, empty lines and repeated words are left out.

    Args:
        path: text file in UTF-8.
        nfc: whether to compose characters (NFC), so that é is one character however the file spells it.
    """
    stripped = [line.strip() for line in read_text(path).split("\n")]
    for number, line in enumerate(stripped, start=1):
        if len(line.split()) > 1:
            raise UserError(
                f"line {number} of {path} has white space inside ({line[:40]!r}): give one word per line, or running text as a corpus."
            )
    words = dict.fromkeys(unicodedata.normalize("NFC", line) if nfc else line for line in stripped if line)
    if not words:
        raise UserError(f"{path} holds no words: give one word per line.")
    return list(words)


def word_frequencies(words: Sequence[str], language: str = "en") -> list[float]:
    """Frequencies of words on the Zipf scale (10 to that power is occurrences per billion words; 0 for unknown words)."""
    try:
        from wordfreq import zipf_frequency
    except ImportError as error:
        raise _not_installed("wordfreq") from error
    return [zipf_frequency(word, language) for word in words]


def _wordfreq() -> Iterable[str]:
    try:
        from wordfreq import iter_wordlist
    except ImportError as error:
        raise _not_installed("wordfreq") from error
    return iter_wordlist("en", "large")


def _english_words() -> Iterable[str]:
    try:
        from english_words import get_english_words_set
    except ImportError as error:
        raise _not_installed("english-words") from error
    return get_english_words_set(["web2", "gcide"], lower=True)


_LISTS: dict[str, Callable[[], Iterable[str]]] = {"wordfreq": _wordfreq, "english-words": _english_words}


def _not_installed(package: str) -> UserError:
    return UserError(
        f"the words come from the package {package}, which is not installed: run pip install 'tokenry[words]', or give a file "
        "with one word per line."
    )


def _check_lengths(min_len: int, max_len: int) -> None:
    if not 1 <= min_len <= max_len:
        raise UserError(
            f"words have at least one letter and min_len <= max_len, got {min_len} and {max_len}."
        )


def _in_drawn_order(words: Iterable[str], seed: int) -> list[str]:
    ordered = sorted(words)
    random.Random(seed).shuffle(ordered)
    return ordered
