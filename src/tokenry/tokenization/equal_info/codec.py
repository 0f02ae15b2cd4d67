"""Equal-info windows: a text cut into pieces that each compress to exactly W bits, coder and M1 begun anew at every piece.

    window        x_s, x_{s+1}, …, x_{s+n−1}  with the largest n whose code has T_n ≤ W bits; W bits are written
    greedy        the code, padded with zeros. A decoder that takes the longest text with these bits is often wrong: what did not fit is
                  not what the zeros say
    delay         the same bits, and the next window begins after the shortest text that has them
    free          any W bits in the interval of the text for which decoding overflows (T > W) right after it; where there are none, one
                  symbol less, and a window in which nothing is left so is written as by `delay` and named (`escaped`)

`delay` and `free` give every text back; `greedy` has the statistics of the paper. Windows know nothing of each other, so all of them are
decoded in one batch.

Source: Training LLMs over Neurally Compressed Text (arXiv 2404.03626), sections 3.2, A.5 and D.5; `free` is ours.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int

from tokenry.core.errors import UserError, require_one_of
from tokenry.tokenization.equal_info.bit_tokens import bits_of, tokens_of_bits, whole_bits
from tokenry.tokenization.equal_info.byte_models import FunctionWindows, Symbols, WindowModel
from tokenry.tokenization.equal_info.interval_code import (
    WHOLE,
    Interval,
    intervals_that_fit,
    padded_code,
)
from tokenry.tokenization.equal_info.quantised import cumulative_table, require_precision

EndOfWindow = Literal["greedy", "delay", "free"]
_TABLE_ELEMENTS = 1 << 22
"""Numbers in the tables that are made at once: 32 MB."""
_FIRST_LOOK, _SHORTEST_LOOK = 12, 4
"""Symbols of a text whose tables are made for its next window; a window that is longer is begun anew with twice as many."""


@dataclass(frozen=True)
class CodedWindows:
    """A text as windows.

    Attributes:
        window_bits: bits W of a window.
        codes: the W bits of each window, as a number.
        length: symbols of the text: the last window has no end of its own.
        escaped: windows that end as by `delay` where the others are `free`.
        n_symbols: symbols of each window, where a text was coded.
    """

    window_bits: int
    codes: tuple[int, ...]
    length: int
    escaped: tuple[int, ...] = ()
    n_symbols: tuple[int, ...] = ()

    def bits(self) -> str:
        """All windows as one string of 0 and 1."""
        return "".join(format(code, f"0{self.window_bits}b") for code in self.codes)

    def to_tokens(self, token_bits: int = 16) -> Int[np.ndarray, "tokens"]:
        """The bits as token ids, most significant bit first, the last one padded with zeros."""
        return tokens_of_bits(bits_of(self.codes, self.window_bits), token_bits)


def windows_of_tokens(tokens: Int[np.ndarray, "tokens"], token_bits: int, window_bits: int) -> list[int]:
    """The windows in tokens; padding that is longer than a window reads as a window, behind the text."""
    return whole_bits(tokens, token_bits, window_bits)


class EqualInfoCodec:
    """Cuts texts into windows of equal information, and puts them together again.

    Args:
        m1: the model of the symbols of a window; or any function from the symbols of a window so far to a distribution, in which whole
            numbers are frequencies.
        window_bits: bits W of a window, more than `precision`.
        precision: bits of the frequencies that distributions are rounded to.
        end_of_window: where windows end: `free`, `delay`, or `greedy`, which does not give every text back.

    Raises:
        UserError: a window that the rarest symbol does not fit into, or a precision too small for the symbols.
    """

    def __init__(
        self,
        m1: WindowModel | Callable[[tuple[int, ...]], Any],
        window_bits: int = 16,
        precision: int = 14,
        end_of_window: str = "free",
    ) -> None:
        self.m1 = m1 if isinstance(m1, WindowModel) else FunctionWindows(m1)
        self.window_bits, self.precision, self.end_of_window = window_bits, precision, end_of_window
        require_one_of(end_of_window, get_args(EndOfWindow), "end_of_window")
        require_precision(precision, self.m1.symbols)
        if precision < self.m1.least_precision:
            raise UserError(
                f"precision must be at least {self.m1.least_precision} bits for the {self.m1.symbols:,} symbols of this model "
                f"(log2 V + 2), got {precision}."
            )
        if window_bits < precision + 1:
            raise UserError(
                f"window_bits must be at least {precision + 1}, got {window_bits}: one of {self.m1.symbols:,} symbols at precision {precision} "
                f"can need {precision + 1} bits."
            )

    # --- encode ---------------------------------------------------------------------------------------------------------------

    def encode(self, text: Symbols, self_test: bool = True) -> CodedWindows:
        """Cut one text into windows; arguments as in `encode_many`."""
        return self.encode_many([text], self_test)[0]

    def encode_many(
        self,
        texts: Sequence[Symbols],
        self_test: bool = True,
        progress: Callable[[float], None] = lambda share: None,
    ) -> list[CodedWindows]:
        """Cut texts into windows, one window of every text at a time.

        Args:
            texts: bytes, or sequences of symbols.
            self_test: decode the windows before they are returned; `greedy`, which cannot pass it, is not tested.
            progress: called with the share of the texts that is cut.

        Raises:
            UserError: a symbol that M1 does not know, or windows that decode to something else.
        """
        for text in texts:
            self._require_known(text)
        cuts = [_CutText(text) for text in texts]
        look, whole = _FIRST_LOOK, sum(map(len, texts))
        while open_cuts := [cut for cut in cuts if cut.left]:
            room = max(1, _TABLE_ELEMENTS // (look * self.m1.symbols))
            for first in range(0, len(open_cuts), room):
                self._cut_next(open_cuts[first : first + room], look)
            # Windows of a text are alike: half as long again as the last ones is mostly enough.
            last = sum(cut.n_symbols[-1] for cut in open_cuts) / len(open_cuts)
            look = max(_SHORTEST_LOOK, math.ceil(1.5 * last) + 1)
            progress(1 - sum(cut.left for cut in cuts) / whole)
        coded = [cut.coded(self.window_bits) for cut in cuts]
        if self_test and self.end_of_window != "greedy":
            self._test(texts, coded)
        return coded

    def _cut_next(self, cuts: "Sequence[_CutText]", look: int) -> None:
        """Cut one window of each text."""
        while cuts:
            ahead = [cut.ahead(int(min(look, self.m1.longest))) for cut in cuts]
            tables = cumulative_table(self.m1.along(ahead), self.precision)
            chosen = np.concatenate([np.fromiter(symbols, np.int64, len(symbols)) for symbols in ahead])
            places = np.arange(len(chosen))
            starts, ends = tables[places, chosen], tables[places, chosen + 1]
            unfinished, first = [], 0
            for cut, symbols in zip(cuts, ahead, strict=True):
                rows = slice(first, first := first + len(symbols))
                path = list(
                    intervals_that_fit(
                        starts[rows].tolist(),
                        (ends - starts)[rows].tolist(),
                        self.precision,
                        self.window_bits,
                    )
                )
                at_end = len(symbols) in (cut.left, self.m1.longest)
                if len(path) > len(symbols) and not at_end:
                    unfinished.append(cut)
                    continue
                cut.add(*self._ended(path, tables[rows], at_end))
            cuts, look = unfinished, 2 * look

    def _ended(self, path: list[Interval], tables: np.ndarray, at_end: bool) -> tuple[int, int, bool]:
        """Code, symbols, and whether it is escaped, of a window whose longest text has the intervals of `path`."""
        longest = len(path) - 1
        if self.end_of_window == "free":
            for symbols in range(longest, 0, -1):
                # Behind the last symbol that there is, or that a window can hold, a decoder stops by itself.
                if at_end and symbols == len(tables):
                    return path[symbols].first_point(self.window_bits), symbols, False
                code = self._overflowing(path[symbols], tables[symbols])
                if code is not None:
                    return code, symbols, False
        code = padded_code(path[longest], self.window_bits)
        if self.end_of_window == "greedy":
            return code, longest, False
        same = (n for n in range(1, longest + 1) if padded_code(path[n], self.window_bits) == code)
        return code, next(same), self.end_of_window == "free"

    def _overflowing(self, interval: Interval, table: np.ndarray) -> int | None:
        """The first W bits in an interval after which every next symbol would be one too many.

        A symbol whose interval begins with the point v overflows where [v, v + 1) does not fit into it; where it does, no point in it will do.
        """
        bits, precision = self.window_bits, self.precision
        value, behind = interval.first_point(bits), interval.first_point_behind(bits)
        while value < behind:
            symbol = int(table.searchsorted(interval.place_of(value, bits, precision), side="right")) - 1
            start = int(table[symbol])
            following = interval.narrowed(start, int(table[symbol + 1]) - start, precision)
            if not following.holds_cell(bits):
                return value
            value = following.first_point_behind(bits)
        return None

    def _require_known(self, text: Symbols) -> None:
        if isinstance(text, bytes) and self.m1.symbols >= 256:
            return
        unknown = next((symbol for symbol in text if not 0 <= symbol < self.m1.symbols), None)
        if unknown is not None:
            raise UserError(f"the symbols of this model are 0 to {self.m1.symbols - 1}, got {unknown}.")

    def _test(self, texts: Sequence[Symbols], coded: Sequence[CodedWindows]) -> None:
        for number, (text, found) in enumerate(zip(texts, self.decode_many(coded), strict=True)):
            pairs = enumerate(itertools.zip_longest(text, found))
            wrong = next((place for place, (was, now) in pairs if was != now), None)
            if wrong is not None:
                raise UserError(
                    f"text {number} decodes to something else from symbol {wrong} on: M1 answers otherwise for one symbol after the "
                    "other than for a whole window; run it in float64, on one device."
                )

    # --- decode ---------------------------------------------------------------------------------------------------------------

    def decode(self, coded: CodedWindows) -> list[int]:
        """The text of some windows; arguments as in `decode_many`."""
        return self.decode_many([coded])[0]

    def decode_many(self, coded: Sequence[CodedWindows]) -> list[list[int]]:
        """The texts of windows, all windows in one batch; by the greedy rule they may differ from what was coded.

        Raises:
            UserError: bits that are no window of this model, or windows of another size.
        """
        for windows in coded:
            if windows.window_bits != self.window_bits:
                raise UserError(
                    f"the windows have {windows.window_bits} bits and this codec reads {self.window_bits}: set window_bits to the same."
                )
        codes = [code for windows in coded for code in windows.codes]
        offsets = np.cumsum([0, *(len(windows.codes) for windows in coded)]).tolist()
        escaped = {
            offset + place
            for windows, offset in zip(coded, offsets, strict=False)
            for place in windows.escaped
        }
        most = max((windows.length for windows in coded), default=0)
        decoded = self.decode_windows(codes, escaped, most)
        texts = []
        for windows, offset in zip(coded, offsets, strict=False):
            text = [symbol for window in decoded[offset : offset + len(windows.codes)] for symbol in window]
            texts.append(text if self.end_of_window == "greedy" else text[: windows.length])
        return texts

    def decode_windows(
        self,
        codes: Sequence[int],
        escaped: "frozenset[int] | set[int]" = frozenset(),
        most: float | int = math.inf,
    ) -> list[list[int]]:
        """The symbols of each window, all in one batch: as many steps as the longest window has symbols.

        Args:
            codes: the bits of each window.
            escaped: windows that end as by `delay`.
            most: the most symbols that a window can hold; the last window of a text has no end of its own.

        Raises:
            UserError: bits that are no window of this model.
        """
        wrong = next((code for code in codes if not 0 <= code < 1 << self.window_bits), None)
        if wrong is not None:
            raise UserError(f"a window has {self.window_bits} bits, got the number {wrong}.")
        room = max(1, _TABLE_ELEMENTS // self.m1.symbols)
        most = min(most, self.m1.longest)
        found: list[list[int]] = []
        for first in range(0, len(codes), room):
            windows = [
                _Decoded(code, "delay" if first + place in escaped else self.end_of_window)
                for place, code in enumerate(codes[first : first + room])
            ]
            self._decode(windows, most)
            found += [window.text(first + place) for place, window in enumerate(windows)]
        return found

    def _decode(self, windows: "list[_Decoded]", most: float | int) -> None:
        reader = self.m1.reader()
        active = windows if most >= 1 else []
        rows = reader.begin(len(active)) if active else None
        while active:
            assert rows is not None
            tables = cumulative_table(rows, self.precision)
            places = np.array(
                [window.interval.place_of(window.code, self.window_bits, self.precision) for window in active]
            )
            chosen = (tables[:, 1:] <= places[:, None]).sum(axis=1)
            tables = np.broadcast_to(tables, (len(active), tables.shape[1]))
            among = np.arange(len(active))
            starts, ends = tables[among, chosen], tables[among, chosen + 1]
            kept, symbols = [], []
            for row, (window, symbol, start, end) in enumerate(
                zip(active, chosen.tolist(), starts.tolist(), ends.tolist(), strict=True)
            ):
                following = window.interval.narrowed(start, end - start, self.precision)
                if window.take(symbol, following, self.window_bits) and len(window.symbols) < most:
                    kept.append(row)
                    symbols.append(symbol)
            active = [active[row] for row in kept]
            rows = reader.extend(kept, symbols) if active else None


class _CutText:
    """A text of which some windows are cut."""

    def __init__(self, text: Symbols) -> None:
        self._text, self._place = text, 0
        self.codes: list[int] = []
        self.n_symbols: list[int] = []
        self.escaped: list[int] = []

    @property
    def left(self) -> int:
        return len(self._text) - self._place

    def ahead(self, symbols: int) -> Symbols:
        return self._text[self._place : self._place + symbols]

    def add(self, code: int, symbols: int, escaped: bool) -> None:
        self.escaped += [len(self.codes)] * escaped
        self.codes.append(code)
        self.n_symbols.append(symbols)
        self._place += symbols

    def coded(self, window_bits: int) -> CodedWindows:
        return CodedWindows(
            window_bits, tuple(self.codes), self._place, tuple(self.escaped), tuple(self.n_symbols)
        )


class _Decoded:
    """A window that is decoded, and the number of symbols after which it ends by its rule."""

    def __init__(self, code: int, rule: str) -> None:
        self.code, self._rule = code, rule
        self.interval: Interval = WHOLE
        self.symbols: list[int] = []
        self._matches = 0

    def take(self, symbol: int, interval: Interval, window_bits: int) -> bool:
        """Take the next symbol, if it fits; returns whether the window goes on."""
        if not interval.holds_cell(window_bits):
            return False
        self.interval = interval
        self.symbols.append(symbol)
        if self._rule != "free" and padded_code(interval, window_bits) == self.code:
            self._matches = len(self.symbols)
            return self._rule == "greedy"
        return True

    def text(self, number: int) -> list[int]:
        if self._rule == "free":
            return self.symbols
        if not self._matches:
            raise UserError(
                f"window {number} is not a codeword of this model: it was coded with a different M1, window or precision."
            )
        return self.symbols[: self._matches]
