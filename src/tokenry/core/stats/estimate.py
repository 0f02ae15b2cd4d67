"""An estimate with its standard error and 95 % interval: means, ratios of sums, and differences.

    mean                    value = Σ x / n             error = s / √n
    ratio of sums           value = Σ total / Σ size    error = √(n / (n − 1) · Σ (total − value · size)²) / Σ size
    paired difference       the mean of the items' differences
    independent difference  value = a − b               error = √(error_a² + error_b²)

    interval = value ± t(0.975, n − 1) · error          Student's t; of a bootstrap, the percentiles of its draws
    interval of Pearson's r = tanh(artanh r ± z(0.975) / √(n − 3))       Fisher

Sources: Cochran, Sampling Techniques (1977), section 6.4, for the ratio; Welch (1947) for the degrees of freedom of an independent
difference.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import scipy
from jaxtyping import Float, Int
from numpy import ndarray

from tokenry.core.errors import UserError

_UPPER = 0.975


@runtime_checkable
class HasArray(Protocol):
    """An array of any library, on the CPU."""

    def __array__(self, *args: Any, **options: Any) -> ndarray: ...


Values: TypeAlias = Sequence[Any] | HasArray
"""One number per sampling unit."""


@dataclass(frozen=True)
class Estimate:
    """A figure and how sure it is; `f"{estimate:+.2f}"` writes it with its standard error.

    Attributes:
        standard_error: of the figure; nan for a single unit.
        samples: number of sampling units behind it (items, texts, words, seeds).
        low: lower end of the 95 % interval, by Student's t unless given.
        high: upper end of it.
    """

    value: float | int
    standard_error: float | int
    samples: int
    low: float | int = math.nan
    high: float | int = math.nan

    def __post_init__(self) -> None:
        if math.isnan(self.low) and math.isnan(self.high) and self.samples > 1:
            half = float(scipy.special.stdtrit(self.samples - 1, _UPPER)) * self.standard_error
            object.__setattr__(self, "low", self.value - half)
            object.__setattr__(self, "high", self.value + half)

    def __format__(self, spec: str) -> str:
        spec = spec or ".4g"
        return f"{self.value:{spec}} ± {self.standard_error:{spec.replace('+', '')}}"

    def __str__(self) -> str:
        return format(self)

    def with_interval(self, spec: str = ".2f") -> str:
        """Write the value with its interval instead of its error."""
        return f"{self.value:{spec}} (95 %: {self.low:{spec}} to {self.high:{spec}})"

    def scaled(self, factor: float | int) -> "Estimate":
        """Return the same estimate in another unit; a negative factor turns a difference round."""
        low, high = sorted((factor * self.low, factor * self.high))
        return Estimate(factor * self.value, abs(factor) * self.standard_error, self.samples, low, high)


def estimate_of_mean(values: Values) -> Estimate:
    """Estimate the mean of independent units; the error of a single one is nan."""
    numbers = np.asarray(values, dtype=float)
    count = len(numbers)
    error = float(numbers.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return Estimate(float(numbers.mean()) if count else math.nan, error, count)


def estimate_of_trimmed_mean(values: Values, share: float) -> Estimate:
    """Estimate the mean of independent units without the `share` of them at either end, which no few outliers can move.

        error = s of the winsorised values / ((1 − 2 · share cut) · √n)

    Source: Yuen (1974). `samples` counts the units that are left.
    """
    numbers = np.sort(np.asarray(values, dtype=float))
    count = len(numbers)
    cut = int(share * count)
    kept = numbers[cut : count - cut]
    winsorised = np.clip(numbers, kept[0], kept[-1]) if len(kept) else numbers
    error = estimate_of_mean(winsorised).standard_error / (len(kept) / count if len(kept) else math.nan)
    return Estimate(float(kept.mean()) if len(kept) else math.nan, error, len(kept))


def paired_difference(ours: Values, theirs: Values) -> Estimate:
    """Estimate ours − theirs over the same units in the same order: what makes a unit hard for both cancels."""
    return estimate_of_mean(np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float))


def independent_difference(one: Estimate, other: Estimate) -> Estimate:
    """Estimate the difference of two figures over different units, with the degrees of freedom of Welch.

    `samples` is the number of units of the smaller group.
    """
    parts = (one.standard_error**2, other.standard_error**2)
    value, error = one.value - other.value, math.sqrt(sum(parts))
    fewest = min(one.samples, other.samples)
    if not error > 0 or fewest < 2:
        return Estimate(value, error, fewest)
    freedom = sum(parts) ** 2 / sum(
        part**2 / (estimate.samples - 1) for part, estimate in zip(parts, (one, other), strict=True)
    )
    half = float(scipy.special.stdtrit(freedom, _UPPER)) * error
    return Estimate(value, error, fewest, value - half, value + half)


def estimate_of_correlation(r: float, samples: int) -> Estimate:
    """Put the interval of Fisher's z around a correlation over independent units; its error on that scale is not of r itself."""
    if samples < 4 or not abs(r) < 1:
        return Estimate(r, math.nan, samples)
    centre, half = math.atanh(r), float(scipy.special.ndtri(_UPPER)) / math.sqrt(samples - 3)
    return Estimate(r, math.nan, samples, math.tanh(centre - half), math.tanh(centre + half))


def ratio_estimate(
    totals: Float[ndarray, "items"], sizes: Int[ndarray, "items"] | Float[ndarray, "items"]
) -> Estimate:
    """Estimate Σ totals / Σ sizes (not the mean of the items' means), with the items as sampling units.

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
    residuals: Any = totals - mean * sizes
    error = math.sqrt(number / (number - 1) * float(np.square(residuals).sum())) / size
    return Estimate(mean, error, number)
