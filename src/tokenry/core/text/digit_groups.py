"""How a run of digits is cut into groups, and how separators make that cut visible to a model that is frozen.

    l2r     1234567 → 123 456 7
    r2l     1234567 → 1 234 567      the first group has n mod group digits, or all of a group where that is 0
    single  1234567 → 1 2 3 4 5 6 7

Groups never cross a decimal point, a sign or a letter. Everything is plain string arithmetic, linear in the text.

Source: Tokenization counts (arXiv 2402.14903).
"""

import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, SupportsIndex, get_args

from tokenry.core.errors import UserError, require_one_of

Direction = Literal["l2r", "r2l"]
GroupMode = Literal["l2r", "r2l", "single"]
Fraction = Literal["l2r"]

NAMED_SEPARATORS = {"comma": ",", "space": " ", "dec": ".", "hashtag": "#", "dollar": "$", "foo": "foo"}
"""What stands between the groups under the name of a format; `nosep` has nothing."""

FORMAT_NAMES = ("nosep", *(f"{name}_{way}" for way in get_args(Direction) for name in NAMED_SEPARATORS))
"""The formats of the paper: `comma_r2l` is ordinary thousands notation."""


@dataclass(frozen=True)
class NumberFormat:
    """How numbers are written into a prompt.

    Attributes:
        separator: between the groups; may be of several characters, or empty.
        direction: from where the groups are counted.
        group: digits of a group.
    """

    separator: str = ","
    direction: str = "r2l"
    group: int = 3

    def __post_init__(self) -> None:
        require_one_of(self.direction, get_args(Direction), "direction")
        require_group(self.group)

    def write(self, number: SupportsIndex | float | str) -> str:
        """Write a non-negative integer, or a string of digits, whose leading zeros are kept."""
        return chunk(require_digits(number), self.group, self.separator, self.direction)


def number_format(name: str, group: int = 3) -> NumberFormat:
    """Look a format up by its name (see `FORMAT_NAMES`).

    Raises:
        UserError: there is none of that name, or the group has no digit.
    """
    require_one_of(name, FORMAT_NAMES, "format")
    if name == "nosep":
        return NumberFormat("", "l2r", group)
    separator, _, direction = name.partition("_")
    return NumberFormat(NAMED_SEPARATORS[separator], direction, group)


def format_number(number: SupportsIndex | float | str, format: str | NumberFormat, group: int = 3) -> str:
    """Write a number in a format: `format_number(1234567, "comma_r2l")` is `1,234,567`.

    Args:
        number: a non-negative integer, or a string of the digits 0 to 9.
        format: the name of a format, or one of your own.
        group: digits of a group; a format of your own has its own.

    Raises:
        UserError: an unknown format, a group below 1, or a number that is negative or no integer.
    """
    chosen = format if isinstance(format, NumberFormat) else number_format(format, group)
    return chosen.write(number)


def chunk(text: str, group: int = 3, separator: str = ",", direction: str = "r2l") -> str:
    """Put a separator between the groups of a string.

    Raises:
        UserError: an unknown direction, or a group below 1.
    """
    require_one_of(direction, get_args(Direction), "direction")
    require_group(group)
    return separator.join(cut(text, direction, group))


def cut(text: str, mode: str = "r2l", group: int = 3) -> list[str]:
    """Cut a string into its groups."""
    ends = list(_ends(len(text), mode, group))
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def group_sizes(length: int, mode: str = "r2l", group: int = 3) -> list[int]:
    """The sizes of the groups of `length` digits, from left to right.

    Raises:
        UserError: an unknown mode, or a group below 1.
    """
    require_one_of(mode, get_args(GroupMode), "mode")
    require_group(group)
    ends = list(_ends(length, mode, group))
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def group_digits(
    text: str,
    mode: str = "r2l",
    group: int = 3,
    unicode: bool = False,
    fraction: str | None = None,
) -> list[tuple[str, int, int]]:
    """Cut the digits of a text into groups; what lies between two runs of digits stays one piece.

    Args:
        text: any; pieces put together give it back.
        mode: `l2r`, `r2l` or `single`.
        group: digits of a group.
        unicode: whether all decimal digits count, not only 0 to 9.
        fraction: `l2r` cuts digits that follow a digit and a point from the left, outwards from the point.

    Returns:
        Of each piece its text, its start and its end in characters.

    Raises:
        UserError: an unknown mode, or a group below 1.
    """
    require_one_of(mode, get_args(GroupMode), "mode")
    require_group(group)
    require_fraction_mode(fraction)
    pieces, done = [], 0
    for run in re.finditer(r"\d+" if unicode else "[0-9]+", text):
        start, end = run.span()
        if done < start:
            pieces.append((text[done:start], done, start))
        outwards = fraction == "l2r" and mode == "r2l" and _follows_point(text, start, unicode)
        done = start
        for size in _ends(end - start, "l2r" if outwards else mode, group):
            pieces.append((text[done : start + size], done, start + size))
            done = start + size
    if done < len(text):
        pieces.append((text[done:], done, len(text)))
    return pieces


def require_group(group: int) -> None:
    """Raise `UserError` unless a group holds a digit or more."""
    if group < 1:
        raise UserError(f"group must be at least 1, got {group}: it is the number of digits in a group.")


def require_fraction_mode(fraction: str | None) -> None:
    """Raise `UserError` unless fractions are grouped like all digits (None) or outwards from the point."""
    if fraction is not None:
        require_one_of(fraction, get_args(Fraction), "fraction")


def require_digits(number: SupportsIndex | float | str) -> str:
    """Return the digits of a number.

    Raises:
        UserError: it is negative, or no integer.
    """
    if isinstance(number, str):
        if not (number.isascii() and number.isdigit()):
            raise _no_number(number)
        return number
    try:
        value = operator.index(number)  # type: ignore[arg-type]
    except TypeError as error:
        raise _no_number(number) from error
    if value < 0 or isinstance(number, bool):
        raise _no_number(number)
    try:
        return str(value)
    except ValueError as error:  # Python writes no longer integers unless told to
        raise UserError(f"a number of this length must be given as a string of digits ({error}).") from error


def _no_number(given: object) -> UserError:
    return UserError(
        f"a number must be a non-negative integer, or a string of the digits 0 to 9, got {given!r}: signs and fractions have no place in it."
    )


def _ends(length: int, mode: str, group: int) -> Iterator[int]:
    """Where the groups end."""
    step = 1 if mode == "single" else group
    first = length % step if mode == "r2l" else 0
    if first:
        yield first
    for start in range(first, length, step):
        yield min(start + step, length)


def _follows_point(text: str, start: int, unicode: bool) -> bool:
    before = text[max(0, start - 2) : start]
    return (
        len(before) == 2
        and before[1] == "."
        and (before[0].isdecimal() if unicode else before[0] in "0123456789")
    )
