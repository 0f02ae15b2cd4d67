"""Bits as tokens: a stream of bits cut into numbers of 8 or 16 bits, or any other size, most significant bit first.

Source: Training LLMs over Neurally Compressed Text (arXiv 2404.03626), section 3.1.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8

from tokenry.core.errors import UserError, require_at_least

MOST_TOKEN_BITS = 24


def bits_of(numbers: Sequence[int], size: int) -> UInt8[np.ndarray, "bits"]:
    """Numbers of `size` bits as single bits."""
    width = -(-size // 8)
    data = b"".join([number.to_bytes(width, "big") for number in numbers])
    rows = np.unpackbits(np.frombuffer(data, np.uint8).reshape(len(numbers), width), axis=1)
    return rows[:, 8 * width - size :].reshape(-1)


def tokens_of_bits(bits: UInt8[np.ndarray, "bits"], token_bits: int) -> Int[np.ndarray, "tokens"]:
    """Bits as tokens of `token_bits` bits; the last one is padded with zeros."""
    require_at_least(1, token_bits=token_bits)
    if token_bits > MOST_TOKEN_BITS:
        raise UserError(
            f"token_bits must be at most {MOST_TOKEN_BITS}, got {token_bits}: 8 and 16 are usual."
        )
    padded = np.pad(bits, (0, -len(bits) % token_bits)).reshape(-1, token_bits)
    return padded.astype(np.int64) @ (1 << np.arange(token_bits - 1, -1, -1))


def whole_bits(tokens: Int[np.ndarray, "tokens"], token_bits: int, size: int) -> list[int]:
    """Tokens as numbers of `size` bits; what is left at the end is padding."""
    require_at_least(1, token_bits=token_bits)
    if len(tokens) and not (tokens.min() >= 0 and int(tokens.max()) < 1 << token_bits):
        raise UserError(f"a token of {token_bits} bits is a number from 0 to {(1 << token_bits) - 1}.")
    bits = bits_of(tokens.tolist(), token_bits)
    rows = bits[: len(bits) - len(bits) % size].reshape(-1, size)
    packed = np.packbits(np.pad(rows, ((0, 0), (-size % 8, 0))), axis=1)
    return [int.from_bytes(row.tobytes(), "big") for row in packed]
