"""The average error on downstream tasks from the validation loss, and from the size of a run through its predicted loss.

    error(loss) = eps − k · exp(−gamma · loss)        error = 1 − accuracy, averaged over a fixed set of tasks

Averages can be predicted; single tasks are much harder. Fitted by variable projection: linear in eps and k.

Source: Language models scale reliably with over-training and on downstream tasks (arXiv 2403.08540), section 3.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy import ndarray

from tokenry.core.errors import UserError
from tokenry.core.stats import SeparableCurve, SeparableFit, fit_separable
from tokenry.pretraining.scaling.loss_law import Constant, LossLaw, Numbers, positive

_PARAMETERS = 3


@dataclass(frozen=True)
class ErrorLaw:
    """The fitted law; of many draws of a bootstrap, where the constants are arrays.

    Attributes:
        eps: error at a loss so high that the tasks are guessed.
        k: how far below it errors can fall.
        gamma: how fast the error rises with the loss.
        sse: sum of squared errors over the runs.
        fit: the fit behind it; None for a law that was not fitted here.
        warnings: sentences on what the runs do not determine; empty if there are none.
    """

    eps: Constant
    k: Constant
    gamma: Constant
    sse: float = math.nan
    fit: SeparableFit | None = field(default=None, repr=False, compare=False)
    warnings: tuple[str, ...] = ()

    def predict(self, loss: Numbers) -> Any:
        """Predict the error at losses in nats per token; for a law of many draws, losses are draws × anything, or the same for all."""
        values = np.asarray(loss, dtype=float)
        eps, k, gamma = (np.asarray(constant, dtype=float) for constant in (self.eps, self.k, self.gamma))
        if eps.ndim and (values.ndim == 0 or len(values) != len(eps)):
            values = values[None]
        eps, k, gamma = (
            constant[(..., *(None,) * (values.ndim - constant.ndim))] for constant in (eps, k, gamma)
        )
        found = eps - k * np.exp(-gamma * values)
        return found if np.ndim(found) else float(found)

    def bootstrap(self, draws: int = 1000, seed: int = 0) -> "ErrorLaw":
        """Fit the law again to its residuals drawn anew; empty where none are left."""
        if self.fit is None:
            raise UserError("this law was not fitted here, so its errors are not known: use fit_error_law.")
        gamma, coefficients = self.fit.residual_draws(draws, seed)
        return ErrorLaw(coefficients[:, 0], coefficients[:, 1], gamma)

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]] | None:
        """95 % intervals of the constants; None where no residuals are left, or for a law that was not fitted here."""
        if self.fit is None:
            return None
        found = self.fit.interval(lambda gamma: np.broadcast_to(np.eye(2), (len(gamma), 2, 2)))
        of_gamma = self.fit.exponent_interval()
        if found is None or of_gamma is None:
            return None
        ends = zip(*(end.tolist() for end in found), strict=True)
        return {**dict(zip(("eps", "k"), ends, strict=True)), "gamma": of_gamma}


def fit_error_law(loss: Numbers, error: Numbers) -> ErrorLaw:
    """Fit the law to runs by least squares.

    Args:
        loss: validation loss of each run, in nats per token.
        error: 1 − accuracy, averaged over the same tasks for all runs.

    Raises:
        UserError: too few runs, one loss only, an error outside [0, 1], or lists of different lengths.
    """
    losses, errors = np.atleast_1d(positive("loss", loss)), np.atleast_1d(np.asarray(error, dtype=float))
    if len(losses) != len(errors):
        raise UserError(f"every run needs a loss and an error, got {len(losses)} and {len(errors)} of them.")
    if len(wrong := errors[~((errors >= 0) & (errors <= 1))]):
        raise UserError(
            f"errors must be in [0, 1], got {wrong[0]:g}: an error is 1 − accuracy, as a fraction (divide per cent by 100)."
        )
    if (different := len(np.unique(losses))) < _PARAMETERS:
        raise UserError(
            f"the law has {_PARAMETERS} constants and cannot be told from {different} different "
            f"loss{'es' * (different != 1)}: measure at least {_PARAMETERS}."
        )
    spread = float(np.ptp(losses))
    curve = SeparableCurve(_columns, 1e-3 / spread, 50 / spread, (False, False))
    fit = fit_separable(curve, losses, errors)
    eps, k = fit.coefficients.tolist()
    found = ErrorLaw(eps, k, fit.exponent, fit.sse, fit)
    return ErrorLaw(eps, k, fit.exponent, fit.sse, fit, tuple(_warnings(found, losses, errors)))


def predict_downstream(loss_law: LossLaw, error_law: ErrorLaw, N: Numbers, M: Numbers) -> Any:
    """Predict the error of runs of N parameters and M tokens per parameter through their predicted loss."""
    return error_law.predict(loss_law.predict(N=N, M=M))


def downstream_interval(
    loss_law: LossLaw,
    error_law: ErrorLaw,
    N: Numbers,
    M: Numbers,
    confidence: float | int = 0.9,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[ndarray, ndarray] | None:
    """Interval of the predicted error by a bootstrap of both laws; None where one of them leaves no residuals."""
    drawn = loss_law.bootstrap(draws, seed), error_law.bootstrap(draws, seed + 1)
    if not all(np.size(law) for law in (drawn[0].eta, drawn[1].gamma)):
        return None
    outside = 50 * (1 - confidence)
    low, high = np.percentile(predict_downstream(*drawn, N, M), [outside, 100 - outside], axis=0)
    return low, high


def _columns(gamma: ndarray, losses: ndarray) -> ndarray:
    fall = np.exp(-gamma[..., None] * losses)
    return np.stack([np.ones_like(fall), -fall], axis=-1)


def _warnings(law: ErrorLaw, losses: ndarray, errors: ndarray) -> list[str]:
    found = []
    if law.k <= 0 or np.corrcoef(losses, errors)[0, 1] <= 0:
        found.append(
            "the error does not fall with the loss on these runs: they say nothing about better models."
        )
    assert law.fit is not None
    if law.fit.spare <= 0:
        found.append(
            f"{len(losses)} runs for {_PARAMETERS} constants: the fit is exact, so its error is not known; measure more runs."
        )
    if not law.fit.curve.low * 1.01 < law.gamma < law.fit.curve.high * 0.99:
        found.append(
            f"gamma is at the end of its range ({law.gamma:.3g}): the error does not level off as the law has it."
        )
    return found
