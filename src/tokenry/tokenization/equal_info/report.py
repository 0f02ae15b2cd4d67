"""What a stream of tokens costs: how many tokens and bits a text becomes, and what a model of the tokens makes of them.

    token compression ratio    L_iT / L_oT                        bytes over tokens
    bit ratio                  8 · L_iT / (L_oT · token bits)
    bits per byte              (L_oT / L_iT) · loss / ln 2        loss of M2 in nats per token
    uniform, unigram           the same for a model that knows nothing, and one that knows how often each token occurs
    FLOPs per byte             2 · params(M2) · L_oT / L_iT + 2 · params(M1)

Source: Training LLMs over Neurally Compressed Text (arXiv 2404.03626), section 4.
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from tokenry.core.errors import UserError, require_at_least
from tokenry.tokenization.equal_info.byte_models import Symbols
from tokenry.tokenization.equal_info.codec import CodedWindows, EqualInfoCodec


def bits_per_byte(loss: float | int, n_tokens: int, n_bytes: int) -> float:
    """Bits per byte of a text that has become `n_tokens` tokens, from the loss in nats per token."""
    require_at_least(1, n_bytes=n_bytes)
    return n_tokens / n_bytes * loss / math.log(2)


def flops_per_byte(m2_params: float | int, n_tokens: int, n_bytes: int, m1_params: float | int = 0) -> float:
    """Floating-point operations of a forward pass per byte, by non-embedding parameters; M1 counts where it is used."""
    require_at_least(1, n_bytes=n_bytes)
    return 2 * m2_params * n_tokens / n_bytes + 2 * m1_params


@dataclass(frozen=True)
class StreamReport:
    """What a text becomes.

    Attributes:
        name: name of the stream.
        n_bytes: bytes of the text.
        n_tokens: tokens of the stream.
        token_bits: bits of a token.
        windows: windows of the stream; None where it has none.
        wrong: windows that the decoder of its rule reads as another text; None where it has none.
        escaped: windows that are not free where the others are.
    """

    name: str
    n_bytes: int
    n_tokens: int
    token_bits: int
    windows: int | None = None
    wrong: int | None = None
    escaped: int | None = None

    @property
    def token_compression_ratio(self) -> float:
        """Bytes a token."""
        return self.n_bytes / self.n_tokens

    @property
    def bit_ratio(self) -> float:
        """Bits of the text over those of the stream."""
        return 8 * self.n_bytes / (self.n_tokens * self.token_bits)

    @property
    def uniform_bits_per_byte(self) -> float:
        """Bits per byte of a model of the tokens that knows nothing."""
        return self.token_bits * self.n_tokens / self.n_bytes

    @property
    def wrong_share(self) -> float | None:
        """Share of the windows that are read wrongly."""
        return None if self.wrong is None or not self.windows else self.wrong / self.windows


def compression_report(
    name: str, tokens: Int[np.ndarray, "tokens"], token_bits: int, n_bytes: int
) -> StreamReport:
    """Report on a stream of tokens of a text.

    Raises:
        UserError: there is no text.
    """
    if not n_bytes or not len(tokens):
        raise UserError("an empty text has no compression ratio: give a text that holds something.")
    return StreamReport(name, n_bytes, len(tokens), token_bits)


def window_report(
    name: str, coded: CodedWindows, wrong: Bool[np.ndarray, "windows"], token_bits: int, n_bytes: int
) -> StreamReport:
    """Report on the windows of a text, of which some are read wrongly (`wrong_windows`)."""
    report = compression_report(name, coded.to_tokens(token_bits), token_bits, n_bytes)
    return replace(report, windows=len(coded.codes), wrong=int(wrong.sum()), escaped=len(coded.escaped))


def wrong_windows(codec: EqualInfoCodec, coded: CodedWindows, text: Symbols) -> Bool[np.ndarray, "windows"]:
    """Which windows are read as something else; of the last one, what is behind the end of the text does not count."""
    decoded = codec.decode_windows(coded.codes, set(coded.escaped), max(coded.length, 1))
    wrong, place = [], 0
    for number, (symbols, found) in enumerate(zip(coded.n_symbols, decoded, strict=True)):
        is_last = number == len(decoded) - 1
        truth = list(text[place : place + symbols])
        wrong.append((found[:symbols] if is_last else found) != truth)
        place += symbols
    return np.array(wrong, dtype=bool)


def bits_of_symbols(coded: CodedWindows) -> Float[np.ndarray, "symbols"]:
    """What each symbol costs in the stream: the bits of its window, spread evenly."""
    n_symbols = np.array(coded.n_symbols, dtype=np.int64)
    return np.repeat(coded.window_bits / n_symbols, n_symbols)


def bits_of_words(text: bytes, bits: Float[np.ndarray, "bytes"]) -> list[tuple[bytes, float]]:
    """Words of a text, each with the space before it, and the bits of their bytes."""
    letters = np.frombuffer(text, np.uint8)
    is_space = np.isin(letters, np.frombuffer(b" \t\r\n", np.uint8))
    begins = (
        np.flatnonzero(is_space & ~np.concatenate([[False], is_space[:-1]]))
        if len(text)
        else np.zeros(0, int)
    )
    cuts = sorted({0, *begins.tolist(), len(text)})
    return [(text[begin:end], float(bits[begin:end].sum())) for begin, end in pairwise(cuts)]
