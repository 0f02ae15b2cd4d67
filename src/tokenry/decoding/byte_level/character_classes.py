r"""The characters that a pre-tokenizer cannot tell apart, for the whole of Unicode.

    class of a character = which atoms of the patterns it belongs to

Under `\p{L}+|[一-龥]|\s` there are four: 中 (in the first two), a (in the first), the space (in the third), and all others.

Atoms are tried with the engine that cuts the text. It would take a second for each to try all characters, so that below U+3400 and among
emoji every one is tried, and elsewhere one where the general category changes, where an atom ends, and every sixteenth (blocks of scripts
begin at multiples of sixteen), or every fourth of those that Python's Unicode does not know yet; where two of these differ, all between.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from functools import cache, lru_cache

import numpy as np
from jaxtyping import Bool, Int
from tokenizers import Regex, pre_tokenizers

_ALL = 0x110000
_SURROGATES = (0xD800, 0xE000)
_EVERY = ((0, 0x3400), (0x1F000, 0x1FB00))
# From here on there are few and large blocks.
_FAR, _STEP, _UNKNOWN_STEP, _FAR_STEP = 0x20000, 16, 4, 256
# Between the last ideographs and the tags nothing is assigned; after the tags there are two planes for private use.
_SPARSE = (0x33500, 0xE0000)


class CharacterClasses:
    """The classes of all characters under some atoms.

    Args:
        atoms: patterns of one character each.
        late: characters that name their class only where no other is in it.

    Attributes:
        of: the class of each code point.
        firsts: of each class a character that stands for it, a printable one of ASCII if possible.
    """

    def __init__(self, atoms: Collection[str], late: Collection[str] = ()) -> None:
        self._atoms = sorted(atoms)
        points = np.union1d(_points(), _ends(self._atoms))
        belongs = self._belonging(points)
        points, belongs = self._refined(points, belongs)
        _, classes = np.unique(belongs, axis=0, return_inverse=True)
        self._points, self._classes = points, classes.reshape(-1)
        lengths = np.diff(points, append=_ALL)
        self.of = np.repeat(self._classes, lengths).astype(np.int16)
        first = self._first_of_each(lambda point: chr(point) in late)
        self.firsts = [chr(point) for point in first]

    def members(self, number: int, among: str) -> str:
        """The characters among some that belong to a class."""
        return "".join(character for character in among if self.of[ord(character)] == number)

    def outside(self, characters: Collection[str]) -> list[str | None]:
        """One character of each class that is none of these characters; None where the class has no other."""
        found = self._first_of_each(lambda point: chr(point) in characters)
        return [None if chr(point) in characters else chr(point) for point in found]

    def matching(self, atom: str) -> Bool[np.ndarray, "classes"]:
        """Whether each class belongs to an atom."""
        return matching(atom, "".join(self.firsts))

    def _first_of_each(self, is_late: Callable[[int], bool]) -> list[int]:
        def rank(place: int) -> tuple[bool, bool, int]:
            point = int(self._points[place])
            return is_late(point), not 0x20 <= point < 0x7F, point

        order = np.argsort(self._classes, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(self._classes[order])) + 1)
        return [int(self._points[min(group[:_ENOUGH].tolist(), key=rank)]) for group in groups]

    def _belonging(self, points: Int[np.ndarray, "points"]) -> Bool[np.ndarray, "points atoms"]:
        characters = "".join(map(chr, points.tolist()))
        if not self._atoms:
            return np.zeros((len(points), 1), dtype=bool)
        return np.stack([matching(atom, characters) for atom in self._atoms], axis=1)

    def _refined(
        self, points: Int[np.ndarray, "points"], belongs: Bool[np.ndarray, "points atoms"]
    ) -> tuple[Int[np.ndarray, "more"], Bool[np.ndarray, "more atoms"]]:
        """Try all characters between two that differ without a change of their category."""
        categories = _categories()[points]
        differ = (
            (belongs[1:] != belongs[:-1]).any(1) & (np.diff(points) > 1) & (categories[1:] == categories[:-1])
        )
        between = [np.arange(points[place] + 1, points[place + 1]) for place in np.flatnonzero(differ)]
        if not between:
            return points, belongs
        new = np.concatenate(between)
        new = new[(new < _SURROGATES[0]) | (new >= _SURROGATES[1])]
        order = np.argsort(all_points := np.concatenate([points, new]), kind="stable")
        return all_points[order], np.concatenate([belongs, self._belonging(new)])[order]


@lru_cache(maxsize=16)
def character_classes(atoms: frozenset[str], late: frozenset[str]) -> CharacterClasses:
    """The classes of all characters under some atoms; they take half a second, and tokenizers share their patterns."""
    return CharacterClasses(atoms, late)


# Maximum number of characters of a class among which the one that stands for it is chosen.
_ENOUGH = 4096


def matching(atom: str, characters: str) -> Bool[np.ndarray, "characters"]:
    """Whether an atom matches each character, by the engine that cuts the text."""
    rest = pre_tokenizers.Split(Regex(f"(?:{atom})+"), "removed").pre_tokenize_str(characters)
    found = np.ones(len(characters), dtype=bool)
    for _, (start, end) in rest:
        found[start:end] = False
    return found


@cache
def _categories() -> Int[np.ndarray, "points"]:
    """The general category of each code point, as a number."""
    starts = [*range(_SPARSE[0]), *range(*_SPARSE, _FAR_STEP), *range(_SPARSE[1], _SPARSE[1] + 0x200)]
    starts += range(_SPARSE[1] + 0x200, _ALL, _FAR_STEP)
    names = [unicodedata.category(chr(point)) for point in starts]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    lengths = np.diff(starts, append=_ALL)
    return np.repeat(np.array([numbers[name] for name in names], dtype=np.int16), lengths)


@cache
def _points() -> Int[np.ndarray, "points"]:
    """The characters to try under any pattern."""
    categories = _categories()
    changes = np.flatnonzero(np.diff(categories, prepend=-1))
    # The last code point is assigned in no version.
    unknown = np.flatnonzero(categories[:_FAR:_UNKNOWN_STEP] == categories[_ALL - 1]) * _UNKNOWN_STEP
    near, far = np.arange(0, _FAR, _STEP), np.arange(_FAR, _ALL, _FAR_STEP)
    some = [changes, unknown, near, far, *(np.arange(*block) for block in _EVERY)]
    points = np.unique(np.concatenate(some))
    return points[(points < _SURROGATES[0]) | (points >= _SURROGATES[1])]


def _ends(atoms: Sequence[str]) -> Int[np.ndarray, "points"]:
    """The characters that atoms name, and those after them."""
    named = {ord(character) for atom in atoms for character in atom}
    named |= {int(code, 16) for atom in atoms for code in re.findall(r"\\(?:u|x\{?)([0-9A-Fa-f]+)", atom)}
    points = np.array(sorted(named | {point + 1 for point in named}), dtype=np.int64)
    return points[(points < _SURROGATES[0]) | ((points >= _SURROGATES[1]) & (points < _ALL))]
