r"""Typed stickers: every number of a question must stand in its sticker. Catches dropped and misread conditions without asking a model.

    missing = numbers(query) - numbers(sticker)          as values: 1,000 = 1000, 0.5 = 1/2, twelve = 12

Words count from two on ("one of them" is no number), and only where they stand alone or after a ten: "twenty-five".
A number that stands several times in the question may stand once in the sticker.
"""

import re
from fractions import Fraction

from tokenry.core.text.answers import as_number

_UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_WORDS = {word: value for value, word in enumerate(_UNITS.split())}
_TENS = {
    word: 10 * value
    for value, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2
    )
}
_ANY_WORD = "|".join(_WORDS)
_NUMBER_WORD = re.compile(rf"\b(?:({'|'.join(_TENS)})(?:[- ]({_ANY_WORD}))?|({_ANY_WORD}))\b", re.IGNORECASE)
_BRACED = r"\{\d+\}"
# A number in a name or behind a hyphen ("A4", "COVID-19") is one too; the point at the end of a sentence is not a part.
_DIGITS = re.compile(
    rf"\\[dt]?frac{_BRACED}{_BRACED}|\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?|\d+\s*/\s*\d+|\d*\.\d+|\d+"
)
# The number at the start of a line of a sticker counts the conditions.
_COUNT = re.compile(r"^\s*\d+[.)]\s+", re.MULTILINE)


def numbers_in(text: str) -> dict[Fraction, str]:
    """The numbers in a text by value, each as it is written, those in digits first."""
    written = [(match[0], as_number(match[0])) for match in _DIGITS.finditer(text)]
    written += [(match[0], _value(match)) for match in _NUMBER_WORD.finditer(text)]
    found: dict[Fraction, str] = {}
    for number, value in written:
        if value is not None:
            found.setdefault(value, number)
    return found


def missing_numbers(query: str, sticker: str) -> tuple[str, ...]:
    """The numbers of a question, as they are written there, that its sticker does not have; its line numbers do not count."""
    there = numbers_in(_COUNT.sub("", sticker))
    return tuple(
        written
        for value, written in numbers_in(query).items()
        if value not in there and not (written.isalpha() and value < 2)
    )


def _value(match: re.Match[str]) -> Fraction:
    ten, unit, alone = (part.lower() if part else "" for part in match.groups())
    return Fraction(_TENS.get(ten, 0) + _WORDS.get(unit or alone, 0))
