"""The decrease of a corpus token count with the vocabulary.

    CTC(V) = a · (V / V0)^−b + c            a ≥ 0, 0.01 ≤ b ≤ 6, c ≥ 0; c is the floor that no vocabulary reaches

For a given b, the best a and c solve a non-negative linear least squares problem: the fit of all three starts from the best b of a
grid with its a and c.

Source: Explaining and Mitigating Crosslingual Tokenizer Inequities (arXiv 2510.21909), optimal vocabulary; the paper's own form of
the curve could not be checked, the power law with a floor is our reading.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import nnls

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
        b: exponent of the curve.
        c: floor of the curve, in tokens.
        v0: vocabulary size at which the curve is a + c.
        r2: share of the variance of the counts that the curve explains; 1 where they do not vary.
        sse: sum of squared errors, in squared tokens; nan for a curve that was not fitted here.
        sizes: vocabulary sizes behind the fit.
        counts: token counts behind the fit.
    """

    a: float
    b: float
    c: float
    v0: float
    r2: float
    sse: float = math.nan
    sizes: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()

    def predict(self, vocab_size: Number) -> float:
        """Tokens at a vocabulary size."""
        return self.a * (vocab_size / self.v0) ** -self.b + self.c

    def solve(self, target: Number) -> float | None:
        """Vocabulary size at which the curve meets `target` tokens; None where it never does."""
        if target <= self.c or self.a == 0:
            return None
        log_ratio = -math.log((target - self.c) / self.a) / self.b
        # Beyond any vocabulary that could be trained, the curve practically lies on its floor.
        return self.v0 * math.exp(log_ratio) if log_ratio < 500 else None

    def count_at(self, vocab_size: Number) -> float:
        """Tokens at a vocabulary size: the measured count if there is one, else that of the curve."""
        measured = dict(zip(self.sizes, self.counts, strict=True))
        return measured.get(vocab_size, self.predict(vocab_size))


def fit_vocab_curve(sizes: Sequence[Number], counts: Sequence[Number], v0: Number = 256.0) -> PowerLaw:
    """Fit tokens against vocabulary sizes; counts that do not fall are fitted too, with a low `r2`.

    Args:
        sizes: at least four increasing vocabulary sizes.
        counts: corpus token count at each size.
        v0: unit in which sizes are measured; it changes `a` only.
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


def require_points(sizes: Sequence[Number]) -> None:
    """Raise `UserError` unless a curve can be fitted to counts at these vocabulary sizes."""
    if len(sizes) < 4:
        raise UserError(
            f"{len(sizes)} points cannot fit a curve of three parameters: measure at least 4 vocabulary sizes."
        )
    require_increasing(sizes)


def _linear_part(
    scaled: Float[ndarray, "points"], values: Float[ndarray, "points"], exponent: float
) -> tuple[float, float, float]:
    """The best a and c for an exponent, and the sum of squares they leave."""
    # Both columns are scaled to 1: the counts may be in the millions, and the powers far below one.
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
    # The parameters are scaled so that those of the best start are 1.
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
