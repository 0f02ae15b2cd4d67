"""The number in an answer, and its format.

A number is a digit, then any number of (separators, digit); an answer is valid if it holds exactly one, after white space is stripped.

Source: Tokenization counts (arXiv 2402.14903) and its released code (`utils.py`).
"""

import re
from dataclasses import dataclass

from tokenry.core.text.digit_groups import NAMED_SEPARATORS, NumberFormat, number_format

_SEPARATOR = "|".join(map(re.escape, NAMED_SEPARATORS.values()))
_NUMBER = re.compile(f"[0-9](?:(?:{_SEPARATOR})*[0-9])*")


@dataclass(frozen=True)
class ParsedAnswer:
    """The number in a text.

    Attributes:
        number: the number without separators; -1 for none, or several.
        matched: the number as it is written; None for an invalid answer.
        padded: whether white space surrounds the answer.
        extraneous: whether the text holds more than the number.
        format_match: whether the number has the expected format; False without one.
    """

    number: int
    matched: str | None
    padded: bool
    extraneous: bool
    format_match: bool

    @property
    def valid(self) -> bool:
        """Whether the answer holds exactly one number."""
        return self.matched is not None


def parse_answer(text: str, format: str | NumberFormat | None = None) -> ParsedAnswer:
    """Find the number in a model's answer; an answer without one is invalid, not an error.

    Args:
        text: the model's answer.
        format: expected format of the number.
    """
    expected = number_format(format) if isinstance(format, str) else format
    stripped = text.strip()
    found = _NUMBER.findall(stripped)
    matched = found[0] if len(found) == 1 else None
    digits = re.sub("[^0-9]", "", matched) if matched else ""
    return ParsedAnswer(
        number=_integer(digits) if digits else -1,
        matched=matched,
        padded=stripped != text,
        extraneous=matched != stripped,
        format_match=bool(digits)
        and expected is not None
        and expected.write(digits.lstrip("0") or "0") == matched,
    )


def _integer(digits: str) -> int:
    # In pieces: Python reads no more than 4,300 digits at once, and an answer may be of any length.
    value = 0
    for start in range(0, len(digits), 4000):
        piece = digits[start : start + 4000]
        value = value * 10 ** len(piece) + int(piece)
    return value
