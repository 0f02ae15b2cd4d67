"""The bootstrap over any sampling unit: draw the units anew, with replacement, and add up what is known of them.

    totals of a draw = Σ over units of (times drawn) · (columns of the unit)         times ~ Multinomial(units, 1 / units)

All columns share their draws, so that figures of the same units (languages of parallel text, properties of the same words) stay paired.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile interval.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from tokenry.core.stats.estimate import Estimate

_NUMBERS_AT_ONCE = 1 << 22


def times_drawn(units: int, draws: int = 2000, seed: int = 0) -> Iterator[Int[ndarray, "draws units"]]:
    """How often each unit occurs in each draw, in blocks of draws that fit into memory."""
    generator, even = np.random.default_rng(seed), np.full(units, 1 / units)
    at_once = max(1, _NUMBERS_AT_ONCE // units)
    for start in range(0, draws, at_once):
        yield generator.multinomial(units, even, size=min(at_once, draws - start))


def resampled_totals(
    columns: Float[ndarray, "units columns"], draws: int = 2000, seed: int = 0
) -> Float[ndarray, "draws columns"]:
    """Add up the columns of the units of each draw."""
    return np.concatenate([times @ columns for times in times_drawn(len(columns), draws, seed)])


def bootstrap_estimate(
    value: float, drawn: Float[ndarray, "draws"], units: int, confidence: float = 0.95
) -> Estimate:
    """Put a figure beside its draws: their standard deviation and percentiles; draws that are nan say nothing.

    Args:
        value: the figure of all units.
        drawn: the same figure of each draw.
        units: number of sampling units.
    """
    known = drawn[np.isfinite(drawn)]
    if len(known) < 2:
        return Estimate(value, float("nan"), units, float("nan"), float("nan"))
    outside = 50 * (1 - confidence)
    low, high = np.percentile(known, [outside, 100 - outside])
    return Estimate(value, float(known.std(ddof=1)), units, float(low), float(high))
