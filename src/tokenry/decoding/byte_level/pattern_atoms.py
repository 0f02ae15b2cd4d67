r"""What a regular expression of a pre-tokenizer names: the atoms by which it tells characters apart.

A pattern is read from left to right, one *sign* at a time. Of `(?i:'s|'re)|[^\r\n\p{L}]?\p{L}+|\p{N}{1,3}|\s+(?!\S)`:

    group (?i:   literal '   literal s   or   literal '   literal r   literal e   close )   or
    set [^\r\n\p{L}]   repeat ?   class \p{L}   repeat +   or   class \p{N}   count {1,3}   or
    class \s   repeat +   group (?!   class \S   close )

An *atom* matches one character: a set, a class, a literal. Characters that belong to the same atoms are cut alike wherever they stand:

    atoms      '  [^\r\n\p{L}]  \p{L}  \p{N}  \s  \S
    counted    \p{N}: how long a run of its characters is matters
    suffixes   s, re: letters that are told apart from others after an apostrophe only
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tokenry.core.errors import UserError

APOSTROPHES = "'’"

_OPENING = re.compile(r"\((?:\?(?:<?[=!]|>|<\w+>|[a-z]*(?:-[a-z]+)?[:)]))?")
_COUNT = re.compile(r"\{\d*,?\d*\}")
_SINGLE = {")": "close", "|": "or", ".": "any", "^": "anchor", "$": "anchor"} | dict.fromkeys("*+?", "repeat")
_LETTERS = re.compile(r"[A-Za-z]|\[[A-Za-z]+\]")


@dataclass(frozen=True)
class Sign:
    """One sign of a pattern.

    Attributes:
        kind: `set`, `class`, `literal`, `any`, `group`, `close`, `or`, `count`, `repeat`, `border` (of a word) or `anchor`.
        text: as it is written.
    """

    kind: str
    text: str


def signs(pattern: str) -> Iterator[Sign]:
    """Read a pattern sign by sign.

    Raises:
        UserError: a bracket is not closed.
    """
    place = 0
    while place < len(pattern):
        kind, end = _sign_at(pattern, place)
        yield Sign(kind, pattern[place:end])
        place = end


def _sign_at(pattern: str, place: int) -> tuple[str, int]:
    """The kind of the sign that begins here, and where it ends."""
    first = pattern[place]
    if first == "[":
        return "set", _end_of_set(pattern, place)
    if first == "\\":
        return _kind_of_escape(pattern[place + 1]), _end_of_escape(pattern, place)
    if first == "(" and (opening := _OPENING.match(pattern, place)):
        return "group", opening.end()
    if first == "{" and (count := _COUNT.match(pattern, place)):
        return "count", count.end()
    return _SINGLE.get(first, "literal"), place + 1


def _end_of_set(pattern: str, start: int) -> int:
    r"""A set may hold sets (`[\p{L}&&[^\p{Han}]]`) and named ones (`[[:alpha:]]`); a bracket that comes first is a character."""
    place = start + 1 + pattern.startswith("^", start + 1)
    place += pattern.startswith("]", place)
    while place < len(pattern):
        if pattern[place] == "]":
            return place + 1
        if pattern.startswith("[:", place) and (named := pattern.find(":]", place)) > 0:
            place = named + 2
        elif pattern[place] == "[":
            place = _end_of_set(pattern, place)
        else:
            place = _end_of_escape(pattern, place) if pattern[place] == "\\" else place + 1
    raise UserError(
        f"the pre-tokenizer's pattern {pattern!r} has a bracket at {start} that is not closed: give a tokenizer whose patterns can be read."
    )


def _end_of_escape(pattern: str, place: int) -> int:
    if pattern[place + 1 : place + 3] in ("p{", "P{", "x{"):
        return pattern.index("}", place) + 1
    return place + {"x": 4, "u": 6}.get(pattern[place + 1], 2)


def _kind_of_escape(letter: str) -> str:
    if letter in "bB":
        return "border"
    if letter in "AzZG":
        return "anchor"
    return "class" if letter in "pPsSdDwWhHR" else "literal"


@dataclass
class PatternAtoms:
    """What one pattern names.

    Attributes:
        atoms: patterns of one character each, which ignore case where the pattern does.
        counted: those of them after which a count stands.
        suffixes: what may stand after an apostrophe.
        counts_groups: whether something else than an atom is counted, so that the length of every run matters.
    """

    atoms: set[str] = field(default_factory=set)
    counted: set[str] = field(default_factory=set)
    suffixes: set[str] = field(default_factory=set)
    counts_groups: bool = False

    @classmethod
    def read(cls, pattern: str) -> "PatternAtoms":
        """Read a pattern."""
        found, ignores_case, suffixes, before = cls(), [False], _Suffixes(), ""
        for sign in signs(pattern):
            atom = ""
            if sign.kind == "group":
                _open(ignores_case, sign.text)
            elif sign.kind == "close" and len(ignores_case) > 1:
                ignores_case.pop()
            elif sign.kind == "count":
                found.counts_groups |= not before
                found.counted |= {before} - {""}
            elif sign.kind == "border":
                found.atoms.add(r"\w")
            elif sign.kind in ("set", "class", "literal"):
                atom = _atom(sign, ignores_case[-1])
            if not suffixes.takes(sign) and atom:
                found.atoms.add(atom)
            before = atom
        # A line break of two characters is one `\R`.
        found.atoms |= {r"\r", r"\n"} if r"\R" in found.atoms else set()
        found.suffixes = suffixes.found
        return found


def _atom(sign: Sign, ignores_case: bool) -> str:
    text = re.escape(sign.text) if len(sign.text) == 1 else sign.text
    cased = sign.kind == "set" or any(character.isalpha() for character in text.lstrip("\\"))
    return f"(?i:{text})" if ignores_case and cased and sign.kind != "class" else text


def _open(ignores_case: list[bool], opening: str) -> None:
    """Enter a group, or take flags that hold as far as the group goes: `(?i)`."""
    on, _, off = opening.strip("(?:)").partition("-")
    ignored = (ignores_case[-1] or "i" in on) and "i" not in off if opening[-1] in ":)" else ignores_case[-1]
    if opening.endswith(")"):
        ignores_case[-1] = ignored
    else:
        ignores_case.append(ignored)


class _Suffixes:
    """Takes the letters that stand after an apostrophe: `'s|'re`, `'(?:[sdmt]|ll)`."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        # At each level of groups since the apostrophe: what stands before the alternatives; nothing where no apostrophe came.
        self._levels: list[set[str]] = []
        self._words: set[str] = set()

    def takes(self, sign: Sign) -> bool:
        """Take one more sign; whether it is part of a suffix."""
        if sign.kind in ("literal", "set") and set(sign.text.strip("[]")) <= set(APOSTROPHES):
            self._levels, self._words = [{""}], {""}
            return False
        if not self._levels:
            return False
        if _LETTERS.fullmatch(sign.text):
            self._words = {word + letter for word in self._words for letter in sign.text.strip("[]")}
            return True
        self.found |= self._words - {""}
        if sign.kind == "group" and sign.text in ("(", "(?:", "(?i:"):
            self._levels.append(self._words)
        elif sign.kind == "or" and len(self._levels) > 1:
            self._words = self._levels[-1]
        else:
            self._levels, self._words = [], set()
        return False
