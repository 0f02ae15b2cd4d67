r"""Find the answer in a response, and tell whether two answers are the same: as numbers where they are numbers.

    final_answer    the last \boxed{…}, else what follows the last "answer is", else the last number
    equal_answers   numeric: 0.5 = 1/2 = 2/4 = \frac{1}{2} = $0.50, 1,000 = 1000.0, 12 dollars = 12; other answers by notation
                    math_v2: by notation alone, as published figures were made (`tokenry.core.text.math_v2`)

A unit or a percent sign says nothing about the number. An answer that is missing or empty equals none, but in math_v2.
"""

import re
from fractions import Fraction

from tokenry.core.errors import require_one_of
from tokenry.core.text.math_v2 import boxed_answer, math_v2_answer, math_v2_equal

EQUALITIES = ("numeric", "math_v2")

_SAID = re.compile(
    r"(?:final answer|answer)(?: is|:)\s*:?\s*(.+?)\s*(?:\.(?=\s|$)|$)", re.IGNORECASE | re.MULTILINE
)
_LAST_NUMBER = re.compile(r"-?\d+\.\d+|-?\d+")
_GROUPED = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+\.\d+|-?\d*\.\d+|-?\d+(?:\s*/\s*\d+)?")

_SPACES = re.compile(r"\\[,;:! ]|~|\s+")
_SIGNS = re.compile(r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\}|\^\{?\\circ\}?|°|\\?%|\\?\$|\\(?:left|right)")
# A word of two letters or more; 2pi and 5x are no numbers with a unit.
_UNIT = re.compile(r"(?<=[\d}])\s*(?!pi\b|sqrt)[a-zA-Z]{2,}(?:\s+[a-zA-Z]+)*$")
_NAME = re.compile(r"^[a-zA-Z]{1,2}=")
_DECIMAL = r"(?:\d+(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)(?:(?P<whole>\d+)?\\[dt]?frac(?:\{{(?P<top>-?{_DECIMAL})\}}|(?P<one>\d))(?:\{{(?P<bottom>-?{_DECIMAL})\}}|(?P<other>\d))"
    rf"|(?P<left>{_DECIMAL})/(?P<right>{_DECIMAL})|(?P<decimal>{_DECIMAL})(?:(?:\\times|\\cdot|\*)10\^\{{?(?P<power>-?\d{{1,3}})\}}?)?)"
)


def final_answer(text: str) -> str | None:
    """Find the answer in a response; None if there is none."""
    if boxed := boxed_answer(text):
        return boxed
    if said := _SAID.findall(text):
        return said[-1]
    numbers = _GROUPED.findall(text)
    return numbers[-1] if numbers else None


def last_number_text(text: str) -> str | None:
    """The last integer or decimal before the first "Question:", as it is written; a comma ends a number."""
    numbers = _LAST_NUMBER.findall(text.split("Question:")[0])
    return numbers[-1] if numbers else None


def equal_answers(one: str | None, other: str | None, equality: str = "numeric") -> bool:
    """Whether two answers are the same.

    Args:
        one: an answer, or None for none.
        other: another.
        equality: `numeric` or `math_v2`.
    """
    require_one_of(equality, EQUALITIES, "equality")
    if equality == "math_v2":
        return math_v2_equal(one, other)
    if not (one and one.strip() and other and other.strip()):
        return False
    left, right = as_number(one), as_number(other)
    if left is not None and right is not None:
        return left == right
    return (left is None) == (right is None) and math_v2_equal(one, other)


def as_number(answer: str) -> Fraction | None:
    r"""The exact value of a number, a fraction or a mixed number (`1\frac{1}{2}`), with or without a unit; None for all else."""
    plain = _UNIT.sub("", _SIGNS.sub("", answer.strip().rstrip(".")).strip())
    plain = _NAME.sub("", _SPACES.sub("", plain).replace("−", "-"))
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", plain)
    found = _NUMBER.fullmatch(plain)
    if found is None:
        return None
    sign = -1 if found["sign"] == "-" else 1
    if found["decimal"]:
        return sign * Fraction(found["decimal"]) * Fraction(10) ** int(found["power"] or 0)
    top = Fraction(found["left"] or found["top"] or found["one"])
    bottom = Fraction(found["right"] or found["bottom"] or found["other"])
    return sign * (int(found["whole"] or 0) + top / bottom) if bottom else None


__all__ = [
    "EQUALITIES",
    "as_number",
    "boxed_answer",
    "equal_answers",
    "final_answer",
    "last_number_text",
    "math_v2_answer",
    "math_v2_equal",
]
