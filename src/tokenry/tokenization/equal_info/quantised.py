"""Probabilities as whole numbers that an arithmetic coder can divide an interval by, the same on both sides.

    R = 2^precision
    f_i = 1 + floor(p_i (R - V)),  what is left of R to the largest p_i        Σ f = R, f_i ≥ 1: every symbol can be coded
    c_i = Σ_{j < i} f_j

Source: Training LLMs over Neurally Compressed Text (arXiv 2404.03626), whose rounding is that of TensorFlow Compression; this one is ours.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tokenry.core.errors import UserError, require_at_least

MOST_PRECISION = 30
"""The integers of a table stay below 2^31."""


def quantize_pmf(
    probabilities: Float[np.ndarray, "*rows symbols"] | Sequence[Any], precision: int = 14
) -> Int[np.ndarray, "*rows symbols"]:
    """Turn distributions into frequencies that add up to 2^precision, none of them 0.

    Args:
        probabilities: distributions, normalised here in float64.
        precision: bits of the frequencies.

    Raises:
        UserError: a probability is negative or not finite, a row is all zero, or the symbols do not fit.
    """
    masses = np.asarray(probabilities, dtype=np.float64)
    require_precision(precision, masses.shape[-1])
    if not (np.isfinite(masses).all() and (masses >= 0).all()):
        raise UserError(
            "probabilities must be finite and at least 0: the distribution holds a negative number, nan or inf."
        )
    totals = masses.sum(axis=-1, keepdims=True)
    if not (totals > 0).all():
        raise UserError("a distribution is 0 for every symbol: give each row some probability.")
    whole = 1 << precision
    frequencies = 1 + np.floor(masses / totals * (whole - masses.shape[-1])).astype(np.int64)
    likeliest = masses.argmax(axis=-1, keepdims=True)
    left = whole - frequencies.sum(axis=-1, keepdims=True)
    np.put_along_axis(
        frequencies, likeliest, np.take_along_axis(frequencies, likeliest, axis=-1) + left, axis=-1
    )
    return frequencies


def frequency_rows(rows: np.ndarray, precision: int) -> Int[np.ndarray, "*rows symbols"]:
    """The frequencies of distributions; whole numbers are taken as the frequencies themselves.

    Raises:
        UserError: frequencies that do not add up to 2^precision or hold a 0, or distributions that cannot be.
    """
    if not np.issubdtype(rows.dtype, np.integer):
        return quantize_pmf(rows, precision)
    if (rows < 1).any() or (rows.sum(axis=-1) != 1 << precision).any():
        raise UserError(
            f"frequencies must be at least 1 and add up to 2^{precision} = {1 << precision}: give that precision, or probabilities."
        )
    return rows


def cumulative_table(rows: np.ndarray, precision: int) -> Int[np.ndarray, "*rows symbols_and_one"]:
    """The cumulative frequencies 0, c_1, …, 2^precision of distributions, as `frequency_rows` takes them."""
    frequencies = frequency_rows(rows, precision)
    table = np.zeros((*frequencies.shape[:-1], frequencies.shape[-1] + 1), dtype=np.int64)
    np.cumsum(frequencies, axis=-1, out=table[..., 1:])
    return table


def require_precision(precision: int, symbols: int) -> None:
    """Raise `UserError` unless each of the symbols can have a frequency of at least 1."""
    require_at_least(1, precision=precision)
    if precision > MOST_PRECISION:
        raise UserError(f"precision must be at most {MOST_PRECISION} bits, got {precision}.")
    if symbols > 1 << precision:
        raise UserError(
            f"{symbols:,} symbols need a precision of at least {(symbols - 1).bit_length()} bits, got {precision}: each has a frequency of 1 or more."
        )
