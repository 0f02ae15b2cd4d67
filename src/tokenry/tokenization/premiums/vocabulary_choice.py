"""The vocabularies at which the text of all languages costs the same, from the curve of each language.

    target    V = V0 · ((target − c) / a)^(−1/b)        where target > c, else the target is out of reach
    budget    the vocabularies sum to the budget, which is poured like water: all languages sink to one level of tokens

Source: Explaining and Mitigating Crosslingual Tokenizer Inequities (arXiv 2510.21909), optimal vocabulary; the paper's own choice of
the target could not be checked, and the shared budget is ours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import brentq

from tokenry.core.errors import UserError
from tokenry.tokenization.premiums.vocabulary_curve import Number, PowerLaw


@dataclass(frozen=True)
class OptimalSize:
    """The vocabulary that one language needs.

    Attributes:
        vocab_size: vocabulary size, rounded and clipped; None where the target is out of reach.
        exact: vocabulary size before rounding and clipping; None where the target is out of reach.
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
        sizes: vocabulary size of each language; they sum to the budget.
        counts: tokens of each language at its size, from its curve.
        level: tokens to which every language sinks unless a limit holds it.
        largest: tokens of the most expensive language.
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


def optimal_vocab_sizes(
    curves: Mapping[str, PowerLaw],
    target: Number | Literal["median"] = "median",
    base_size: Number | None = None,
    smallest: int = 256,
    largest: int | None = None,
) -> dict[str, OptimalSize]:
    """Choose for each language the vocabulary at which its text costs `target` tokens.

    Args:
        target: number of tokens for all languages; `"median"`: the median over the languages of the count at `base_size`.
        base_size: vocabulary size for the median target; by default the one in the middle of the sizes behind the curves.
        smallest: smallest vocabulary, at least the 256 bytes and the special tokens.
        largest: largest vocabulary; no limit by default.
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
    """Spread a budget of vocabulary so that the most expensive language has as few tokens as possible.

    Args:
        budget: sum of all vocabularies.
        smallest: smallest vocabulary of one language.
        largest: largest vocabulary of one language; the whole budget by default.
    """
    limit = budget if largest is None else largest
    require_budget(budget, len(curves), smallest, limit)

    def poured(level: float) -> Float[ndarray, "languages"]:
        return np.array([_size_at(curve, level, smallest, limit) for curve in curves.values()])

    levels = _level_bounds(curves, smallest, limit)
    short = [float(poured(level).sum()) - budget for level in levels]
    level = (
        levels[0] if short[0] <= 0 else brentq(lambda level: poured(level).sum() - budget, *levels, xtol=1e-9)
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


def require_target(target: Number) -> None:
    """Raise `UserError` unless the target is a possible number of tokens."""
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
    """Raise `UserError` unless a vocabulary lies between the limits."""
    if smallest < 256:
        raise UserError(f"the smallest vocabulary must hold the 256 bytes, got {smallest}.")
    if largest is not None and largest < smallest:
        raise UserError(f"the largest vocabulary ({largest}) is below the smallest ({smallest}).")


def _median_count(curves: Mapping[str, PowerLaw], base_size: Number | None) -> float:
    sizes = next(iter(curves.values())).sizes
    if base_size is None and not sizes:
        raise UserError("curves without points have no base size: name one, or give the target in tokens.")
    base = sizes[len(sizes) // 2] if base_size is None else float(base_size)
    return float(np.median([curve.count_at(base) for curve in curves.values()]))


def _clip(size: int, smallest: int, largest: int | None) -> int:
    return max(smallest, size if largest is None else min(size, largest))


def _size_at(curve: PowerLaw, level: float, smallest: int, largest: int) -> float:
    """The vocabulary that sinks to `level`: the largest where that is out of reach; a flat curve needs the smallest."""
    if curve.a == 0:
        return float(smallest)
    size = curve.solve(level)
    return float(largest) if size is None else min(max(size, float(smallest)), float(largest))


def _level_bounds(curves: Mapping[str, PowerLaw], smallest: int, largest: int) -> tuple[float, float]:
    """The levels at which all languages have the largest and the smallest vocabulary."""
    low = min(curve.predict(largest) for curve in curves.values())
    return low, max(curve.predict(smallest) for curve in curves.values())


def _whole(
    curves: Sequence[PowerLaw],
    sizes: Float[ndarray, "languages"],
    budget: int,
    smallest: int,
    largest: int,
) -> list[int]:
    """Round to whole tokens that sum to the budget: the rest goes, one by one, to the language that is then the most expensive."""
    whole = [min(max(math.floor(size), smallest), largest) for size in sizes]
    while left := budget - sum(whole):
        step = 1 if left > 0 else -1
        room = [place for place, size in enumerate(whole) if smallest <= size + step <= largest]
        share = abs(left) // len(room)
        if share:  # only where curves are flat: no language gains
            for place in room:
                whole[place] = min(max(whole[place] + step * share, smallest), largest)
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
    """The language that can give one token of vocabulary to the most expensive one and still be cheaper than that one is now."""
    places = range(len(whole))
    taker = max(places, key=lambda place: curves[place].predict(whole[place]))
    givers = [place for place in places if whole[place] > smallest and place != taker]
    if not givers or whole[taker] >= largest or curves[taker].a == 0:
        return None
    giver = min(givers, key=lambda place: curves[place].predict(whole[place] - 1))
    better = curves[giver].predict(whole[giver] - 1) < curves[taker].predict(whole[taker])
    return (giver, taker) if better else None
