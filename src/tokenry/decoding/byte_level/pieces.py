r"""Where a pre-tokenizer cuts text into pieces, and what may follow a text as far as the pre-tokenizer can tell.

Two texts whose characters are of the same classes are cut alike, so that a result for one text holds for all texts of its *shape*: each
character replaced by one that stands for its class, long runs shortened. A vocabulary of 50,000 tokens has about a hundred shapes.
Under the pattern of GPT-2, `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`:

    borders("it's 42!")    = (2, 4, 7)                  it | 's | 42 (with its space) | !
    shape("Straße 42!")    = "AAA 00!"                  one letter, one digit and one symbol stand for all; runs of three are enough
    shape("she's")         = "AAA's"                    after an apostrophe the letters of contractions stand for themselves
    followers("AAA'r")     = ["", "\t", "0", "A", …, "e"]   the end, one of each class, and the rest of a contraction that has begun
    completions(b"\xc3")   = ("!", "A")                  ×, é …: the classes of the characters that begin with this byte
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import META_SPACE, backend_tokenizer, component_parts, tokenizer_state
from tokenry.decoding.byte_level.character_classes import CharacterClasses, character_classes
from tokenry.decoding.byte_level.pattern_atoms import APOSTROPHES, PatternAtoms
from tokenry.decoding.byte_level.utf8 import code_points

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_ASCII_PUNCTUATION = r"[!-/:-@\[-`{-~]|\p{P}"
# Letters that are the same as those of a contraction where case is ignored: long s, the Kelvin sign.
_SAME_LETTERS = {"s": "ſ", "k": "\N{KELVIN SIGN}"}


def _patterns(part: dict[str, Any]) -> list[str]:
    """The patterns by which one pre-tokenizer cuts."""
    known: dict[str, Any] = {
        "Split": lambda: [part["pattern"].get("Regex") or re.escape(part["pattern"]["String"])],
        "ByteLevel": lambda: [_GPT2] if part["use_regex"] else [],
        "Digits": lambda: [r"\p{N}"],
        "Punctuation": lambda: [_ASCII_PUNCTUATION],
        "Metaspace": lambda: [META_SPACE, " "],
        "CharDelimiterSplit": lambda: [re.escape(part["delimiter"])],
        "Whitespace": lambda: [r"\w+|[^\w\s]+"],
        "WhitespaceSplit": lambda: [r"\s"],
        "BertPreTokenizer": lambda: [r"\s", _ASCII_PUNCTUATION],
    }
    if part["type"] not in known:
        raise UserError(
            f"the pre-tokenizer {part['type']} does not cut by patterns, so what it can write cannot be told: give a tokenizer that cuts by "
            "patterns, or use invalid='all'."
        )
    return known[part["type"]]()


@dataclass
class Pieces:
    """The pre-tokenizer of one tokenizer.

    Attributes:
        cut_characters: characters of the tokens that are cut out of a text: what follows a text is made of others where possible.
    """

    patterns: tuple[str, ...]
    cut_characters: Collection[str] = field(repr=False)
    _cutter: Any = field(repr=False)
    _renamed: dict[int, str] = field(repr=False)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase | Tokenizer) -> "Pieces | None":
        """Read the pre-tokenizer; None where there is none that ever cuts.

        Raises:
            UserError: it drops characters, or cuts by something else than patterns.
        """
        return cls.from_state(tokenizer_state(backend_tokenizer(tokenizer)))

    @classmethod
    def from_state(cls, state: dict[str, Any], cut_characters: Collection[str] = ()) -> "Pieces | None":
        """Read the pre-tokenizer from the file of a tokenizer."""
        parts = component_parts(state["pre_tokenizer"])
        patterns = tuple(pattern for part in parts for pattern in _patterns(part))
        if not patterns:
            return None
        found = cls(patterns, frozenset(cut_characters), _cutter(state, parts), _renamed(state))
        return found if found._ever_cuts() else None

    def borders(self, text: str) -> tuple[int, ...]:
        """Where pieces begin, in characters, the first one left out."""
        cut = self._cutter.pre_tokenize_str(text.translate(self._renamed))
        return tuple(start for _, (start, _) in cut[1:])

    def shape(self, text: str, after_apostrophe: int = 0) -> str:
        """Replace every character by the first of its class, and shorten runs to three.

        Args:
            after_apostrophe: number of letters at its beginning that still belong to what an apostrophe before it may begin.
        """
        plain = text.translate(self._plain)
        exact = self._exact(text, after_apostrophe) if self._contracted else ()
        if exact:
            plain = "".join(
                text[place] if place in exact else standing for place, standing in enumerate(plain)
            )
        return self._long_runs.sub(r"\1\1\1", plain) if self._long_runs else plain

    def apostrophe_reaches(self, shape: str) -> int:
        """Number of letters after this text that still belong to what its last apostrophe may begin."""
        for back in range(min(self._longest_suffix, len(shape))):
            if shape[-1 - back] in APOSTROPHES:
                return self._longest_suffix - back
            if not shape[-1 - back].isalpha():
                return 0
        return 0

    def followers(self, shape: str) -> list[str]:
        """What may follow a text, one continuation for each way it can be cut; the first is its end."""
        return [*self._followers, *self._rest_of_suffix(shape)]

    def completions(self, begun: bytes) -> tuple[str, ...]:
        """The classes of the characters whose UTF-8 begins with `begun`, an unfinished character; empty where there is none."""
        possible = code_points(begun)
        classes = np.unique(self._classes.of[possible.start : possible.stop])
        return tuple(sorted(self._classes.firsts[number] for number in classes))

    def _rest_of_suffix(self, shape: str) -> list[str]:
        """The rest of each suffix that the end of a text begins."""
        reach = self.apostrophe_reaches(shape)
        if not reach:
            return []
        begun = shape[len(shape) - (self._longest_suffix - reach) :].lower()
        return sorted(
            suffix[len(begun) :]
            for suffix in self._suffixes
            if suffix.lower().startswith(begun) and len(suffix) > len(begun)
        )

    def _exact(self, text: str, after_apostrophe: int) -> set[int]:
        if not after_apostrophe and not any(apostrophe in text for apostrophe in APOSTROPHES):
            return set()
        exact = set(range(min(after_apostrophe, len(text))))
        for place, character in enumerate(text):
            if character in APOSTROPHES:
                exact.update(range(place + 1, min(place + 1 + self._longest_suffix, len(text))))
        return {place for place in exact if text[place] in self._contracted}

    @cached_property
    def _read(self) -> list[PatternAtoms]:
        return [PatternAtoms.read(pattern) for pattern in self.patterns]

    @cached_property
    def _classes(self) -> CharacterClasses:
        atoms = {atom for read in self._read for atom in read.atoms}
        return character_classes(
            frozenset(atoms | set(APOSTROPHES) if self._suffixes else atoms), self._contracted
        )

    @cached_property
    def _plain(self) -> "_Plain":
        return _Plain(self._classes)

    @cached_property
    def _suffixes(self) -> frozenset[str]:
        return frozenset(suffix for read in self._read for suffix in read.suffixes)

    @cached_property
    def _longest_suffix(self) -> int:
        return max(map(len, self._suffixes), default=0)

    @cached_property
    def _contracted(self) -> frozenset[str]:
        letters = {letter.lower() for suffix in self._suffixes for letter in suffix}
        same = {_SAME_LETTERS[letter] for letter in letters & _SAME_LETTERS.keys()}
        return frozenset(letters | {letter.upper() for letter in letters} | same)

    @cached_property
    def _counted(self) -> str:
        """The characters that stand for the classes whose runs are counted."""
        counted = [self._classes.matching(atom) for read in self._read for atom in read.counted]
        return "".join(first for first, *of in zip(self._classes.firsts, *counted, strict=True) if any(of))

    @cached_property
    def _long_runs(self) -> "re.Pattern[str] | None":
        if any(read.counts_groups for read in self._read):
            return None
        others = f"[^{re.escape(self._counted)}]" if self._counted else "."
        return re.compile(rf"({others})\1{{3,}}", re.DOTALL)

    @cached_property
    def _followers(self) -> list[str]:
        others = self._classes.outside(self.cut_characters)
        single: list[str] = []
        for number, other in enumerate(others):
            single += (
                [other] if other else self._classes.members(number, "".join(sorted(self.cut_characters)))
            )
        return [
            "",
            *single,
            *(2 * character for character in single if character.translate(self._plain) in self._counted),
        ]

    def _ever_cuts(self) -> bool:
        """Cut a text in which everything meets everything."""
        pairs = "".join(one + other for one in self._classes.firsts for other in self._classes.firsts)
        cut = self._cutter.pre_tokenize_str(pairs.translate(self._renamed))
        if sum(end - start for _, (start, end) in cut) < len(pairs):
            raise UserError(
                "the pre-tokenizer drops characters, so bytes cannot be told from tokens: give a tokenizer that keeps white space."
            )
        return len(cut) > 1


class _Plain(dict[int, str]):
    """For `str.translate`: the character that stands for the class of each character."""

    def __init__(self, classes: CharacterClasses) -> None:
        super().__init__()
        self._found = classes

    def __missing__(self, point: int) -> str:
        self[point] = first = self._found.firsts[self._found.of[point]]
        return first


def _cutter(state: dict[str, Any], parts: list[dict[str, Any]]) -> Any:
    """The pre-tokenizer, without the space that it puts before a text."""
    inner = [
        part
        | ({"prepend_scheme": "never"} if part["type"] == "Metaspace" else {})
        | ({"add_prefix_space": False} if part["type"] == "ByteLevel" else {})
        for part in parts
    ]
    alone = {
        "version": state["version"],
        "added_tokens": [],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": inner},
        "model": {"type": "WordLevel", "vocab": {}, "unk_token": ""},
    }
    return Tokenizer.from_str(json.dumps(alone)).pre_tokenizer


def _renamed(state: dict[str, Any]) -> dict[int, str]:
    """The characters that the normaliser renames before the pre-tokenizer sees them: a space that becomes a visible one."""
    return {
        ord(part["pattern"]["String"]): part["content"]
        for part in component_parts(state["normalizer"])
        if part["type"] == "Replace" and len(part["pattern"].get("String", "")) == len(part["content"]) == 1
    }
