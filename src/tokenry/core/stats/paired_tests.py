"""Two systems on the same items, right or wrong: is one better, is it not worse, and how many items would tell?

    only_a, only_b      items that only a, or only b, has right; the others say nothing about the difference
    exact               p = min(1, 2 P(X ≤ min(only_a, only_b)))         X ~ Binomial(only_a + only_b, 1/2)
    mid-p               exact − P(X = min), 1 where both are equal
    chi2, chi2_cc       (|only_a − only_b| − correction)² / (only_a + only_b) with one degree of freedom; correction 0, or 1

    mcnemar_p(10, 7)    0.629: 112 against 109 right of 150, of which 102 are right for both

That a is not worse than b by more than a margin is tested against H₀: share_a − share_b = −margin, by the score test of Tango, whose
inversion is the interval of the difference. At margin 0 it is the chi-square test of McNemar.

Sources: McNemar (1947); Fagerland, Lydersen and Laake (2013) for the mid-p; Holm (1979); Tango (1998); Connor (1987) for the number of items.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float
from numpy import ndarray

from tokenry.core.errors import UserError, require_at_least, require_fraction, require_one_of
from tokenry.core.stats.estimate import Estimate, Values

Counts = int | Sequence[int] | ndarray
"""A number of items, or one for each of several tests."""

METHODS = ("exact", "midp", "chi2", "chi2_cc")
_WITHIN = 1 - 1e-12


@dataclass(frozen=True)
class McNemar:
    """A paired test of two systems on the same items.

    Attributes:
        only_a: items that only a has right.
        only_b: items that only b has right.
        p: two-sided p-value of the hypothesis that both are equally often right.
    """

    only_a: int
    only_b: int
    p: float


def mcnemar(correct_a: Values, correct_b: Values, method: str = "exact") -> McNemar:
    """Test whether two systems are equally often right, from whether each item is right."""
    a, b = (np.asarray(correct).astype(bool) for correct in (correct_a, correct_b))
    if a.shape != b.shape or a.ndim != 1 or not a.size:
        raise UserError(
            f"a paired test needs the same items, at least one, got {a.size} and {b.size}: give one value per item, in the same order."
        )
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return McNemar(only_a, only_b, float(mcnemar_p(only_a, only_b, method)))


def mcnemar_p(only_a: Counts, only_b: Counts, method: str = "exact") -> Float[ndarray, "*tests"]:
    """Two-sided p-value of McNemar's test from the discordant items, of one or of many tests; 1 without any such item."""
    require_one_of(method, METHODS, "method")
    a, b = np.asarray(only_a, dtype=float), np.asarray(only_b, dtype=float)
    require_at_least(0, only_a=a.min(initial=0), only_b=b.min(initial=0))
    fewer, both = np.minimum(a, b), a + b
    if method in ("chi2", "chi2_cc"):
        distance = np.maximum(abs(a - b) - (method == "chi2_cc"), 0.0)
        return np.asarray(scipy.special.chdtrc(1, distance**2 / np.maximum(both, 1)))
    tail = scipy.special.bdtr(fewer, both, 0.5)
    if method == "exact":
        return np.asarray(np.minimum(1.0, 2 * tail))
    below = np.where(fewer > 0, scipy.special.bdtr(np.maximum(fewer - 1, 0), both, 0.5), 0.0)
    return np.where(a == b, 1.0, np.minimum(1.0, tail + below))


def holm(p_values: Values) -> Float[ndarray, "tests"]:
    """Adjust the p-values of several tests so that the chance of any false rejection stays below the level; in their order."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    return adjusted


def paired_share_difference(only_a: int, only_b: int, items: int, confidence: float | int = 0.95) -> Estimate:
    """Estimate share right of a − share right of b with Tango's score interval, which holds for few items and without discordant ones.

    `shown(estimate, -margin)` judges that a is not worse than b by more than `margin`.
    """
    _require_counts(only_a, only_b, items)
    value = (only_a - only_b) / items
    error = math.sqrt(max(only_a + only_b - items * value**2, 0.0)) / items
    limit = float(scipy.special.ndtri((1 + confidence) / 2))

    def end(sign: int) -> float:
        if value * sign <= -1:
            return value

        def excess(difference: float) -> float:
            return sign * _score_z(only_a, only_b, items, difference) - limit

        return (
            float(scipy.optimize.brentq(excess, -sign * _WITHIN, value, xtol=1e-14))
            if excess(-sign * _WITHIN) > 0
            else -float(sign)
        )

    return Estimate(value, error, items, end(1), end(-1))


def not_worse_p(only_a: int, only_b: int, items: int, margin: float | int) -> float:
    """One-sided p-value of the hypothesis that a is worse than b by `margin` or more, as a share of the items."""
    _require_counts(only_a, only_b, items)
    require_fraction(margin, "margin")
    return float(scipy.special.ndtr(-_score_z(only_a, only_b, items, -margin)))


def mcnemar_power(items: int, gap: float | int, discordant: float | int, level: float = 0.05) -> float:
    """Probability that the exact test finds a true gap of shares, where a share `discordant` of the items is right for one only.

    mcnemar_power(150, 0.08, 0.11)         # 150 items settle gaps of about 8 points
    """
    require_at_least(1, items=items)
    _require_gap(gap, discordant)
    number = np.arange(items + 1)
    chance = np.diff(scipy.special.bdtr(number, items, discordant), prepend=0.0)
    fewer, both = np.meshgrid(number, number)
    rejected = (2 * scipy.special.bdtr(np.minimum(fewer, both), both, 0.5) <= level) & (2 * fewer < both)
    most = rejected.sum(axis=1) - 1.0  # the largest smaller count that is still rejected, -1 for none
    ours = (discordant + gap) / (2 * discordant)
    counts = np.maximum(most, 0)
    tails = scipy.special.bdtr(counts, number, 1 - ours) + scipy.special.bdtr(counts, number, ours)
    return float(chance @ np.where(most >= 0, tails, 0.0))


def items_needed(gap: float | int, discordant: float | int, power: float = 0.8, level: float = 0.05) -> int:
    """Number of items on which a true gap of shares is found with this probability (normal approximation).

    That a is not worse by more than a margin takes as many as a gap of margin + what a is better.
    """
    _require_gap(gap, discordant)
    tested, wanted = float(scipy.special.ndtri(1 - level / 2)), float(scipy.special.ndtri(power))
    root = tested * math.sqrt(discordant) + wanted * math.sqrt(discordant - gap**2)
    return math.ceil((root / gap) ** 2)


def _score_z(only_a: int, only_b: int, items: int, difference: float | int) -> float:
    """Tango's z of the hypothesis share_a − share_b = difference; `lost` is the likeliest share of items that only b has right."""
    margin = -difference
    square = 2 * items
    linear = -only_a - only_b - (2 * items - only_a + only_b) * margin
    constant = only_b * margin * (margin + 1)
    lost = (math.sqrt(linear**2 - 4 * square * constant) - linear) / (2 * square)
    variance = items * (2 * lost - margin * (margin + 1))
    distance = only_a - only_b + items * margin
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _require_counts(only_a: int, only_b: int, items: int) -> None:
    require_at_least(0, only_a=only_a, only_b=only_b)
    require_at_least(max(only_a + only_b, 1), items=items)


def _require_gap(gap: Any, discordant: Any) -> None:
    require_fraction(discordant, "discordant")
    if not 0 < gap <= discordant:
        raise UserError(
            f"a gap must be above 0 and at most the share of discordant items, {discordant}, got {gap}."
        )
