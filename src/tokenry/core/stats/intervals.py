"""Intervals of figures that no formula covers: the bootstrap by an index matrix, and the exact interval of a count.

    statistic of a draw = statistic(column[matrix[draw]] for every column)          matrix: draws × units, uniform with replacement
    interval of a share = Beta⁻¹(0.025; k, n − k + 1) to Beta⁻¹(0.975; k + 1, n − k)      Clopper and Pearson (1934)

Figures of the same units share one matrix, so their differences are paired.
"""

from collections.abc import Callable

import numpy as np
import scipy
from jaxtyping import Int
from numpy import ndarray

from tokenry.core.errors import require_at_least, require_fraction
from tokenry.core.stats.bootstrap import bootstrap_estimate, times_drawn
from tokenry.core.stats.estimate import Estimate, Values


def index_matrix(units: int, draws: int = 2000, seed: int = 0) -> Int[ndarray, "draws units"]:
    """The units of every draw, in ascending order: the same draws as `resampled_totals` makes with the same seed."""
    require_at_least(1, units=units, draws=draws)
    number = np.arange(units)
    return np.concatenate([
        np.stack([np.repeat(number, times) for times in block]) for block in times_drawn(units, draws, seed)
    ])  # fmt: skip


def bootstrap(
    statistic: Callable[..., float],
    *columns: Values,
    draws: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Estimate a statistic of one or several columns of the same units.

        bootstrap(lambda ours, theirs: np.median(ours) - np.median(theirs), ours, theirs)

    Args:
        statistic: computes the figure from the columns, each an array with one value per unit.
        columns: values of the units, in the same order.
        draws: number of resamples.
    """
    arrays = [np.asarray(column) for column in columns]
    matrix = index_matrix(len(arrays[0]), draws, seed)
    drawn = np.array([statistic(*(array[row] for array in arrays)) for row in matrix], dtype=float)
    return bootstrap_estimate(float(statistic(*arrays)), drawn, len(arrays[0]), confidence)


def clopper_pearson(events: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of a share; (0, 1) without any trial."""
    require_at_least(0, events=events, trials=trials)
    require_at_least(events, trials=trials)
    require_fraction(confidence, "confidence")
    outside = (1 - confidence) / 2
    low = float(scipy.special.betaincinv(events, trials - events + 1, outside)) if events else 0.0
    high = (
        float(scipy.special.betaincinv(events + 1, trials - events, 1 - outside)) if events < trials else 1.0
    )
    return low, high
