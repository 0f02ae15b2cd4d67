"""Predictive strength: how well the losses of several models on one document order the models as their benchmarks do.

    S(d) = Σ 1[C_i(d) > C_j(d)] / Z   over the pairs with benchmark_i < benchmark_j        Z = N (N − 1) / 2

The documents with the highest strength teach a classifier what to keep, those with the lowest what to leave out. Only the order of the
losses counts, so that nats of the whole document and bits per character give one strength.

Source: PreSelect (arXiv 2503.00808), section 3: a one-sided Kendall agreement. A pair of equal losses or equal benchmarks counts as
wrong, and Z stays. The released code keeps the whole number Z · S (`normalise=False`).
"""

from itertools import permutations

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from tokenry.core.errors import UserError, require_at_least

MISSING = -1
"""The whole number of a document without a loss of some model."""

Loss = Float[ndarray, "documents models"]
Benchmark = Float[ndarray, "benchmarks"] | Int[ndarray, "benchmarks"]
Strength = Float[ndarray, "documents"] | Int[ndarray, "documents"]


def predictive_strength(loss: Loss, benchmark: Benchmark, normalise: bool = True) -> Strength:
    """Compute the predictive strength of documents.

    Args:
        loss: of each document under each model, in nats or per character; nan where it is missing.
        benchmark: of each model, such as its mean over several benchmarks; higher is better.
        normalise: whether the strength is in [0, 1] and nan where a loss is missing, or a number of pairs and -1.

    Raises:
        UserError: fewer than two models, shapes that differ, or benchmarks that order no two models.
    """
    require_benchmark(benchmark, loss.shape[1])
    by_model = np.ascontiguousarray(loss.T)
    models = range(len(by_model))
    # In bytes while no more than 255 pairs are counted: a bool is one already.
    counted = np.zeros(len(loss), dtype=np.min_scalar_type(pairs_of(len(models))))
    for worse, better in permutations(models, 2):
        if benchmark[worse] < benchmark[better]:
            counted += (by_model[worse] > by_model[better]).view(np.uint8)
    missing = np.isnan(by_model).any(0)
    strength = counted / pairs_of(len(models)) if normalise else counted.astype(np.int64)
    strength[missing] = np.nan if normalise else MISSING
    return strength


def require_benchmark(benchmark: Benchmark, models: int) -> None:
    """Raise `UserError` unless the benchmarks order this many models."""
    if models < 2:
        raise UserError(
            f"predictive strength compares models, and {models} is given: give at least two of one family."
        )
    if len(benchmark) != models:
        raise UserError(
            f"there are losses of {models} models and {len(benchmark)} benchmarks: give one benchmark for each model."
        )
    if np.isnan(benchmark).any():
        raise UserError(
            f"the benchmark of model {int(np.isnan(benchmark).argmax()) + 1} is nan: measure it, or leave the model out."
        )
    if np.ptp(benchmark) == 0:
        raise UserError(
            f"all {models} models have the benchmark {benchmark[0]:g}, so that no order can be predicted: take models that differ."
        )


def pairs_of(models: int) -> int:
    """Number of pairs of models, Z."""
    return models * (models - 1) // 2


def select_extremes(
    strength: Strength, n: int | None = None
) -> tuple[Int[ndarray, "positive"], Int[ndarray, "negative"]]:
    """Choose the documents that teach a classifier: the strongest, and as many of the weakest.

    Args:
        strength: of each document; those with nan or -1 are left out.
        n: number of either kind, by default that of the documents that share the highest strength.

    Returns:
        Indices of the strongest (the strongest first) and of the weakest (the weakest first), ties in the order of the documents; there
        are fewer weakest where the strongest are more than half.

    Raises:
        UserError: one of the two would be empty, or they would overlap.
    """
    require_at_least(1, n=n)
    known = np.flatnonzero(np.isfinite(strength) & (strength >= 0))
    rising = known[np.argsort(strength[known], kind="stable")]
    falling = known[np.argsort(-strength[known], kind="stable")]
    if n is not None and 2 * n > len(known):
        raise UserError(
            f"n={n} documents of either kind cannot be chosen from {len(known)} with a strength: choose at most {len(known) // 2}."
        )
    best = strength[falling[:1]]
    highest = int((strength[known] == best).sum()) if n is None else n
    positive, weaker = falling[:highest], rising[: len(known) - highest]
    negative = weaker[:highest]
    if not len(positive) or not len(negative):
        what = "no document has a strength" if not len(known) else f"all {len(known)} have the same strength"
        raise UserError(f"there is nothing to tell apart: {what}; take more documents, or other models.")
    return positive, negative
