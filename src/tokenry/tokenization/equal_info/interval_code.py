"""The interval of a text, exactly, and its shortest code.

    interval      [low, low + width) / 2^(precision · k) after k symbols, all whole numbers
    symbol        low ← low · R + width · c,  width ← width · f
    code          the T bits, read as m, with the smallest T (then the smallest m) for which [m, m + 1) / 2^T lies inside

T never falls when a symbol is added, and is at most ⌈−log2 P⌉ + 1.

Source: Training LLMs over Neurally Compressed Text (arXiv 2404.03626), section 3.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Interval(NamedTuple):
    """An interval [low, low + width) / 2^bits."""

    low: int
    width: int
    bits: int

    def narrowed(self, start: int, frequency: int, precision: int) -> "Interval":
        """The part of a symbol with cumulative frequency `start`."""
        return Interval(
            (self.low << precision) + self.width * start, self.width * frequency, self.bits + precision
        )

    def first_point(self, window_bits: int) -> int:
        """The smallest v for which v / 2^window_bits does not lie before the interval."""
        return _ceiling(self.low << window_bits, self.bits)

    def first_point_behind(self, window_bits: int) -> int:
        """The smallest v for which v / 2^window_bits lies behind the interval."""
        return _ceiling((self.low + self.width) << window_bits, self.bits)

    def holds_cell(self, window_bits: int) -> bool:
        """Whether some [v, v + 1) / 2^window_bits lies inside, so that the code has at most this many bits."""
        return (self.first_point(window_bits) + 1) << self.bits <= (self.low + self.width) << window_bits

    def place_of(self, value: int, window_bits: int, precision: int) -> int:
        """The cumulative frequency, from 0 to 2^precision − 1, at which the point value / 2^window_bits stands in the interval."""
        ahead = (value << self.bits) - (self.low << window_bits)
        return (ahead << precision) // (self.width << window_bits)


WHOLE = Interval(0, 1, 0)
"""The interval of the empty text, [0, 1)."""


def code_of(interval: Interval) -> tuple[int, int]:
    """The shortest code of an interval: the number T of its bits, and its value m."""
    bits = max(0, interval.bits - interval.width.bit_length())
    while not interval.holds_cell(bits):
        bits += 1
    return bits, interval.first_point(bits)


def interval_code(low: int, width: int, k: int, precision: int) -> tuple[int, int]:
    """The same for the interval [low, low + width) / 2^(precision · k) of k symbols."""
    return code_of(Interval(low, width, precision * k))


def padded_code(interval: Interval, window_bits: int) -> int:
    """The code with zeros behind it, as a number of `window_bits` bits."""
    bits, value = code_of(interval)
    return value << (window_bits - bits)


def intervals_that_fit(
    starts: Sequence[int], frequencies: Sequence[int], precision: int, window_bits: int
) -> Iterator[Interval]:
    """The intervals of the longest text that has a code of at most `window_bits` bits, after 0, 1, 2, … of its symbols."""
    interval = WHOLE
    yield interval
    for start, frequency in zip(starts, frequencies, strict=True):
        interval = interval.narrowed(start, frequency, precision)
        if not interval.holds_cell(window_bits):
            return
        yield interval


def _ceiling(number: int, bits: int) -> int:
    return -(-number >> bits)
