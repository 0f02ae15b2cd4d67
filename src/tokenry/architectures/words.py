"""Text as words, and words as units: characters, bytes, the subwords of any tokenizer, or whole words; a unit of its own ends every word.

    coder = WordCoder(ByteSpelling(), lossless())
    coder.words("the cat")                   # (119, 107, 104), (35, 102, 100, 119)     " cat" keeps its space
    coder.text(coder.words("the cat"))       # "the cat"

Source: Learn Your Tokens (arXiv 2310.11628): its splitter sets signs apart and cuts at spaces, which loses line breaks and some signs.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.core.io.files import read_json, write_json

Word = tuple[int, ...]
"""The units of a word, without its end."""

END = 0
"""The unit that ends a word, and that fills up what is padded."""

UNITS = ("bytes", "characters", "subwords", "words")
CODER_FILE = "words.json"
_DROPPED = re.compile(r"\n|<unk>|=|@-@")
_SET_APART = r":|,|;|\.|\n|!|'|--|\?"
_WITH_SPACE = r"\s*(?:\w+|[^\w\s])|\s+"


@dataclass(frozen=True)
class WordSplitter:
    """Cut a text into words; by default as the paper does.

    Attributes:
        pattern: regular expression of what spaces are put around; or, without loss, of the words themselves.
        keeps_text: whether `pattern` finds words that are the text when they are joined.
    """

    pattern: str = _SET_APART
    keeps_text: bool = False

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UserError(f"{self.pattern!r} is no regular expression: {error}.") from error

    def clean(self, text: str) -> str:
        """The text whose words are cut: itself, or with signs set apart and single spaces."""
        if self.keeps_text:
            return text
        apart = re.sub(f"({self.pattern})", r" \1 ", _DROPPED.sub(" ", text))
        return re.sub(" +", " ", apart).strip()

    def words(self, text: str) -> list[str]:
        """The words of a text.

        Raises:
            UserError: there are none, or the pattern does not find all of the text.
        """
        clean = self.clean(text)
        found = [match.group() for match in re.finditer(self.pattern, clean)] if self.keeps_text else None
        if found is not None and "".join(found) != clean:
            raise UserError(
                f"the pattern {self.pattern!r} leaves out a part of {text[:30]!r}: let it match every character."
            )
        words = [word for word in (clean.split(" ") if found is None else found) if word]
        if not words:
            raise UserError(f"{text[:30]!r} holds no words: give a text with at least one.")
        return words


def lossless() -> WordSplitter:
    """Runs of letters and digits, and single signs, each with the white space before it."""
    return WordSplitter(_WITH_SPACE, keeps_text=True)


@runtime_checkable
class Spelling(Protocol):
    """What words are spelled in. Unit 0 ends a word; the word of the one unit `begin` stands before every text."""

    @property
    def size(self) -> int:
        """Number of units, with those two."""
        ...

    @property
    def begin(self) -> int:
        """The unit that is in no text."""
        ...

    def encode(self, word: str) -> list[int]:
        """The units of a word."""
        ...

    def decode(self, units: Sequence[int]) -> str:
        """The text of units; `END` and `begin` have none."""
        ...


@dataclass(frozen=True)
class ByteSpelling:
    """UTF-8 bytes, with the ids of ByT5: byte + 3."""

    size: int = field(default=259, init=False)
    begin: int = field(default=1, init=False)

    def encode(self, word: str) -> list[int]:
        """Its bytes."""
        return [byte + 3 for byte in word.encode()]

    def decode(self, units: Sequence[int]) -> str:
        """The text; bytes that are no UTF-8 become the replacement character."""
        return bytes(unit - 3 for unit in units if unit >= 3).decode(errors="replace")


@dataclass(frozen=True)
class CharacterSpelling:
    """The characters of a text, sorted, from 1 on."""

    characters: str

    @classmethod
    def of(cls, words: Iterable[str]) -> "CharacterSpelling":
        """All characters of some words."""
        return cls("".join(sorted(set(chain.from_iterable(words)))))

    @property
    def size(self) -> int:
        """The characters, the end, and the beginning."""
        return len(self.characters) + 2

    @property
    def begin(self) -> int:
        """The last unit."""
        return len(self.characters) + 1

    def encode(self, word: str) -> list[int]:
        """Its characters.

        Raises:
            UserError: one of them is new.
        """
        number = {character: place for place, character in enumerate(self.characters, start=1)}
        if new := [character for character in word if character not in number]:
            raise UserError(
                f"the character {new[0]!r} is not among the {len(number)} of the model: train with it, or use bytes as units."
            )
        return [number[character] for character in word]

    def decode(self, units: Sequence[int]) -> str:
        """The characters."""
        return "".join(self.characters[unit - 1] for unit in units if 0 < unit < self.begin)


@dataclass(frozen=True)
class SubwordSpelling:
    """The tokens of a tokenizer, from 1 on."""

    tokenizer: PreTrainedTokenizerBase

    @property
    def size(self) -> int:
        """The tokens, the end, and the beginning."""
        return len(self.tokenizer) + 2

    @property
    def begin(self) -> int:
        """The last unit."""
        return len(self.tokenizer) + 1

    def encode(self, word: str) -> list[int]:
        """The tokens of a word alone.

        Raises:
            UserError: they do not give the word back.
        """
        units = [token + 1 for token in self.tokenizer.encode(word, add_special_tokens=False)]
        if self.decode(units) != word:
            raise UserError(
                f"the tokenizer gives {self.decode(units)!r} back for {word!r}, so words cannot be spelled in it: use bytes as units."
            )
        return units

    def decode(self, units: Sequence[int]) -> str:
        """The text of the tokens."""
        tokens = [unit - 1 for unit in units if 0 < unit < self.begin]
        return str(self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False))


@dataclass(frozen=True)
class WholeWordSpelling:
    """A vocabulary of whole words, from 1 on, and behind it the bytes that spell all others: the paper's word-level control, without loss."""

    vocabulary: tuple[str, ...]

    @classmethod
    def of(cls, words: Iterable[str], occurrences: int = 3) -> "WholeWordSpelling":
        """The words that occur so many times or more, the most frequent first."""
        require_at_least(1, occurrences=occurrences)
        return cls(tuple(word for word, count in Counter(words).most_common() if count >= occurrences))

    @property
    def size(self) -> int:
        """The words, the bytes, the end, and the beginning."""
        return len(self.vocabulary) + 258

    @property
    def begin(self) -> int:
        """The last unit."""
        return len(self.vocabulary) + 257

    @cached_property
    def _number(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.vocabulary, start=1)}

    def encode(self, word: str) -> list[int]:
        """The word as one unit if the vocabulary holds it, else its bytes."""
        known, first = self._number.get(word), len(self.vocabulary) + 1
        return [known] if known is not None else [first + byte for byte in word.encode()]

    def decode(self, units: Sequence[int]) -> str:
        """The text; bytes that are no UTF-8 become the replacement character."""
        first = len(self.vocabulary) + 1
        parts = (
            self.vocabulary[unit - 1].encode() if unit < first else bytes([unit - first])
            for unit in units
            if 0 < unit < self.begin
        )
        return b"".join(parts).decode(errors="replace")


@dataclass(frozen=True)
class WordCoder:
    """Texts to words of units, and back.

    Attributes:
        units: what words are spelled in.
        splitter: cuts the words.
        longest: most units of a word; without loss, a longer word is cut into several.
    """

    units: Spelling
    splitter: WordSplitter = field(default_factory=WordSplitter)
    longest: int = 24

    def __post_init__(self) -> None:
        require_at_least(1, longest=self.longest)

    @property
    def begin(self) -> Word:
        """The word before every text."""
        return (self.units.begin,)

    def words(self, text: str) -> list[Word]:
        """Read a text.

        Raises:
            UserError: no words, a word longer than `longest` where it cannot be cut, or one that the units cannot spell.
        """
        spelled: dict[str, list[Word]] = {}
        found = self.splitter.words(text)
        for word in set(found):
            units = tuple(self.units.encode(word))
            if len(units) > self.longest and not self.splitter.keeps_text:
                raise UserError(
                    f"the word {word[:40]!r} has {len(units)} units and words have at most {self.longest}: raise it, or keep the text "
                    "(lossless), where long words are cut into several."
                )
            spelled[word] = [
                units[start : start + self.longest] for start in range(0, len(units), self.longest)
            ]
        return [part for word in found for part in spelled[word]]

    def text(self, words: Iterable[Word]) -> str:
        """Write words; the paper's, which have lost their spaces, with single ones between them."""
        if self.splitter.keeps_text:
            return self.units.decode([*chain.from_iterable(words)])
        return " ".join(self.units.decode(word) for word in words)

    def text_bytes(self, text: str) -> int:
        """UTF-8 bytes that the words and their ends stand for: of the text, or of its words with a space after each."""
        return len(self.splitter.clean(text).encode()) + (not self.splitter.keeps_text)

    def save(self, folder: Path) -> None:
        """Write words.json, and the tokenizer if there is one."""
        settings: dict[str, Any] = {
            "units": next(name for name, kind in _KINDS.items() if isinstance(self.units, kind)),
            "longest": self.longest,
            "pattern": self.splitter.pattern,
            "keeps_text": self.splitter.keeps_text,
        }
        if isinstance(self.units, CharacterSpelling):
            settings["characters"] = self.units.characters
        if isinstance(self.units, WholeWordSpelling):
            settings["vocabulary"] = self.units.vocabulary
        if isinstance(self.units, SubwordSpelling):
            self.units.tokenizer.save_pretrained(folder)
        write_json(Path(folder) / CODER_FILE, settings)

    @classmethod
    def load(cls, folder: Path) -> "WordCoder":
        """Read what `save` wrote.

        Raises:
            UserError: the folder holds no words.json, or a damaged one.
        """
        path = Path(folder) / CODER_FILE
        if not path.is_file():
            raise UserError(
                f"{folder} holds no {CODER_FILE}: name the folder of a model that `tokenry words train` made."
            )
        settings = read_json(path)
        try:
            kind = settings["units"]
            require_one_of(kind, UNITS, "units")
            units: Spelling = (
                ByteSpelling()
                if kind == "bytes"
                else CharacterSpelling(settings["characters"])
                if kind == "characters"
                else WholeWordSpelling(tuple(settings["vocabulary"]))
                if kind == "words"
                else SubwordSpelling(AutoTokenizer.from_pretrained(folder))
            )
            splitter = WordSplitter(settings["pattern"], settings["keeps_text"])
            return cls(units, splitter, settings["longest"])
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise UserError(f"{path} is damaged ({error}): train the model anew.") from error


_KINDS: dict[str, type] = {
    "bytes": ByteSpelling,
    "characters": CharacterSpelling,
    "subwords": SubwordSpelling,
    "words": WholeWordSpelling,
}


def pad_words(
    words: Sequence[str], units: Spelling, longest: int
) -> tuple[Int[Tensor, "words longest"], Int[Tensor, "words"]]:
    """Write words as a table of units, cut after `longest` of them as the paper does; returns it with their lengths."""
    spelled = [units.encode(word)[:longest] for word in words]
    table = torch.zeros(len(words), longest, dtype=torch.long)
    for row, word in zip(table, spelled, strict=True):
        row[: len(word)] = torch.tensor(word)
    return table, torch.tensor([len(word) for word in spelled], dtype=torch.long)


def collate_words(windows: Sequence[Sequence[Word]]) -> dict[str, Tensor]:
    """Make a batch of windows of words, padded on the right with words that the `attention_mask` leaves out.

    Returns:
        `input_ids` (batch, words, units), `lengths` (batch, words) and `attention_mask` (batch, words).
    """
    most = max(map(len, windows))
    longest = max(len(word) for window in windows for word in window)
    input_ids = torch.zeros(len(windows), most, longest, dtype=torch.long)
    lengths = torch.zeros(len(windows), most, dtype=torch.long)
    for number, window in enumerate(windows):
        filled = [[*word, *[END] * (longest - len(word))] for word in window]
        input_ids[number, : len(window)] = torch.tensor(filled)
        lengths[number, : len(window)] = torch.tensor([len(word) for word in window])
    attention_mask: Bool[Tensor, "batch words"] = lengths > 0
    return {"input_ids": input_ids, "lengths": lengths, "attention_mask": attention_mask}
