"""Streams of bits beside equal-info windows: arithmetic codes without windows, gzip, and windows in which only the coder begins anew.

ArithmeticCodec     one arithmetic code of the whole text, by the range coder of constriction (extra `codec`)
                    with WittenBellModel(corpus, order=1) for M1: the paper's StaticAC
gzip_stream         zlib at its usual level, header and footer kept
coder_resets        windows of W bits whose M1 goes on reading: denser than equal-info windows, and not learnable
wnc_encode          the 32-bit coder of Witten, Neal and Cleary, in whole numbers: the reference of the golden numbers

constriction rounds probabilities to 24 bits; it is given the same whole frequencies as every other coder here.

Source: Training LLMs over Neurally Compressed Text (arXiv 2404.03626), sections 3.1 to 3.3; Witten, Neal and Cleary, Arithmetic Coding for
Data Compression (1987).
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tokenry.core.errors import UserError
from tokenry.tokenization.equal_info.bit_tokens import tokens_of_bits
from tokenry.tokenization.equal_info.byte_models import Rows, Symbols, WindowModel
from tokenry.tokenization.equal_info.codec import CodedWindows
from tokenry.tokenization.equal_info.interval_code import intervals_that_fit, padded_code
from tokenry.tokenization.equal_info.quantised import cumulative_table, frequency_rows, require_precision

_CHUNK, _LEAST_CHUNK, _TABLE_ELEMENTS = 4096, 64, 1 << 22


class ArithmeticCodec:
    """One arithmetic code of a text, by constriction's range coder: M1 and coder are never begun anew.

    M1 predicts each symbol from `m1.memory` symbols before it, or a few more.

    Args:
        m1: the model.
        precision: bits of the frequencies.

    Raises:
        UserError: constriction is not installed, or a precision too small for the symbols.
    """

    def __init__(self, m1: WindowModel, precision: int = 14) -> None:
        require_precision(precision, m1.symbols)
        _constriction()
        self.m1, self.precision = m1, precision

    def encode(self, text: Symbols) -> bytes:
        """The code of a text: whole words of 32 bits."""
        return range_encode(
            (symbols, frequency_rows(rows, self.precision)) for symbols, rows in rows_along(self.m1, text)
        )

    def decode(self, code: bytes, length: int) -> list[int]:
        """The first `length` symbols of the text of a code, one after another."""
        stream = _constriction()
        decoder = stream.queue.RangeDecoder(np.frombuffer(code, ">u4").astype(np.uint32))
        text: list[int] = []
        for before, begin, end in stretches(self.m1, length):
            reader = self.m1.reader()
            rows = reader.begin(1)
            for symbol in text[before:begin]:
                rows = reader.extend([0], [symbol])
            while len(text) < end:
                law = _weights(frequency_rows(rows, self.precision))[0]
                text.append(int(decoder.decode(stream.model.Categorical(law, perfect=False))))
                if len(text) < end:
                    rows = reader.extend([0], text[-1:])
        return text


def range_encode(chunks: Iterable[tuple[Symbols, Int[np.ndarray, "chunk symbols"]]]) -> bytes:
    """The code of symbols by constriction's range coder, chunk by chunk with the frequencies before each symbol."""
    stream = _constriction()
    encoder, family = stream.queue.RangeEncoder(), stream.model.Categorical(perfect=False)
    for symbols, frequencies in chunks:
        encoder.encode(np.array(list(symbols), np.int32), family, _weights(frequencies))
    return encoder.get_compressed().astype(">u4").tobytes()


def _weights(frequencies: Int[np.ndarray, "rows symbols"]) -> Float[np.ndarray, "rows symbols"]:
    """Constriction divides by the sum itself; float32 holds the 24 bits that it uses."""
    return frequencies.astype(np.float32)


def rows_along(m1: WindowModel, text: Symbols) -> Iterator[tuple[Symbols, Rows]]:
    """The chunks of a text with the distribution before each symbol, from a model that is never begun anew."""
    for before, begin, end in stretches(m1, len(text)):
        yield text[begin:end], m1.along([text[before:end]])[begin - before :]


def stretches(m1: WindowModel, length: int) -> Iterator[tuple[int, int, int]]:
    """Chunks of a text as a model reads them: the first symbol of the context, the first that is predicted, and the end."""
    step = int(min(_CHUNK, max(_LEAST_CHUNK, _TABLE_ELEMENTS // m1.symbols), m1.longest - m1.memory))
    for begin in range(0, length, step):
        yield max(0, begin - m1.memory), begin, min(begin + step, length)


def symbol_intervals(
    m1: WindowModel, text: Symbols, precision: int = 14
) -> tuple[Int[np.ndarray, "text"], Int[np.ndarray, "text"]]:
    """The cumulative frequency and the frequency of each symbol of a text: −log2 (f / 2^precision) is what it costs in bits."""
    starts, ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for symbols, rows in rows_along(m1, text):
        table = cumulative_table(rows, precision)
        chosen, places = np.array(list(symbols)), np.arange(len(symbols))
        starts.append(table[places, chosen])
        ends.append(table[places, chosen + 1])
    first, last = np.concatenate(starts), np.concatenate(ends)
    return first, last - first


def coder_resets(m1: WindowModel, text: Symbols, window_bits: int = 16, precision: int = 14) -> CodedWindows:
    """Windows in which the coder begins anew and M1 does not: the paper's control, ended greedily. It is only encoded."""
    if window_bits < precision + 1:
        raise UserError(f"window_bits must be at least {precision + 1}, precision + 1, got {window_bits}.")
    starts, frequencies = symbol_intervals(m1, text, precision)
    codes, n_symbols, place, look = [], [], 0, 16
    while place < len(text):
        ahead = slice(place, place + look)
        path = list(
            intervals_that_fit(starts[ahead].tolist(), frequencies[ahead].tolist(), precision, window_bits)
        )
        if len(path) > look:
            look *= 2
            continue
        codes.append(padded_code(path[-1], window_bits))
        n_symbols.append(len(path) - 1)
        place += n_symbols[-1]
    return CodedWindows(window_bits, tuple(codes), len(text), n_symbols=tuple(n_symbols))


def gzip_stream(data: bytes) -> bytes:
    """The text as zlib packs it."""
    return zlib.compress(data)


def stream_tokens(code: bytes, token_bits: int = 8) -> Int[np.ndarray, "tokens"]:
    """The bits of a stream as tokens."""
    return tokens_of_bits(np.unpackbits(np.frombuffer(code, np.uint8)), token_bits)


def _constriction() -> Any:
    try:
        import constriction
    except ImportError as error:
        raise UserError(
            "arithmetic codes need constriction, which is not installed: pip install 'tokenry[codec]'."
        ) from error
    return constriction.stream


# --- Witten, Neal and Cleary -------------------------------------------------------------------------------------------------------------

_TOP, _HALF, _QUARTER = (1 << 32) - 1, 1 << 31, 1 << 30


def wnc_encode(starts: Sequence[int], frequencies: Sequence[int], precision: int) -> str:
    """The code of a text by the 32-bit coder, as a string of 0 and 1.

    Args:
        starts: cumulative frequency of each symbol of the text.
        frequencies: its frequency.
        precision: bits of the frequencies.
    """
    low, high, pending = 0, _TOP, 0
    written: list[str] = []
    for start, frequency in zip(starts, frequencies, strict=True):
        size = high - low + 1
        low, high = low + ((size * start) >> precision), low + ((size * (start + frequency)) >> precision) - 1
        while True:
            if high < _HALF:
                written.append("0" + "1" * pending)
                pending = 0
            elif low >= _HALF:
                written.append("1" + "0" * pending)
                low, high, pending = low - _HALF, high - _HALF, 0
            elif low >= _QUARTER and high < 3 * _QUARTER:
                low, high, pending = low - _QUARTER, high - _QUARTER, pending + 1
            else:
                break
            low, high = 2 * low, 2 * high + 1
    written.append("0" + "1" * (pending + 1) if low < _QUARTER else "1" + "0" * (pending + 1))
    return "".join(written)


def wnc_decode(
    bits: str,
    length: int,
    table_after: Callable[[Sequence[int]], Int[np.ndarray, "symbols_and_one"]],
    precision: int,
) -> list[int]:
    """The text of such a code.

    Args:
        bits: the code.
        length: symbols of the text.
        table_after: the cumulative table after the symbols so far.
        precision: bits of the frequencies.
    """
    low, high, place = 0, _TOP, 32
    value = int(bits[:32].ljust(32, "0"), 2)
    text: list[int] = []
    while len(text) < length:
        table, size = table_after(text), high - low + 1
        symbol = int(table.searchsorted((((value - low + 1) << precision) - 1) // size, side="right")) - 1
        text.append(symbol)
        start, end = int(table[symbol]), int(table[symbol + 1])
        low, high = low + ((size * start) >> precision), low + ((size * end) >> precision) - 1
        while True:
            if high < _HALF:
                away = 0
            elif low >= _HALF:
                away = _HALF
            elif low >= _QUARTER and high < 3 * _QUARTER:
                away = _QUARTER
            else:
                break
            following = int(bits[place]) if place < len(bits) else 0
            low, high, value, place = (
                2 * (low - away),
                2 * (high - away) + 1,
                2 * (value - away) + following,
                place + 1,
            )
    return text
