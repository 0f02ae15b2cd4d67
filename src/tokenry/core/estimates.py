"""A mean per token, per byte, per anything that differs between items, with its standard error.

    value           = Σ totals / Σ sizes                         (not the mean of the items' means)
    standard error  = sqrt(N / (N − 1) · Σ (total − value · size)²) / Σ sizes

Source: ratio estimator over items as sampling units (Cochran, Sampling Techniques, 1977, section 6.4).
"""

import math

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from tokenry.core.errors import UserError


def ratio_estimate(
    totals: Float[ndarray, "items"], sizes: Int[ndarray, "items"] | Float[ndarray, "items"]
) -> tuple[float, float]:
    """Estimate Σ totals / Σ sizes and its standard error, with the items as sampling units.

    Raises:
        UserError: fewer than two items, or nothing to divide by.
    """
    number = len(totals)
    if number < 2:
        raise UserError(f"{number} held-out item has no standard error: give at least two.")
    size = float(sizes.sum())
    if size == 0:
        raise UserError(
            "the held-out items hold no text to divide by: their labels are -100 or special tokens everywhere."
        )
    mean = float(totals.sum()) / size
    residuals = totals - mean * sizes
    error = math.sqrt(number / (number - 1) * float(np.square(residuals).sum())) / size
    return mean, error
