"""Curves that are linear but for one exponent: variable projection, thousands of samples in one solve, bootstrap and profile intervals.

    curve(x) = Σ_j coefficient_j · column_j(exponent, x)
    sse(exponent) = min over the coefficients of Σ weight · (curve − measured)²        scanned, then narrowed by golden section
    profile interval = all values v with   Σ (curve − measured)² + (v − curve(x))² ≤ sse · (1 + F(confidence; 1, spare) / spare)

so no start is needed, the optimum is the global one of the scan, and the interval of a prediction is exact for normal errors: for a given
exponent the curves that are good enough form an ellipsoid, whose ends are known. Coefficients that must be ≥ 0 are found by trying every
set of columns: the best feasible one is the constrained optimum.

Sources: Golub and Pereyra (1973), variable projection; Bates and Watts, Nonlinear Regression (1988), section 6.1, profiles.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import scipy
from jaxtyping import Bool, Float
from numpy import ndarray

from tokenry.core.stats.bootstrap import times_drawn
from tokenry.core.stats.fits import residual_draws

Columns = Callable[[ndarray, ndarray], ndarray]
"""Exponents (any shape) and points to columns, of the shape of the exponents × points × columns."""
Reweigh = Callable[[ndarray, ndarray], ndarray]
"""Fitted and measured values to the weights of the next round."""

_GOLDEN = (math.sqrt(5) - 1) / 2
_SCANNED, _NARROWED, _PROFILED = 128, 40, 512
_SCANNED_NEAR, _NEAR = 5, 0.1
_NUMBERS_AT_ONCE = 1 << 22
_DEPENDENT, _DEPENDENCE = 1e-13, 1e10
_ROUNDS, _SETTLED = 300, 1e-8


@dataclass(frozen=True)
class SeparableCurve:
    """A curve that is linear but for its exponent.

    Attributes:
        columns: columns at exponents and points.
        low: least exponent, above 0.
        high: greatest exponent.
        nonnegative: which coefficients must be ≥ 0.
    """

    columns: Columns
    low: float
    high: float
    nonnegative: tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class SeparableFit:
    """A curve fitted to points.

    Attributes:
        curve: what was fitted.
        points: where it was measured; the first axis counts the points.
        measured: what was measured there.
        exponent: the best exponent.
        coefficients: the best coefficients.
        sse: weighted sum of squared errors.
        reweigh: how a robust fit weighs its points; None for least squares.
    """

    curve: SeparableCurve
    points: ndarray
    measured: Float[ndarray, "points"]
    exponent: float
    coefficients: Float[ndarray, "columns"]
    sse: float
    reweigh: Reweigh | None = None

    @property
    def spare(self) -> int:
        """Points beyond the number of constants: degrees of freedom of the residuals."""
        return len(self.measured) - len(self.coefficients) - 1

    @property
    def fitted(self) -> Float[ndarray, "points"]:
        """The curve at its points."""
        return self.curve.columns(np.asarray(self.exponent), self.points) @ self.coefficients

    def residual_draws(self, samples: int, seed: int = 0) -> tuple[ndarray, ndarray]:
        """Exponents and coefficients of fits to the curve with its residuals drawn anew; the same seed draws the same points."""
        constants = len(self.coefficients) + 1
        drawn = residual_draws(self.fitted, self.measured, constants, samples, seed)
        return fit_samples(self.curve, self.points, drawn, reweigh=self.reweigh)[:2]

    def case_draws(self, samples: int, seed: int = 0) -> tuple[ndarray, ndarray]:
        """Exponents and coefficients of fits to points drawn anew; nan where the points of a draw do not determine the curve."""
        return self._fits_of(np.concatenate([*times_drawn(len(self.measured), samples, seed)]).astype(float))

    def leave_one_out(self) -> tuple[ndarray, ndarray]:
        """Exponents and coefficients of fits without each point in turn; nan where the others do not determine the curve."""
        return self._fits_of(1.0 - np.eye(len(self.measured)))

    def _fits_of(self, times: Float[ndarray, "samples points"]) -> tuple[ndarray, ndarray]:
        """Fits in which each point counts so many times."""
        measured = np.broadcast_to(self.measured, times.shape)
        exponents, coefficients, _ = fit_samples(self.curve, self.points, measured, times, self.reweigh)
        columns = self.curve.columns(exponents, self.points) * (times > 0)[..., None]
        lengths = np.sqrt(np.square(columns).sum(axis=1, keepdims=True))
        dependent = np.linalg.cond(columns / np.maximum(lengths, np.finfo(float).tiny)) > _DEPENDENCE
        poor = dependent | ((times > 0).sum(axis=1) <= len(self.coefficients))
        return np.where(poor, np.nan, exponents), np.where(poor[:, None], np.nan, coefficients)

    def exponent_interval(self, confidence: float | int = 0.95) -> tuple[float, float] | None:
        """Exponents whose best curve is not significantly worse; None where no residuals are left."""
        likely = self._likely(confidence)
        return None if likely is None else (float(likely.min()), float(likely.max()))

    def interval(
        self, rows: Callable[[ndarray], ndarray], confidence: float | int = 0.95, noise: bool = False
    ) -> tuple[ndarray, ndarray] | None:
        """Profile intervals of linear functions of the coefficients; None where no residuals are left.

        Args:
            rows: exponents to factors of the coefficients, exponents × functions × columns.
            noise: whether the value is one new measurement, with an error of its own, and not the curve.
        """
        likely = self._likely(confidence)
        if likely is None:
            return None
        columns, targets = self.curve.columns(likely, self.points), rows(likely)
        lowest, highest = (np.full(targets.shape[1], end) for end in (np.inf, -np.inf))
        for support in _supports(self.curve.nonnegative):
            must = np.array(self.curve.nonnegative)[support]
            upper, onto, sse = _gram_schmidt(columns[..., support], self.measured)
            inverse = np.linalg.inv(upper)
            best = (inverse @ onto[..., None])[..., 0]
            left = np.clip(self._allowed(confidence) - sse, 0, None)
            spread = targets[..., support] @ inverse
            leverage = np.square(spread).sum(axis=-1) + noise
            step = np.sqrt(left[:, None] / np.maximum(leverage, np.finfo(float).tiny))
            centre = (targets[..., support] * best[:, None]).sum(axis=-1)
            direction = spread @ np.swapaxes(inverse, -1, -2)
            for sign in (-1, 1):
                moved = best[:, None] + sign * step[..., None] * direction
                reached = ((moved >= 0) | ~must).all(axis=-1) & (sse <= self._allowed(confidence))[:, None]
                value = centre + sign * step * leverage
                lowest = np.minimum(lowest, np.where(reached, value, np.inf).min(axis=0))
                highest = np.maximum(highest, np.where(reached, value, -np.inf).max(axis=0))
        return lowest, highest

    def _allowed(self, confidence: float) -> float:
        """The greatest sum of squared errors that is not significantly worse; rounding alone is never significant."""
        rounding = (1e-12 * np.abs(self.measured).max()) ** 2
        return max(self.sse, rounding) * (
            1 + float(scipy.special.fdtri(1, self.spare, confidence)) / self.spare
        )

    def _likely(self, confidence: float) -> Float[ndarray, "exponents"] | None:
        """Exponents whose best curve is good enough, close to each other."""
        if self.spare <= 0:
            return None
        ends = self.curve.low, self.curve.high
        for _ in range(2):  # all there are, then those between the outermost good ones
            scanned = np.unique([*np.geomspace(*ends, _PROFILED), self.exponent])
            sse = _constrained(
                self.curve.columns(scanned, self.points), self.measured, self.curve.nonnegative
            )[1]
            good = np.flatnonzero((sse <= self._allowed(confidence)) | (scanned == self.exponent))
            ends = scanned[max(good[0] - 1, 0)], scanned[min(good[-1] + 1, len(scanned) - 1)]
        return scanned[good]


def fit_separable(
    curve: SeparableCurve, points: ndarray, measured: Float[ndarray, "points"], reweigh: Reweigh | None = None
) -> SeparableFit:
    """Fit a curve by least squares, or by weights that follow from the fit (`reweigh`), until they settle."""
    exponents, coefficients, sse = fit_samples(curve, points, measured[None], reweigh=reweigh)
    return SeparableFit(curve, points, measured, float(exponents[0]), coefficients[0], float(sse[0]), reweigh)


def fit_samples(
    curve: SeparableCurve,
    points: ndarray,
    measured: Float[ndarray, "samples points"],
    weights: Float[ndarray, "samples points"] | None = None,
    reweigh: Reweigh | None = None,
) -> tuple[Float[ndarray, "samples"], Float[ndarray, "samples columns"], Float[ndarray, "samples"]]:
    """Fit a curve to many sets of measurements at the same points.

    Args:
        points: where it was measured.
        measured: one row per sample.
        weights: of the squared errors; 1 if not given.
        reweigh: fitted and measured values to factors of the weights, which are computed anew until the fits settle.

    Returns:
        Exponents, coefficients and weighted sums of squared errors.
    """
    at_once = max(1, _NUMBERS_AT_ONCE // (_SCANNED * measured.shape[1]))
    parts = [
        _settled(curve, points, measured[rows], None if weights is None else weights[rows], reweigh)
        for rows in (slice(start, start + at_once) for start in range(0, len(measured), at_once))
    ]
    if not parts:
        return np.empty(0), np.empty((0, len(curve.nonnegative))), np.empty(0)
    exponents, coefficients, sse = (np.concatenate(part) for part in zip(*parts, strict=True))
    return exponents, coefficients, sse


def _settled(
    curve: SeparableCurve, points: ndarray, measured: ndarray, given: ndarray | None, reweigh: Reweigh | None
) -> tuple[ndarray, ndarray, ndarray]:
    """Fits by weights that follow from them; samples whose curve no longer moves are left as they are."""
    exponents, coefficients, sse = _fit_weighted(curve, points, measured, given)
    if reweigh is None:
        return exponents, coefficients, sse
    moving = np.arange(len(measured))
    for _ in range(_ROUNDS):
        fitted = _values(curve, points, exponents[moving], coefficients[moving])
        weights = reweigh(fitted, measured[moving]) * (1.0 if given is None else given[moving])
        found = _fit_weighted(curve, points, measured[moving], weights, near=exponents[moving])
        exponents[moving], coefficients[moving], sse[moving] = found
        moved = np.abs(_values(curve, points, *found[:2]) - fitted).max(axis=1)
        moving = moving[moved > _SETTLED * np.abs(measured).max()]
        if not len(moving):
            break
    return exponents, coefficients, sse


def _values(curve: SeparableCurve, points: ndarray, exponents: ndarray, coefficients: ndarray) -> ndarray:
    return (curve.columns(exponents, points) @ coefficients[..., None])[..., 0]


def _fit_weighted(
    curve: SeparableCurve,
    points: ndarray,
    measured: ndarray,
    weights: ndarray | None,
    near: ndarray | None = None,
) -> tuple[ndarray, ndarray, ndarray]:
    """Weighted fits, with exponents from the whole range or, where a fit with other weights is known, near its exponents."""
    root = None if weights is None else np.sqrt(weights)
    target = measured if root is None else measured * root

    def solve(logarithm: ndarray) -> tuple[ndarray, ndarray]:
        columns = curve.columns(np.exp(logarithm), points)
        return _constrained(columns if root is None else columns * root[..., None], target, curve.nonnegative)

    low, high = math.log(curve.low), math.log(curve.high)
    scanned = np.linspace(low, high, _SCANNED)[:, None]
    if near is not None:
        scanned = np.clip(np.log(near) + np.linspace(-_NEAR, _NEAR, _SCANNED_NEAR)[:, None], low, high)
    best = scan_minimum(lambda logarithm: solve(logarithm)[1], scanned, len(measured))
    return np.exp(best), *solve(best)


def scan_minimum(
    function: Callable[[ndarray], ndarray], scanned: Float[ndarray, "scan #samples"], samples: int
) -> Float[ndarray, "samples"]:
    """Find where each of many functions of one number is least: the best place of a scan, narrowed by golden section.

    Args:
        function: places, of the shape of the scan or one per sample, to values.
        scanned: ascending places, the same for all functions or a column for each.
        samples: number of functions.
    """
    values = np.broadcast_to(function(scanned), (len(scanned), samples))
    place = values.argmin(axis=0)
    columns = np.broadcast_to(scanned, values.shape)
    number = np.arange(samples)
    left = columns[np.maximum(place - 1, 0), number]
    right = columns[np.minimum(place + 1, len(scanned) - 1), number]
    first, second = right - _GOLDEN * (right - left), left + _GOLDEN * (right - left)
    at_first, at_second = function(first), function(second)
    for _ in range(_NARROWED):
        lower = at_first < at_second
        left, right = np.where(lower, left, first), np.where(lower, second, right)
        new = np.where(lower, right - _GOLDEN * (right - left), left + _GOLDEN * (right - left))
        at_new = function(new)
        first, second = np.where(lower, new, second), np.where(lower, first, new)
        at_first, at_second = np.where(lower, at_new, at_second), np.where(lower, at_first, at_new)
    return (left + right) / 2


def _supports(nonnegative: tuple[bool, ...]) -> Iterator[list[int]]:
    """Sets of columns that may be all that count, the whole set first; columns of any sign are in each."""
    free = [column for column, must in enumerate(nonnegative) if not must]
    bound = [column for column, must in enumerate(nonnegative) if must]
    for size in range(len(bound), -1, -1):
        for chosen in combinations(bound, size):
            if support := sorted([*free, *chosen]):
                yield support


def _constrained(
    columns: Float[ndarray, "... points columns"],
    measured: Float[ndarray, "... points"],
    nonnegative: tuple[bool, ...],
) -> tuple[ndarray, ndarray]:
    """Coefficients with the least sum of squares, and that sum; columns and measurements broadcast over samples."""
    must = np.array(nonnegative)
    coefficients, sse = _least_squares(columns, measured)
    wrong: Bool[ndarray, "..."] = ((coefficients < 0) & must).any(axis=-1)
    if not wrong.any():
        return coefficients, sse
    columns = np.broadcast_to(columns, (*wrong.shape, *columns.shape[-2:]))[wrong]
    measured = np.broadcast_to(measured, (*wrong.shape, measured.shape[-1]))[wrong]
    best, least = np.zeros((len(columns), len(must))), np.full(len(columns), np.inf)
    if must.all():
        least = np.square(measured).sum(axis=-1)  # nothing at all
    for support in [*_supports(nonnegative)][1:]:
        found, error = _least_squares(columns[..., support], measured)
        better = ((found >= 0) | ~must[support]).all(axis=-1) & (error < least)
        whole = np.zeros_like(best)
        whole[:, support] = found
        best, least = np.where(better[:, None], whole, best), np.where(better, error, least)
    coefficients[wrong], sse[wrong] = best, least
    return coefficients, sse


def _least_squares(columns: ndarray, measured: ndarray) -> tuple[ndarray, ndarray]:
    upper, onto, sse = _gram_schmidt(columns, measured)
    coefficients = np.empty_like(onto)
    for column in reversed(range(onto.shape[-1])):
        later = (upper[..., column, column + 1 :] * coefficients[..., column + 1 :]).sum(axis=-1)
        coefficients[..., column] = (onto[..., column] - later) / upper[..., column, column]
    return coefficients, sse


def _gram_schmidt(columns: ndarray, measured: ndarray) -> tuple[ndarray, ndarray, ndarray]:
    """Modified Gram-Schmidt: R of the columns, the measurements along its directions, and the rest of them squared.

    A column that depends on those before it gets the coefficient 0.
    """
    number = columns.shape[-1]
    rest = [columns[..., column] for column in range(number)]
    upper = np.zeros((*columns.shape[:-2], number, number))
    along, residual = [], measured
    for column in range(number):
        whole = np.sqrt(_dot(columns[..., column], columns[..., column]))
        norm = np.sqrt(_dot(rest[column], rest[column]))
        counts = norm > _DEPENDENT * whole
        upper[..., column, column] = np.where(counts, norm, 1.0)
        direction = rest[column] * np.where(counts, 1 / np.where(counts, norm, 1.0), 0.0)[..., None]
        for later in range(column + 1, number):
            shared = _dot(direction, rest[later])
            upper[..., column, later] = shared
            rest[later] = rest[later] - shared[..., None] * direction
        share = _dot(direction, residual)
        along.append(share)
        residual = residual - share[..., None] * direction
    return upper, np.stack(along, axis=-1), _dot(residual, residual)


def _dot(one: ndarray, other: ndarray) -> ndarray:
    return np.einsum("...n,...n->...", one, other)
