"""Where a pre-tokenizer cuts text into pieces, and which characters it can tell apart.

    class of a character = which of the classes, ranges and characters named in the patterns it belongs to

Two texts of equal classes are cut alike, so that what is found for one text holds for all of its *shape*: characters replaced by the first
of their class, long runs shortened. A vocabulary of 50,000 tokens has about a hundred shapes.
"""

import json
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from tokenry.core.byte_level import backend_tokenizer
from tokenry.core.errors import UserError
from tokenry.decoding.byte_level.utf8 import code_points

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_ASCII_PUNCTUATION = r"[!-/:-@\[-`{-~]|\p{P}"
_META = "▁"
_APOSTROPHES = "'’"

_TOKEN = re.compile(
    r"\\[pP]\{[^}]*\}|\\x\{[0-9A-Fa-f]+\}|\\u[0-9A-Fa-f]{4}|\\.|\(\?[a-z]*[:=!<>]*|\{\d*,?\d*\}|.", re.S
)
_CONTRACTION = re.compile(r"['’](?:\(\?i?:)?\[?[A-Za-z][A-Za-z\[\]|]*\)?")
_CLASS = re.compile(r"\\[pP]\{.*|\\[sSdDwWhHbB]")
_COUNTED = re.compile(r"(\\p\{Nd?\}|\\d|\[0-9\])?\{\d")
_LETTERS_OF_A_CONTRACTION = 2

_BY_CATEGORY = re.compile(r"\\[pP]\{\^?[A-Z][a-z]?\}|\\[sSdDwWhH]|\[.+-.+\]")
_FAR = (0x40000, 0xE0001, 0xE0020, 0xE0100, 0xE0FFF, 0xF0000, 0x100000)


@dataclass(frozen=True)
class _Pattern:
    """What a pattern names.

    Attributes:
        classes: character classes and ranges, as patterns of one character.
        characters: single characters, each a class of its own.
        contracted: letters that are named after an apostrophe only.
        runs_count: whether the length of a run of other characters than digits matters.
    """

    classes: frozenset[str]
    characters: frozenset[str]
    contracted: frozenset[str]
    runs_count: bool

    @classmethod
    def read(cls, pattern: str) -> "_Pattern":
        contracted = {letter for part in _CONTRACTION.findall(pattern) for letter in part if letter.isalpha()}
        classes, characters = set(), [*_APOSTROPHES] if contracted else []
        found = _TOKEN.findall(_CONTRACTION.sub("", pattern))
        tokens = ["", *(token for token in found if len(token) == 1 or token[0] == "\\"), ""]
        inside = list(accumulate(tokens, lambda before, token: (before or token == "[") and token != "]"))
        ranges = {
            place
            for place, (before, token, after) in enumerate(
                zip(tokens, tokens[1:], tokens[2:], strict=False), 1
            )
            if token == "-"
            and inside[place]
            and before != "["
            and after != "]"
            and not _CLASS.fullmatch(before)
        }
        for place, token in enumerate(tokens):
            if _CLASS.fullmatch(token):
                classes.add(r"\w" if token in (r"\b", r"\B") else token)
            elif place in ranges:
                ends = (re.escape(_character(tokens[place + side])) for side in (-1, 1))
                classes.add("[" + "-".join(ends) + "]")
            elif not ranges & {place - 1, place + 1} and _is_literal(
                token, tokens[place - 1], bool(inside[place])
            ):
                characters.append(_character(token))
        both_cases = {case for each in characters for case in (each, each.lower(), each.upper())}
        return cls(
            frozenset(classes),
            frozenset(each for each in both_cases if len(each) == 1),
            frozenset(case for letter in contracted for case in (letter.lower(), letter.upper())),
            not all(_COUNTED.findall(pattern)),
        )


def _is_literal(token: str, before: str, inside: bool) -> bool:
    """Tell whether a token of a pattern is a character and no operator."""
    if len(token) != 1:
        return bool(token)
    operators = "[]" + "^" * (before == "[") if inside else "[]()|?*+.^$"
    return token not in operators


def _character(token: str) -> str:
    if token.startswith((r"\x", r"\u")):
        return chr(int(token[2:].strip("{}"), 16))
    return {r"\r": "\r", r"\n": "\n", r"\t": "\t", r"\f": "\f", r"\v": "\v"}.get(token, token[-1])


def _patterns(part: dict[str, Any]) -> list[str]:
    """The patterns by which one pre-tokenizer cuts.

    Raises:
        UserError: it cuts by something else.
    """
    known: dict[str, Any] = {
        "Split": lambda: [
            part["pattern"].get("Regex") or re.escape(part["pattern"]["String"]),
        ],
        "ByteLevel": lambda: [_GPT2] if part["use_regex"] else [],
        "Digits": lambda: [r"\p{N}"],
        "Punctuation": lambda: [_ASCII_PUNCTUATION],
        "Metaspace": lambda: [_META, " "],
        "CharDelimiterSplit": lambda: [re.escape(part["delimiter"])],
        "Whitespace": lambda: [r"\w+|[^\w\s]+"],
        "WhitespaceSplit": lambda: [r"\s"],
        "BertPreTokenizer": lambda: [r"\s", _ASCII_PUNCTUATION],
    }
    if part["type"] not in known:
        raise UserError(
            f"the pre-tokenizer {part['type']} does not cut by patterns, so what it can write cannot be told for all tokens at once: "
            "use validate='reencode'."
        )
    return known[part["type"]]()


def _parts(component: dict[str, Any] | None, inside: str) -> list[dict[str, Any]]:
    if component is None:
        return []
    return (
        [part for each in component[inside] for part in _parts(each, inside)]
        if inside in component
        else [component]
    )


@dataclass
class Pieces:
    """The pre-tokenizer of one tokenizer.

    Attributes:
        patterns: by which it cuts.
    """

    patterns: tuple[str, ...]
    _cutter: Any = field(repr=False)
    _renamed: dict[int, str] = field(repr=False)
    _classes: dict[str, str] = field(default_factory=dict, repr=False)
    _firsts: dict[tuple, str] = field(default_factory=dict, repr=False)
    _completions: dict[bytes, tuple[str, ...]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase | Tokenizer) -> "Pieces | None":
        """Read the pre-tokenizer; None where there is none that ever cuts.

        Raises:
            UserError: it drops characters, or cuts by something else than patterns.
        """
        state = json.loads(backend_tokenizer(tokenizer).to_str())
        parts = _parts(state["pre_tokenizer"], "pretokenizers")
        patterns = tuple(pattern for part in parts for pattern in _patterns(part))
        if not patterns:
            return None
        found = cls(patterns, _cutter(state, parts), _renamed(state))
        return found if found._ever_cuts() else None

    def borders(self, text: str) -> tuple[int, ...]:
        """Where pieces begin, in characters, the first one left out."""
        cut = self._cutter.pre_tokenize_str(text.translate(self._renamed))
        return tuple(start for _, (start, _) in cut[1:])

    def shape(self, text: str, after_apostrophe: int = 0) -> str:
        """Replace every character by the first of its class, and shorten runs to three.

        Args:
            text: any text.
            after_apostrophe: so many letters at its beginning still belong to what an apostrophe before it may begin.
        """
        try:
            plain = "".join([self._classes[character] for character in text])
        except KeyError:
            self.classify(text)
            plain = "".join([self._classes[character] for character in text])
        exact = self._exact(text, after_apostrophe) if self._contracted else ()
        if exact:
            plain = "".join(text[place] if place in exact else each for place, each in enumerate(plain))
        return plain if self._runs_count else re.sub(r"(\D)\1{3,}", r"\1\1\1", plain)

    def apostrophe_reaches(self, shape: str) -> int:
        """How many letters after this text still belong to what its last apostrophe may begin."""
        for back in range(min(_LETTERS_OF_A_CONTRACTION, len(shape))):
            if self._contracted and shape[-1 - back] in _APOSTROPHES:
                return _LETTERS_OF_A_CONTRACTION - back
            if not shape[-1 - back].isalpha():
                return 0
        return 0

    def followers(self, shape: str) -> list[str]:
        """What may follow a text, one continuation for each way it can be cut; the first is its end."""
        letters = sorted(self._contracted) if self.apostrophe_reaches(shape) else []
        return ["", *self._single, *letters, *(2 * each for each in self._single if each.isdigit())]

    def completions(self, begun: bytes) -> tuple[str, ...]:
        """The classes of the characters whose UTF-8 begins with `begun`, an unfinished character; empty where there is none."""
        if begun not in self._completions:
            some = self._some_of_each_class(code_points(begun))
            self._completions[begun] = tuple(sorted({self.shape(character) for character in some}))
        return self._completions[begun]

    def _some_of_each_class(self, points: range) -> Iterable[str]:
        """Characters among which is one of every class; where patterns ask for categories and ranges only, one of each will do."""
        if not all(_BY_CATEGORY.fullmatch(each) for pattern in self._read for each in pattern.classes):
            return map(chr, points)
        named = (each for pattern in self._read for each in (*pattern.characters, *"".join(pattern.classes)))
        edges = sorted({number for each in named for number in (ord(each), ord(each) + 1)})
        # Beyond the third plane there are tags, variation selectors and characters for private use.
        far = (each for each in (*points[:1], *_FAR, *points[-1:]) if each in points)
        near = range(points.start, min(points.stop, 0x40000))
        found: dict[tuple[str, int], str] = {}
        for point in chain(near, far):
            found.setdefault((unicodedata.category(chr(point)), bisect_right(edges, point)), chr(point))
        return found.values()

    def _exact(self, text: str, after_apostrophe: int) -> set[int]:
        exact = set(range(min(after_apostrophe, len(text))))
        for place, character in enumerate(text):
            if character in _APOSTROPHES:
                exact.update(range(place + 1, min(place + 1 + _LETTERS_OF_A_CONTRACTION, len(text))))
        return {place for place in exact if text[place] in self._contracted}

    @cached_property
    def _read(self) -> list[_Pattern]:
        return [_Pattern.read(pattern) for pattern in self.patterns]

    @cached_property
    def _contracted(self) -> frozenset[str]:
        return frozenset[str]().union(*(each.contracted for each in self._read))

    @cached_property
    def _runs_count(self) -> bool:
        return any(each.runs_count for each in self._read)

    @cached_property
    def _single(self) -> list[str]:
        ascii_characters = {chr(number) for number in range(0x20, 0x7F)} | set("\t\n\r")
        self.classify(ascii_characters)
        return sorted(set(self._firsts.values()))

    def classify(self, characters: Iterable[str]) -> None:
        """Find the classes of characters, all at once, and name each class by its first."""
        new = "".join(sorted(set(characters).difference(self._classes)))
        if not new:
            return
        named = frozenset[str]().union(*(each.characters for each in self._read))
        classes = sorted(frozenset[str]().union(*(each.classes for each in self._read)))
        matches = [_matching(each, new) for each in classes]
        for place, character in enumerate(new):
            key = (character if character in named else "", *(place in match for match in matches))
            # A letter of a contraction stands for no class: after an apostrophe it is another.
            if character in self._contracted and key not in self._firsts:
                self._firsts[key] = self._stand_in(key, classes, named) or character
            self._classes[character] = self._firsts.setdefault(key, character)

    def _stand_in(self, key: tuple, classes: Sequence[str], named: frozenset[str]) -> str | None:
        letters = [
            chr(number)
            for number in (*range(0x41, 0x5B), *range(0x61, 0x7B))
            if chr(number) not in self._contracted
        ]
        for letter in letters:
            if (
                letter if letter in named else "",
                *(bool(_matching(each, letter)) for each in classes),
            ) == key:
                return letter
        return None

    def _ever_cuts(self) -> bool:
        """Cut a text in which everything meets everything.

        Raises:
            UserError: characters are dropped.
        """
        pairs = "".join(one + other for one in self._single for other in self._single)
        cut = self._cutter.pre_tokenize_str(pairs.translate(self._renamed))
        if sum(end - start for _, (start, end) in cut) < len(pairs):
            raise UserError(
                "the pre-tokenizer drops characters, so bytes cannot be told from tokens: give a tokenizer that keeps white space."
            )
        return len(cut) > 1


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
        for part in _parts(state["normalizer"], "normalizers")
        if part["type"] == "Replace" and len(part["pattern"].get("String", "")) == len(part["content"]) == 1
    }


def _matching(pattern: str, characters: str) -> set[int]:
    """Places of the characters that a pattern of one character matches, by the same engine that cuts the text."""
    rest = pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(characters)
    missed = {place for _, (start, end) in rest for place in range(start, end)}
    return set(range(len(characters))) - missed
