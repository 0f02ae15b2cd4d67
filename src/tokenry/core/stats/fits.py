"""Least-squares fits of curves whose parameters have bounds, usually ≥ 0, and how sure the parameters are.

fit         minimise Σ (curve(p) − measured)² over lower ≤ p ≤ upper, from several starts; the best one counts
bootstrap   residuals r, widened by √(n / (n − parameters)), drawn anew and put on the fitted curve; fitted again
profile     hold one parameter at values ever farther from the best, fit the others, and stop where the fit is worse than allowed
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float
from numpy import ndarray

Parameters = Float[ndarray, "parameters"]
Curve = Callable[[ndarray], ndarray]
Bounds = tuple[Any, Any]

_INSIDE = 1e-9


@dataclass(frozen=True)
class Fit:
    """A fitted curve.

    Attributes:
        parameters: the best ones.
        sse: sum of squared errors over the points.
    """

    parameters: Parameters
    sse: float


def fit_nonnegative(
    curve: Curve,
    measured: Float[ndarray, "points"],
    starts: Iterable[Any],
    bounds: Bounds = (0.0, np.inf),
    jacobian: Curve | None = None,
    tolerance: float = 1e-12,
) -> Fit:
    """Fit a curve from every start and return the best fit.

    Args:
        curve: parameters to the values at the points.
        measured: what was measured there.
        starts: parameters to begin at; moved inside the bounds where they lie outside.
        bounds: lower and upper, numbers or one per parameter.
        jacobian: parameters to slopes, one row per point and one column per parameter; by differences if not given.
    """
    lower, upper = (np.asarray(bound, dtype=float) for bound in bounds)
    fits = [
        scipy.optimize.least_squares(
            lambda parameters: curve(parameters) - measured,
            np.clip(start, lower + _INSIDE, np.maximum(upper - _INSIDE, lower + _INSIDE)),
            jacobian or "2-point",
            bounds=(lower, upper),
            x_scale="jac" if jacobian is None else 1.0,
            xtol=tolerance,
            ftol=tolerance,
            gtol=tolerance,
        )
        for start in starts
    ]
    best = min(fits, key=lambda found: found.cost)
    return Fit(best.x, 2 * float(best.cost))


def residual_bootstrap(
    fitted: Float[ndarray, "points"],
    measured: Float[ndarray, "points"],
    refit: Callable[[ndarray], ndarray],
    parameters: int,
    samples: int,
    seed: int = 0,
) -> Float[ndarray, "samples parameters"]:
    """Fit again to the fitted curve with its residuals drawn anew, so that every sample keeps the design of the data.

    Args:
        fitted: the curve at the points.
        measured: what was measured there.
        refit: measurements to parameters.
        parameters: number of parameters; no samples are drawn where as many points leave no residuals.
        samples: number of fits.
    """
    drawn = residual_draws(fitted, measured, parameters, samples, seed)
    return np.stack([refit(sample) for sample in drawn]) if len(drawn) else np.empty((0, parameters))


def residual_draws(
    fitted: Float[ndarray, "points"],
    measured: Float[ndarray, "points"],
    parameters: int,
    samples: int,
    seed: int = 0,
) -> Float[ndarray, "samples points"]:
    """Measurements on a fitted curve with its residuals drawn anew; arguments as in `residual_bootstrap`."""
    spare = len(measured) - parameters
    if spare <= 0 or samples <= 0:
        return np.empty((0, len(measured)))
    residuals = measured - fitted
    # A fit takes out part of the noise: what it leaves is widened by the degrees of freedom it used up.
    residuals = (residuals - residuals.mean()) * math.sqrt(len(measured) / spare)
    return fitted + np.random.default_rng(seed).choice(residuals, size=(samples, len(measured)))


def profile(
    refit: Callable[[float, ndarray], Fit],
    best: float,
    others: Parameters,
    ends: Sequence[float],
    allowed: float,
    steps: int = 12,
) -> list[tuple[float, Parameters]]:
    """Walk a parameter from its best value towards each end while the sum of squared errors stays at most `allowed`.

    Args:
        refit: a value of the parameter and a start to the fit of the others.
        others: the other parameters there.
        ends: values to walk to.
        allowed: sum of squared errors at which a walk stops.
        steps: from the best value to an end.

    Returns:
        (value, other parameters) in order of the value.
    """
    reached = [(best, others)]
    for end in ends:
        start = others
        for value in np.linspace(best, end, steps + 1)[1:] if abs(end - best) >= _INSIDE else ():
            found = refit(float(value), start)
            if found.sse > allowed:
                break
            start = found.parameters
            reached.append((float(value), start))
    return sorted(reached, key=lambda point: point[0])
