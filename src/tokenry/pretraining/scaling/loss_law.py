"""The loss of a pretraining run from its compute and its tokens per parameter: over-trained runs from small ones.

    loss(C, M) = E + (a · M^eta + b · M^-eta) · C^-eta        C = 6 N D FLOPs, M = D / N, E, a, b, eta ≥ 0
    M* = (b / a)^(1 / (2 eta))                                where a M^eta = b M^-eta: the best M, whatever the compute

N counts all parameters, embeddings included; losses are nats per token. The law is linear in E, a and b, so it is fitted by variable
projection, without starts; intervals come from profiles of the fit or from a bootstrap.

Source: Language models scale reliably with over-training and on downstream tasks (arXiv 2403.08540), section 3; the released code writes
alpha · N^p + beta · 6^(p/2) · D^p + E, which is the same curve.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.special import stdtrit

from tokenry.core.errors import UserError, require_fraction, require_one_of
from tokenry.core.stats import SeparableCurve, SeparableFit, fit_separable

Numbers = float | int | Sequence[float | int] | ndarray
Constant = float | int | Float[ndarray, "draws"]

OBJECTIVES = ("squares", "log", "huber")
HUBER_DELTA = 1e-3
LARGEST_VOCABULARY = 262_144
_PARAMETERS = 4


@dataclass(frozen=True)
class LossLaw:
    """The fitted law; of many draws of a bootstrap, where the constants are arrays.

    Attributes:
        E: loss that no compute removes, in nats per token.
        a: factor of M^eta: what too few parameters cost.
        b: factor of M^-eta: what too few tokens cost.
        eta: exponent of the compute.
        sse: sum of squared errors over the runs, in raw loss.
        fit: the fit behind it; None for a law that was not fitted here.
        warnings: sentences on what the runs do not determine; empty if there are none.
    """

    E: Constant
    a: Constant
    b: Constant
    eta: Constant
    sse: float = math.nan
    fit: SeparableFit | None = field(default=None, repr=False, compare=False)
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_official(
        cls, alpha: float | int, beta: float | int, p: float | int, E: float | int
    ) -> "LossLaw":
        """The law with the constants of the released code (`powlaw_ours`)."""
        return cls(E, alpha * 6 ** (-p / 2), beta, -p / 2)

    def to_official(self) -> tuple[Constant, Constant, Constant, Constant]:
        """The constants of the released code: alpha, beta, p and E."""
        return self.a * 6**-self.eta, self.b, -2 * self.eta, self.E

    def predict(
        self,
        N: Numbers | None = None,
        M: Numbers | None = None,
        C: Numbers | None = None,
        D: Numbers | None = None,
    ) -> Any:
        """Predict the loss of runs from two of parameters, tokens per parameter, FLOPs and tokens; arguments broadcast.

        Returns:
            An array of their shape, a number for numbers; draws × that shape for a law of many draws.
        """
        log_c, log_m = run_axes(N, M, C, D)
        E, a, b, eta = (
            np.asarray(constant)[(..., *(None,) * log_c.ndim)]
            for constant in (self.E, self.a, self.b, self.eta)
        )
        found = E + a * np.exp(eta * (log_m - log_c)) + b * np.exp(-eta * (log_m + log_c))
        return found if np.ndim(found) else float(found)

    def optimal_multiplier(self) -> Any:
        """The best number of tokens per parameter for training alone; inf where more tokens always pay."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.power(np.divide(self.b, self.a), 0.5 / np.asarray(self.eta, dtype=float))
        return found if np.ndim(found) else float(found)

    def compute_for(self, loss: float | int, M: float | int | None = None) -> Any:
        """Training FLOPs that reach a loss with M tokens per parameter, by default the best M; inf where it cannot be reached."""
        rest = loss - np.asarray(self.E, dtype=float)
        a, b, eta = (np.asarray(constant, dtype=float) for constant in (self.a, self.b, self.eta))
        factor = 2 * np.sqrt(a * b) if M is None else a * M**eta + b * M**-eta
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.where(rest > 0, np.power(factor / rest, 1 / eta), np.inf)
        return found if np.ndim(found) else float(found)

    def bootstrap(self, draws: int = 1000, seed: int = 0, resample: str = "residuals") -> "LossLaw":
        """Fit the law again to runs drawn anew; a law of many draws, empty where no residuals are left.

        Args:
            draws: number of fits.
            seed: random seed; laws of as many runs with the same seed draw the same ones, so that they are paired.
            resample: residuals keep the design of the runs; whole runs can leave the law undetermined, such draws are nan.
        """
        require_one_of(resample, ("residuals", "runs"), "resample")
        fit = self._fitted()
        drawn = fit.residual_draws(draws, seed) if resample == "residuals" else fit.case_draws(draws, seed)
        eta, coefficients = drawn
        return LossLaw(coefficients[:, 0], coefficients[:, 1], coefficients[:, 2], eta)

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]] | None:
        """95 % intervals of the constants; None where no residuals are left, or for a law that was not fitted by squares here."""
        if self.fit is None or self.fit.reweigh is not None:
            return None
        found = self.fit.interval(lambda eta: np.broadcast_to(np.eye(3), (len(eta), 3, 3)))
        of_eta = self.fit.exponent_interval()
        if found is None or of_eta is None:
            return None
        ends = dict(zip(("E", "a", "b"), zip(*(end.tolist() for end in found), strict=True), strict=True))
        return {**ends, "eta": of_eta}

    def interval(
        self,
        N: Numbers | None = None,
        M: Numbers | None = None,
        C: Numbers | None = None,
        D: Numbers | None = None,
        *,
        confidence: float | int = 0.9,
        new_run: bool = True,
        by: str = "profile",
        draws: int = 1000,
        seed: int = 0,
    ) -> tuple[ndarray, ndarray] | None:
        """Interval of the predicted loss of each run; None where no residuals are left.

        Args:
            N: parameters; two of N, M, C and D, as in `predict`.
            M: tokens per parameter.
            C: FLOPs.
            D: tokens.
            confidence: share of intervals that hold the loss, if the law holds and errors are normal.
            new_run: of what one run measures, with its own error; False for the law itself.
            by: the profile, which knows how few runs there are; percentiles of the residual bootstrap, for any objective; or leave-one-out,
                whose fits without each run in turn need neither the law nor normal errors (jackknife+ of Barber et al., arXiv 1905.02928,
                for a new run; the jackknife for the law itself).
            draws: samples of the bootstrap.
            seed: random seed of the bootstrap.

        Raises:
            UserError: a law that was not fitted here, a profile of a fit that was not by squares, or runs of which one cannot be left out.
        """
        require_fraction(confidence, "confidence")
        require_one_of(by, ("profile", "bootstrap", "leave-one-out"), "by")
        fit, axes = self._fitted(), run_axes(N, M, C, D)
        points = np.stack([axis.ravel() for axis in axes], axis=-1)
        if by == "profile":
            if fit.reweigh is not None:
                raise UserError(
                    "profiles are those of least squares: use by='bootstrap' for a fit by log or huber."
                )
            found = fit.interval(lambda eta: _columns(eta, points), confidence, noise=new_run)
        elif by == "leave-one-out":
            found = _leave_one_out(fit, points, confidence, new_run)
        elif fit.spare <= 0:
            return None
        else:
            drawn = self.bootstrap(draws, seed).predict(N, M, C, D).reshape(draws, -1)
            if new_run:
                noise = fit.measured - fit.fitted
                noise = (noise - noise.mean()) * math.sqrt(len(noise) / fit.spare)
                drawn = drawn + np.random.default_rng(seed + 1).choice(noise, drawn.shape)
            outside = 50 * (1 - confidence)
            low, high = np.percentile(drawn, [outside, 100 - outside], axis=0)
            found = low, high
        return None if found is None else (found[0].reshape(axes[0].shape), found[1].reshape(axes[0].shape))

    def _fitted(self) -> SeparableFit:
        if self.fit is None:
            raise UserError("this law was not fitted here, so its errors are not known: use fit_loss_law.")
        return self.fit


def fit_loss_law(
    N: Numbers,
    M: Numbers | None = None,
    D: Numbers | None = None,
    loss: Numbers = (),
    constrain: bool = True,
    *,
    objective: str = "squares",
    vocab_size: int = LARGEST_VOCABULARY,
) -> LossLaw:
    """Fit the law to runs of different sizes and numbers of tokens per parameter.

    Args:
        N: parameters of each run, embeddings included.
        M: tokens per parameter.
        D: tokens, instead of M.
        loss: validation loss in nats per token, always on the same text.
        constrain: keep E, a and b ≥ 0; without it, data that contradict the law can make them negative.
        objective: squared errors of the loss (the paper's), of its logarithm, or Huber's loss of the logarithm with delta 0.001, as
            Chinchilla has it.
        vocab_size: of the tokenizer; a loss above its logarithm is worse than guessing, and is warned of.

    Raises:
        UserError: too few runs, one size or one M only, numbers that are not positive, or lists of different lengths.
    """
    require_one_of(objective, OBJECTIVES, "objective")
    if (M is None) == (D is None):
        raise UserError(f"give M or D, one of them, got {'both' if M is not None else 'neither'}.")
    second = ("M", M) if M is not None else ("D", D)
    size, other, measured = _checked(("N", N), second, ("loss", loss))
    log_c, log_m = run_axes(size, **{second[0]: other})
    _require_design(size, np.exp(log_m))
    curve = SeparableCurve(_columns, 1e-3, 4.0, (constrain,) * 3)
    reweigh = {"squares": None, "log": _log_weights, "huber": _huber_weights}[objective]
    fit = fit_separable(curve, np.stack([log_c, log_m], axis=-1), measured, reweigh)
    sse = float(np.square(fit.fitted - measured).sum())
    constants = dict(zip(("E", "a", "b"), fit.coefficients.tolist(), strict=True))
    warnings = (*_warnings(constants, fit), *_unit_warning(measured, vocab_size))
    return LossLaw(**constants, eta=fit.exponent, sse=sse, fit=fit, warnings=warnings)


def run_axes(
    N: Numbers | None = None, M: Numbers | None = None, C: Numbers | None = None, D: Numbers | None = None
) -> tuple[ndarray, ndarray]:
    """Logarithms of compute and of tokens per parameter, from two of N, M, C and D; they have the same shape.

    Raises:
        UserError: not exactly two are given, or one is not above 0.
    """
    given = {name: value for name, value in (("N", N), ("M", M), ("C", C), ("D", D)) if value is not None}
    if len(given) != 2:
        raise UserError(
            f"a run is given by two of N, M, C and D, got {', '.join(given) or 'none'}: such as N and M."
        )
    logs = {name: np.log(positive(name, value)) for name, value in given.items()}
    if "N" in logs and "M" in logs:
        log_n, log_m = logs["N"], logs["M"]
    elif "N" in logs:
        log_n = logs["N"]
        log_m = (logs["D"] if "D" in logs else logs["C"] - math.log(6) - log_n) - log_n
    elif "C" in logs:
        rest = logs["C"] - math.log(6)  # = log N + log D
        log_m = logs["M"] if "M" in logs else 2 * logs["D"] - rest
        log_n = (rest - log_m) / 2
    else:
        log_m = logs["M"]
        log_n = logs["D"] - log_m
    log_n, log_m = np.broadcast_arrays(log_n, log_m)
    return np.asarray(math.log(6) + 2 * log_n + log_m), log_m


def positive(name: str, values: Numbers) -> ndarray:
    """Values as an array.

    Raises:
        UserError: one is not a finite number above 0.
    """
    array = np.asarray(values, dtype=float)
    if len(wrong := array[~((array > 0) & np.isfinite(array))]):
        hint = ": leave such a run out" if array.ndim else ""
        raise UserError(f"{name} must be finite and above 0, got {wrong[0]:g}{hint}.")
    return array


def relative_error(pred: Numbers, true: Numbers) -> Any:
    """|predicted − measured| / measured, as a fraction."""
    measured = np.asarray(true, dtype=float)
    found = np.abs(np.asarray(pred, dtype=float) - measured) / measured
    return found if np.ndim(found) else float(found)


def _columns(eta: ndarray, points: Float[ndarray, "points 2"]) -> ndarray:
    log_c, log_m = points[:, 0], points[:, 1]
    data, model = -(log_c + log_m) * eta[..., None], (log_m - log_c) * eta[..., None]
    return np.stack([np.ones_like(data), np.exp(model), np.exp(data)], axis=-1)


def _leave_one_out(
    fit: SeparableFit, points: Float[ndarray, "points 2"], confidence: float, new_run: bool
) -> tuple[ndarray, ndarray]:
    """Intervals by fits without each run in turn."""
    runs = len(fit.measured)
    ordinal = math.floor((1 - confidence) * (runs + 1) + 1e-9)
    if new_run and not ordinal:
        raise UserError(
            f"leave-one-out needs {math.ceil(1 / (1 - confidence) - 1e-9) - 1} runs for a confidence of {confidence:g}, and there are {runs}: "
            "use by='profile'."
        )
    exponents, coefficients = fit.leave_one_out()
    if len(undetermined := np.flatnonzero(np.isnan(exponents))):
        raise UserError(
            f"without run {undetermined[0] + 1} the others do not determine the law, so it cannot be left out: use by='profile'."
        )
    without = (_columns(exponents, points) @ coefficients[..., None])[..., 0]
    if not new_run:
        error = np.sqrt((runs - 1) / runs * np.square(without - without.mean(axis=0)).sum(axis=0))
        reach = float(stdtrit(runs - 1, (1 + confidence) / 2)) * error
        fitted = _columns(np.asarray(fit.exponent), points) @ fit.coefficients
        return fitted - reach, fitted + reach
    own = (_columns(exponents, fit.points) @ coefficients[..., None])[..., 0].diagonal()
    missed = np.abs(fit.measured - own)[:, None]
    return np.sort(without - missed, axis=0)[ordinal - 1], np.sort(without + missed, axis=0)[-ordinal]


def _log_weights(fitted: ndarray, measured: ndarray) -> ndarray:
    """Weights with which squared errors pull as squared errors of the logarithm do."""
    return _huber_weights(fitted, measured, np.inf)


def _huber_weights(fitted: ndarray, measured: ndarray, delta: float = HUBER_DELTA) -> ndarray:
    above = np.maximum(fitted, 1e-9)
    ratio = np.log(above / measured)
    missed = above - measured
    exact = np.abs(missed) < 1e-12 * measured
    pull = np.clip(ratio, -delta, delta) / (above * np.where(exact, 1.0, missed))
    return np.where(exact, 1 / measured**2, pull)


def _checked(*columns: tuple[str, Any]) -> list[ndarray]:
    """Columns of the runs as arrays of one length."""
    arrays = [np.atleast_1d(positive(name, values)) for name, values in columns]
    names, lengths = [name for name, _ in columns], [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        raise UserError(
            f"every run needs {' and '.join(names)}, got {' and '.join(map(str, lengths))} of them."
        )
    if lengths[0] < _PARAMETERS:
        raise UserError(
            f"the law has {_PARAMETERS} constants and cannot be fitted to {lengths[0]} runs: measure at least {_PARAMETERS}."
        )
    return arrays


def _require_design(size: ndarray, multiplier: ndarray) -> None:
    if np.ptp(np.log(multiplier)) < 1e-6:
        raise UserError(
            f"all runs have M = {multiplier[0]:g} tokens per parameter, so a and b cannot be told apart: add a run with another M, "
            "or fit the loss over the compute alone with fit_power_law."
        )
    if np.ptp(np.log(size)) < 1e-6:
        raise UserError(f"all runs have N = {size[0]:g} parameters, so E cannot be told: add another size.")
    if (runs := len({*zip(size.tolist(), multiplier.tolist(), strict=True)})) < _PARAMETERS:
        raise UserError(
            f"the law has {_PARAMETERS} constants and cannot be told from {runs} different runs: measure at least {_PARAMETERS}."
        )


def _warnings(constants: dict[str, float], fit: SeparableFit) -> list[str]:
    curve = fit.curve
    found = [
        f"{name} is {'at its bound 0' if value == 0 else f'negative ({value:.3g})'}: the runs contradict the law, "
        "so do not extrapolate from them."
        for name, value in constants.items()
        if value <= 0
    ]
    if fit.exponent < 1.01 * curve.low or fit.exponent > 0.99 * curve.high:
        found.append(
            f"eta is at the end of its range ({fit.exponent:.3g}): the runs do not follow a power law."
        )
    ends = fit.exponent_interval()
    if ends is None:
        found.append(
            f"{len(fit.measured)} runs for {_PARAMETERS} constants: the fit is exact, so neither its error nor its intervals are "
            "known; measure more runs."
        )
    elif fit.reweigh is None and ends[1] > 2 * ends[0]:
        found.append(
            f"eta cannot be told closely from these runs: anything from {ends[0]:.3f} to {ends[1]:.3f} fits as well (95 %); "
            "look at the intervals of predictions."
        )
    return found


def _unit_warning(measured: ndarray, vocab_size: int) -> list[str]:
    if measured.max() <= math.log(vocab_size):
        return []
    return [
        f"a loss of {measured.max():.2f} is worse than guessing among {vocab_size:,} tokens ({math.log(vocab_size):.2f} nats): "
        "is it in bits, or a sum?"
    ]
