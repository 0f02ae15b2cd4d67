"""The Fréchet distance between two sets of feature vectors: streamed in float64, over several processes, with an interval.

    distance = |μ₁ − μ₂|² + tr S₁ + tr S₂ − 2 Σ √eig(Fᵀ S₂ F)            F Fᵀ = S₁, covariances with n − 1
    F        = Cholesky factor of the covariance that is positive definite; where neither is, V √Λ of S₁ = V Λ Vᵀ on its range
    merge    : n = n₁ + n₂,  μ = μ₁ + δ n₂ / n,  M = M₁ + M₂ + δ δᵀ n₁ n₂ / n            δ = μ₂ − μ₁, M = (n − 1) S

The eigenvalues are those of S₁S₂, so the value is that of the classic matrix square root, but real, and by a symmetric solver.

The distance of n samples is biased upward by about d / n, and a resample is biased once more. The interval is therefore that of the
bootstrap moved onto the value: how far the distance *of n samples* varies. Distances of different numbers of samples do not compare.

Sources: Heusel et al., arXiv 1706.08500, equation 6; Chan, Golub and LeVeque (1979) for the merge.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import repeat
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from tokenry.core.errors import UserError
from tokenry.core.stats.bootstrap import bootstrap_estimate, times_drawn
from tokenry.core.stats.estimate import Estimate

_ROUNDING = float(np.finfo(np.float64).eps)


class FrechetStats:
    """Number, mean and covariance of the feature vectors seen so far; no vector is kept.

        reference = FrechetStats()
        for images in batches:
            reference.update(features(images))
        distance = reference.distance(of_samples)

    Attributes:
        samples: number of vectors.
        mean: of them, shape (features,); empty before the first.
    """

    def __init__(self) -> None:
        self.samples = 0
        self.mean: Float[ndarray, "features"] = np.zeros(0)
        self._scatter: Float[ndarray, "features features"] = np.zeros((0, 0))

    def update(self, features: Any) -> "FrechetStats":
        """Add vectors, shape (samples, features), of any library, device and float type.

        Raises:
            UserError: not a matrix, another number of features than before, or a value that is not finite.
        """
        rows = feature_rows(features)
        if not len(rows):
            return self
        mean = rows.mean(0)
        return self._add(len(rows), mean, (rows - mean).T @ (rows - mean))

    def merge(self, other: "FrechetStats") -> "FrechetStats":
        """Add all vectors that another has seen."""
        return self._add(other.samples, other.mean, other._scatter) if other.samples else self

    def across_ranks(self) -> "FrechetStats":
        """Return the statistics of all processes together; every one of them must call it."""
        import torch.distributed

        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, self)
        whole = FrechetStats()
        for part in parts:
            whole.merge(part)
        return whole

    @property
    def covariance(self) -> Float[ndarray, "features features"]:
        """Of the vectors, with n − 1.

        Raises:
            UserError: fewer than two vectors.
        """
        if self.samples < 2:
            raise UserError(
                f"a Fréchet distance needs at least 2 feature vectors on either side, got {self.samples}: give more samples."
            )
        return self._scatter / (self.samples - 1)

    def distance(self, other: "FrechetStats") -> float:
        """Return the Fréchet distance to another set."""
        return frechet_distance(self.mean, self.covariance, other.mean, other.covariance)

    def _add(self, samples: int, mean: Float[ndarray, "n"], scatter: Float[ndarray, "n n"]) -> "FrechetStats":
        if not self.samples:
            self.samples, self.mean, self._scatter = samples, mean, scatter
            return self
        _require_one_width(self.mean, mean)
        whole, delta = self.samples + samples, mean - self.mean
        self._scatter = self._scatter + scatter + np.outer(delta, delta) * (self.samples * samples / whole)
        self.mean = self.mean + delta * (samples / whole)
        self.samples = whole
        return self


@dataclass(frozen=True)
class FrechetDistance:
    """A distance with what it depends on; one of other conditions refuses to be subtracted from it.

    Attributes:
        estimate: value and interval.
        reference: the set that it is the distance to.
        samples: number of samples on the other side.
        preparation: how both were made comparable: crop and size of images, bands of spectra.
        features: the network whose features are compared.
    """

    estimate: Estimate
    reference: str
    samples: int
    preparation: str
    features: str

    def __str__(self) -> str:
        return (
            f"{self.estimate.with_interval()} to {self.reference}, {self.samples} samples, "
            f"{self.preparation}, features of {self.features}"
        )

    def __sub__(self, other: "FrechetDistance") -> float:
        """Return the difference of two distances under the same conditions.

        Raises:
            UserError: the conditions differ.
        """
        names = [field.name for field in fields(self) if field.name != "estimate"]
        differing = [name for name in names if getattr(self, name) != getattr(other, name)]
        if differing:
            told = "; ".join(
                f"{name}: {getattr(self, name)} and {getattr(other, name)}" for name in differing
            )
            raise UserError(
                f"these distances do not compare ({told}): measure both under the same conditions."
            )
        return float(self.estimate.value - other.estimate.value)


def frechet_distance(
    mean: Float[ndarray, "features"],
    covariance: Float[ndarray, "features features"],
    other_mean: Float[ndarray, "others"],
    other_covariance: Float[ndarray, "others others"],
) -> float:
    """Compute the Fréchet distance of two normal distributions; covariances may be singular."""
    _require_one_width(mean, other_mean)
    factor = _cholesky(covariance)
    if factor is None and (factor := _cholesky(other_covariance)) is not None:
        covariance, other_covariance = other_covariance, covariance
    factor = _root_on_range(covariance) if factor is None else factor
    shared = np.sqrt(np.clip(np.linalg.eigvalsh(factor.T @ other_covariance @ factor), 0, None)).sum()
    delta = mean - other_mean
    return max(0.0, float(delta @ delta + np.trace(covariance) + np.trace(other_covariance) - 2 * shared))


def frechet_estimate(
    features: Any, reference: Any, draws: int = 200, seed: int = 0, paired: bool = False
) -> Estimate:
    """Estimate the distance of samples to a reference, with the interval of the bootstrap over samples.

    Args:
        features: of the samples, shape (samples, features).
        reference: features of the reference set, whose rows are drawn anew as well; or its `FrechetStats`, which stay as they are.
        draws: number of resamples, each of them one eigenvalue problem; 0 for no interval.
        seed: random seed.
        paired: row i of the reference is the original of sample i: both are drawn together.

    Raises:
        UserError: fewer than two rows, unequal features, a value that is not finite, or pairs of unequal number.
    """
    rows = feature_rows(features)
    if isinstance(reference, FrechetStats):
        others, known = None, reference
    else:
        others = feature_rows(reference)
        known = FrechetStats().update(others)
    if paired and (others is None or len(others) != len(rows)):
        given = "statistics" if others is None else f"{len(others)} rows"
        raise UserError(
            f"a paired distance needs one row of the reference for each of {len(rows)} samples, got {given}."
        )
    value = FrechetStats().update(rows).distance(known)
    drawn = np.array(
        [
            frechet_distance(*of_samples, *of_reference)
            for of_samples, of_reference in zip(
                _resampled(rows, draws, seed),
                repeat((known.mean, known.covariance))
                if others is None
                else _resampled(others, draws, seed + (not paired)),
                strict=False,
            )
        ]
    )
    return bootstrap_estimate(value, drawn - drawn.mean() + value if draws else drawn, len(rows))


def feature_rows(features: Any) -> Float[ndarray, "samples features"]:
    """Return feature vectors as a matrix in float64 on the CPU.

    Raises:
        UserError: not a matrix, or a value that is not finite.
    """
    held = features.detach().cpu().double() if hasattr(features, "detach") else features
    rows = np.asarray(held, dtype=np.float64)
    if rows.ndim != 2:
        raise UserError(f"features must have shape (samples, features), got {tuple(rows.shape)}.")
    if not np.isfinite(rows).all():
        raise UserError(
            f"{int((~np.isfinite(rows)).any(1).sum())} of {len(rows)} feature vectors hold a value that is not finite: "
            "look at the samples and at the precision of the feature network."
        )
    return rows


def _resampled(
    rows: Float[ndarray, "samples features"], draws: int, seed: int
) -> Iterator[tuple[ndarray, ndarray]]:
    """Mean and covariance of each resample."""
    for block in times_drawn(len(rows), draws, seed):
        for times in block:
            mean = times @ rows / len(rows)
            apart = rows - mean
            yield mean, (apart.T * times) @ apart / (len(rows) - 1)


def _cholesky(covariance: Float[ndarray, "n n"]) -> Float[ndarray, "n n"] | None:
    """The Cholesky factor, or None where the covariance has no full rank up to rounding."""
    try:
        factor = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return None
    pivots = np.diag(factor) ** 2
    return factor if pivots.min() > _ROUNDING * len(pivots) * pivots.max() else None


def _root_on_range(covariance: Float[ndarray, "n n"]) -> Float[ndarray, "n rank"]:
    """The symmetric square root without the directions in which nothing varies."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > _ROUNDING * len(values) * values.max(initial=0)
    return vectors[:, kept] * np.sqrt(values[kept])


def _require_one_width(one: Float[ndarray, "n"], other: Float[ndarray, "m"]) -> None:
    if len(one) != len(other):
        raise UserError(
            f"one set has {len(one)} features and the other {len(other)}: take both from the same network and layer."
        )
