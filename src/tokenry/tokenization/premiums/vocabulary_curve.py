"""How a corpus token count falls with the vocabulary, and which vocabulary makes all languages cost the same.

    CTC(V) = a · (V / V0)^−b + c            a ≥ 0, 0.01 ≤ b ≤ 6, c ≥ 0; c is the floor that no vocabulary reaches
    V(target) = V0 · ((target − c) / a)^(−1/b)        where target > c, else the target is out of reach

For a given b the best a and c are a non-negative linear least squares problem: the best b of a grid with its a and c is where the
fit of all three begins. A shared budget is poured like water: all languages sink to one level of tokens.

Source: Explaining and Mitigating Crosslingual Tokenizer Inequities (arXiv 2510.21909), optimal vocabulary; the paper's own form of
the curve and choice of the target could not be checked, the power law with a floor is our reading.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import brentq, nnls

from tokenry.core.errors import UserError
from tokenry.core.stats import fit_nonnegative
from tokenry.tokenization.premiums.grid_config import require_increasing

Number = int | float

EXPONENTS = (0.01, 6.0)
_STARTS, _POLISHED = 60, 2


@dataclass(frozen=True)
class PowerLaw:
    """A fitted curve with the points behind it.

    Attributes:
        a: tokens above the floor at V0.
        b: exponent.
        c: the floor, in tokens.
        v0: the vocabulary at which the curve is a + c.
        r2: share of the variance of the counts that the curve explains; 1 where they do not vary.
        sse: sum of squared errors, in squared tokens.
        sizes: the vocabularies behind the fit.
        counts: the counts behind the fit.
    """

    a: float
    b: float
    c: float
    v0: float
    r2: float
    sse: float
    sizes: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()

    def predict(self, vocab_size: Number) -> float:
        """Tokens at a vocabulary size."""
        return self.a * (vocab_size / self.v0) ** -self.b + self.c

    def solve(self, target: Number) -> float | None:
        """The vocabulary at which the curve meets `target` tokens; None where it never does."""
        if target <= self.c or self.a == 0:
            return None
        log_ratio = -math.log((target - self.c) / self.a) / self.b
        # Beyond any vocabulary that could be trained, the curve as good as lies on its floor.
        return self.v0 * math.exp(log_ratio) if log_ratio < 500 else None

    def count_at(self, vocab_size: Number) -> float:
        """Tokens at a vocabulary size: as measured where it was measured, else from the curve."""
        measured = dict(zip(self.sizes, self.counts, strict=True))
        return measured.get(vocab_size, self.predict(vocab_size))


@dataclass(frozen=True)
class OptimalSize:
    """The vocabulary that one language needs.

    Attributes:
        vocab_size: rounded and clipped; None where the target is out of reach.
        exact: before that; None where the target is out of reach.
        target: in tokens.
        clipped: whether the vocabulary that is needed is smaller or larger than allowed.
    """

    vocab_size: int | None
    exact: float | None
    target: float
    clipped: bool


@dataclass(frozen=True)
class Allocation:
    """A budget of vocabulary, spread over languages.

    Attributes:
        sizes: vocabulary of each language; they add up to the budget.
        counts: tokens of each language at its size, from its curve.
        level: tokens to which every language sinks that is not held by a limit.
        largest: tokens of the worst-off language.
        held: languages at the smallest or largest vocabulary allowed.
    """

    sizes: dict[str, int]
    counts: dict[str, float]
    level: float
    largest: float
    held: tuple[str, ...]

    def premiums(self, reference: str) -> dict[str, float]:
        """Tokens of each language over those of the reference."""
        return {language: count / self.counts[reference] for language, count in self.counts.items()}


def fit_vocab_curve(sizes: Sequence[Number], counts: Sequence[Number], v0: Number = 256.0) -> PowerLaw:
    """Fit tokens against vocabulary sizes; counts that do not fall are fitted too, with a low `r2`.

    Args:
        sizes: at least four, increasing.
        counts: corpus token count at each.
        v0: the unit in which sizes are measured; it changes `a` only.

    Raises:
        UserError: fewer than four points, sizes that do not increase, or numbers that cannot be fitted.
    """
    if len(sizes) != len(counts):
        raise UserError(f"{len(sizes)} vocabulary sizes and {len(counts)} counts do not belong together.")
    require_points(sizes)
    if not v0 > 0:
        raise UserError(f"the reference vocabulary v0 must be positive, got {v0}.")
    scaled, values = np.asarray(sizes, dtype=float) / v0, np.asarray(counts, dtype=float)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise UserError("a corpus token count must be a positive number: one of the counts is not.")
    a, b, c = _best_fit(scaled, values)
    sse = float(np.square(a * scaled**-b + c - values).sum())
    variation = float(np.square(values - values.mean()).sum())
    return PowerLaw(
        a=a,
        b=b,
        c=c,
        v0=float(v0),
        r2=1 - sse / variation if variation else 1.0,
        sse=sse,
        sizes=tuple(map(float, sizes)),
        counts=tuple(map(float, counts)),
    )


def optimal_vocab_sizes(
    curves: Mapping[str, PowerLaw],
    target: Number | Literal["median"] = "median",
    base_size: Number | None = None,
    smallest: int = 256,
    largest: int | None = None,
) -> dict[str, OptimalSize]:
    """Choose for each language the vocabulary at which its text costs `target` tokens.

    Args:
        curves: of each language.
        target: tokens, the same for all; `"median"`: the median over the languages of the count at `base_size`.
        base_size: a vocabulary size for the median target; by default the one in the middle of the sizes behind the curves.
        smallest: the 256 bytes and the special tokens.
        largest: none by default.

    Raises:
        UserError: no curve, a target that is not positive, limits in the wrong order, or a median of curves without points.
    """
    if not curves:
        raise UserError("there is no curve: fit at least one.")
    require_limits(smallest, largest)
    goal = _median_count(curves, base_size) if target == "median" else float(target)
    require_target(goal)
    found = {}
    for language, curve in curves.items():
        exact = curve.solve(goal)
        rounded = None if exact is None else round(min(exact, 2.0**62))
        within = None if rounded is None else _clip(rounded, smallest, largest)
        found[language] = OptimalSize(within, exact, goal, clipped=within != rounded)
    return found


def allocate_budget(
    curves: Mapping[str, PowerLaw],
    budget: int,
    smallest: int = 256,
    largest: int | None = None,
) -> Allocation:
    """Spread a budget of vocabulary so that the worst-off language has as few tokens as possible.

    Args:
        curves: of each language.
        budget: the sum of all vocabularies.
        smallest: of one language.
        largest: of one language; the whole budget by default.

    Raises:
        UserError: the budget is too small for the smallest, or too large for the largest vocabularies.
    """
    limit = budget if largest is None else largest
    require_budget(budget, len(curves), smallest, limit)

    def poured(level: float) -> Float[ndarray, "languages"]:
        return np.array([_size_at(curve, level, smallest, limit) for curve in curves.values()])

    levels = _level_bounds(curves, smallest, limit)
    short = [float(poured(level).sum()) - budget for level in levels]
    level = (
        levels[0] if short[0] <= 0 else brentq(lambda each: poured(each).sum() - budget, *levels, xtol=1e-9)
    )
    sizes = dict(zip(curves, _whole([*curves.values()], poured(level), budget, smallest, limit), strict=True))
    counts = {language: curve.predict(sizes[language]) for language, curve in curves.items()}
    return Allocation(
        sizes=sizes,
        counts=counts,
        level=float(level),
        largest=max(counts.values()),
        held=tuple(language for language, size in sizes.items() if size in (smallest, limit)),
    )


def require_points(sizes: Sequence[Number]) -> None:
    """Raise `UserError` unless a curve can be fitted to counts at these vocabulary sizes."""
    if len(sizes) < 4:
        raise UserError(
            f"{len(sizes)} points cannot fit a curve of three parameters: measure at least 4 vocabulary sizes."
        )
    require_increasing(sizes)


def require_target(target: Number) -> None:
    """Raise `UserError` unless a text can cost so many tokens."""
    if not target > 0:
        raise UserError(f"the target must be a positive number of tokens, got {target}.")


def require_budget(budget: int, languages: int, smallest: int, largest: int) -> None:
    """Raise `UserError` unless vocabularies between the limits can sum to the budget."""
    require_limits(smallest, largest)
    if not languages * smallest <= budget <= languages * largest:
        raise UserError(
            f"a budget of {budget} cannot be spread over {languages} languages with {smallest} to {largest} tokens each: give between "
            f"{languages * smallest} and {languages * largest}."
        )


def require_limits(smallest: int, largest: int | None) -> None:
    """Raise `UserError` unless there is a vocabulary between the limits."""
    if smallest < 256:
        raise UserError(f"the smallest vocabulary must hold the 256 bytes, got {smallest}.")
    if largest is not None and largest < smallest:
        raise UserError(f"the largest vocabulary ({largest}) is below the smallest ({smallest}).")


def _linear_part(
    scaled: Float[ndarray, "points"], values: Float[ndarray, "points"], exponent: float
) -> tuple[float, float, float]:
    """The best a and c for an exponent, and the sum of squares they leave."""
    # Columns of like size: the counts may be in the millions, and the powers far below one.
    power = scaled**-exponent
    columns = np.stack([power / power.max(), np.ones_like(power)], axis=1)
    (a, c), residual = nnls(columns, values / values.max())
    scale = values.max()
    return float(a * scale / power.max()), float(c * scale), float((residual * scale) ** 2)


def _best_fit(
    scaled: Float[ndarray, "points"], values: Float[ndarray, "points"]
) -> tuple[float, float, float]:
    """All three parameters, from the best exponents of a grid; the grid's own best where no solver improves on it."""
    grid = sorted(
        (residual, a, float(exponent), c)
        for exponent in np.geomspace(*EXPONENTS, _STARTS)
        for a, c, residual in (_linear_part(scaled, values, float(exponent)),)
    )
    # Parameters of like size: those of the best start are 1.
    unit = np.maximum(np.array(grid[0][1:]), 1e-9)
    lowest, highest = (
        np.array([0.0, EXPONENTS[0], 0.0]) / unit,
        np.array([np.inf, EXPONENTS[1], np.inf]) / unit,
    )

    def curve(parameters: ndarray) -> Float[ndarray, "points"]:
        a, b, c = parameters * unit
        return (a * scaled**-b + c) / values.max()

    starts = [np.array(start[1:]) / unit for start in grid[:_POLISHED]]
    found = fit_nonnegative(curve, values / values.max(), starts, (lowest, highest), tolerance=1e-15)
    a, b, c = (float(value) for value in found.parameters * unit)
    improved = float(np.square(a * scaled**-b + c - values).sum()) < grid[0][0]
    return (a, b, c) if improved else grid[0][1:]


def _median_count(curves: Mapping[str, PowerLaw], base_size: Number | None) -> float:
    sizes = next(iter(curves.values())).sizes
    if base_size is None and not sizes:
        raise UserError("curves without points have no base size: name one, or give the target in tokens.")
    base = sizes[len(sizes) // 2] if base_size is None else float(base_size)
    return float(np.median([curve.count_at(base) for curve in curves.values()]))


def _clip(size: int, smallest: int, largest: int | None) -> int:
    return max(smallest, size if largest is None else min(size, largest))


def _size_at(curve: PowerLaw, level: float, smallest: int, largest: int) -> float:
    """The vocabulary that sinks to `level`: the largest where that is out of reach; a flat curve asks for nothing."""
    if curve.a == 0:
        return float(smallest)
    size = curve.solve(level)
    return float(largest) if size is None else min(max(size, float(smallest)), float(largest))


def _level_bounds(curves: Mapping[str, PowerLaw], smallest: int, largest: int) -> tuple[float, float]:
    """Levels at which all languages have the largest, and the smallest vocabulary."""
    low = min(curve.predict(largest) for curve in curves.values())
    return low, max(curve.predict(smallest) for curve in curves.values())


def _whole(
    curves: Sequence[PowerLaw],
    sizes: Float[ndarray, "languages"],
    budget: int,
    smallest: int,
    largest: int,
) -> list[int]:
    """Round to whole tokens that add up to the budget: those left over go, one by one, to whoever is then worst off."""
    whole = [min(max(math.floor(size), smallest), largest) for size in sizes]
    while left := budget - sum(whole):
        step = 1 if left > 0 else -1
        room = [place for place, size in enumerate(whole) if smallest <= size + step <= largest]
        each = abs(left) // len(room)
        if each:  # only where curves are flat: nobody is helped
            for place in room:
                whole[place] = min(max(whole[place] + step * each, smallest), largest)
        else:
            place = max(room, key=lambda place: step * curves[place].predict(whole[place]))
            whole[place] += step
    while pair := _exchange(curves, whole, smallest, largest):
        giver, taker = pair
        whole[giver] -= 1
        whole[taker] += 1
    return whole


def _exchange(
    curves: Sequence[PowerLaw], whole: Sequence[int], smallest: int, largest: int
) -> tuple[int, int] | None:
    """Who could give one token of vocabulary to the worst-off, and still be better off than that one is now."""
    places = range(len(whole))
    taker = max(places, key=lambda place: curves[place].predict(whole[place]))
    givers = [place for place in places if whole[place] > smallest and place != taker]
    if not givers or whole[taker] >= largest or curves[taker].a == 0:
        return None
    giver = min(givers, key=lambda place: curves[place].predict(whole[place] - 1))
    better = curves[giver].predict(whole[giver] - 1) < curves[taker].predict(whole[taker])
    return (giver, taker) if better else None
