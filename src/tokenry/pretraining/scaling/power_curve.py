"""A power law of one quantity, with a floor or without: what is fitted to loss over compute where tokens per parameter stay the same.

    y = a · x^b + c        b < 0; least squares in y
    y = a · x^b            a straight line through the logarithms

Source: the fits beside the law in the released code of arXiv 2403.08540.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import ndarray

from tokenry.core.errors import UserError
from tokenry.core.stats import SeparableCurve, fit_separable
from tokenry.pretraining.scaling.loss_law import Numbers, positive


@dataclass(frozen=True)
class PowerCurve:
    """The fitted curve: factor `a`, exponent `b`, floor `c`, and the sum of squared errors `sse` in y."""

    a: float
    b: float
    c: float = 0.0
    sse: float = math.nan

    def predict(self, x: Numbers) -> Any:
        """Predict y."""
        found = self.a * np.asarray(x, dtype=float) ** self.b + self.c
        return found if np.ndim(found) else float(found)


def fit_power_law(x: Numbers, y: Numbers, floor: bool = True) -> PowerCurve:
    """Fit a falling power law.

    Args:
        x: what y depends on, such as FLOPs.
        y: such as a loss.
        floor: whether there is a `c`.

    Raises:
        UserError: too few different x, values that are not positive, or lists of different lengths.
    """
    along, measured = (np.atleast_1d(positive(name, values)) for name, values in (("x", x), ("y", y)))
    if len(along) != len(measured):
        raise UserError(f"every point needs x and y, got {len(along)} and {len(measured)} of them.")
    constants = 2 + floor
    if (different := len(np.unique(along))) < constants:
        raise UserError(
            f"a power law of {constants} constants cannot be told from {different} different x: measure at least {constants}."
        )
    logs = np.log(along)
    if not floor:
        slope, height = np.polyfit(logs, np.log(measured), 1)
        found = PowerCurve(math.exp(height), float(slope))
        return PowerCurve(found.a, found.b, 0.0, float(np.square(found.predict(along) - measured).sum()))
    middle = logs.mean()
    curve = SeparableCurve(_columns, 1e-3, 4.0, (False, False))
    fit = fit_separable(curve, logs - middle, measured)
    factor, least = fit.coefficients.tolist()
    return PowerCurve(factor * math.exp(fit.exponent * middle), -fit.exponent, least, fit.sse)


def _columns(exponent: ndarray, logs: ndarray) -> ndarray:
    fall = np.exp(-exponent[..., None] * logs)
    return np.stack([fall, np.ones_like(fall)], axis=-1)
