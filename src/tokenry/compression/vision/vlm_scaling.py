"""How large a language model and how many visual tokens: a scaling law of a VLM's error, and the best choice under a budget.

    error(N, V) = A / N^alpha / V^beta + D        N parameters in billions, V visual tokens, error = 1 - average score
    FLOPs(N, V) = 2 N (Q + V)                     N in parameters, Q text tokens that no cache holds

Fitted by least squares with all four constants >= 0, with bootstrap intervals and warnings on constants that the data do not determine.

Source: Inference Optimal VLMs Need Only One Visual Token but Larger Models (arXiv 2411.03312). The paper writes T = Q + V in the law;
its code fits T = V and has Q in the cost only, as here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy.stats import f as f_distribution

from tokenry.core.errors import UserError, require_at_least, require_fraction
from tokenry.core.stats import Fit, fit_nonnegative, profile, residual_bootstrap

Numbers = float | int | Sequence[float | int] | np.ndarray

_NAMES = ("A", "alpha", "beta", "D")
_CONFIDENCE = 0.95
_AT_BOUND = 1e-9


@runtime_checkable
class VisualErrorLaw(Protocol):
    """Anything that predicts an error from a size in billions and a number of visual tokens."""

    def predict(self, n_billion: Numbers, tokens: Numbers) -> Any:
        """Predict the error, in [0, 1]; arguments broadcast."""
        ...


@dataclass(frozen=True)
class ScalingFit:
    """The fitted law.

    Attributes:
        A: factor; the paper's A times B, of which only the product can be identified.
        alpha: exponent of the size of the language model.
        beta: exponent of the number of visual tokens.
        D: error that no size and no number of tokens removes.
        sse: sum of squared errors over the points.
        points: number of fitted points.
        ci: 95 % bootstrap interval of each constant and of `alpha_beta_ratio`; empty without bootstrap or without residuals.
        warnings: sentences on constants that the data do not determine; empty if there are none.
    """

    A: float
    alpha: float
    beta: float
    D: float
    sse: float = math.nan
    points: int = 0
    ci: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def alpha_beta_ratio(self) -> float:
        """Worth of doubling the model over that of doubling the visual tokens; inf if tokens are worth nothing."""
        return _ratio(self.alpha, self.beta)

    def predict(self, n_billion: Numbers, tokens: Numbers) -> Any:
        """Predict the error; arguments broadcast, and the result has their shape."""
        size, count = np.asarray(n_billion, dtype=float), np.asarray(tokens, dtype=float)
        return self.A / size**self.alpha / count**self.beta + self.D


@dataclass(frozen=True)
class TaskMixture:
    """The error of a mixture of tasks, each with its own law: their weighted mean (a law for `compute_optimal`).

    Attributes:
        fits: one law per task.
        weights: the share of each task in the traffic, in any unit.
    """

    fits: Sequence[VisualErrorLaw]
    weights: Sequence[float | int]

    def __post_init__(self) -> None:
        if len(self.fits) != len(self.weights) or not self.fits:
            raise UserError(
                f"a mixture needs one weight per task, got {len(self.weights)} for {len(self.fits)} tasks."
            )
        if min(self.weights) < 0 or not math.isfinite(sum(self.weights)) or sum(self.weights) <= 0:
            raise UserError(
                f"the weights of a mixture are shares of the traffic: none below 0 and not all 0, got {list(self.weights)}."
            )

    def predict(self, n_billion: Numbers, tokens: Numbers) -> Any:
        """Predict the mean error; arguments broadcast."""
        weighted = [
            weight * fit.predict(n_billion, tokens)
            for fit, weight in zip(self.fits, self.weights, strict=True)
        ]
        return sum(weighted) / sum(self.weights)


@dataclass(frozen=True)
class Optimum:
    """The best choice under a budget: `n_billion` in billions of parameters, `error` as predicted, `flops` per query."""

    n_billion: float
    visual_tokens: int
    error: float
    flops: float


def fit_vlm_scaling(
    n_billion: Numbers,
    tokens: Numbers,
    error: Numbers,
    fix_d: float | int | None = None,
    bootstrap: int = 200,
    seed: int = 0,
) -> ScalingFit:
    """Fit the law to measured errors by least squares, all constants >= 0, from several starts.

    Intervals come from a bootstrap of the residuals (drawn anew, put on the fitted errors, fitted again), so every sample keeps the
    design of the data. D is checked by its profile: how far it can be moved before the fit is significantly worse (F test, 95 %).

    Args:
        n_billion: parameters of the language model in billions, per point.
        tokens: visual tokens, per point.
        error: 1 - average score, in [0, 1], per point.
        fix_d: hold D at this value instead of fitting it.
        bootstrap: samples; 0 for no intervals.

    Source: arXiv 2411.03312, equation of the scaling law; the released code searches a grid in random order instead.
    """
    size, count, target = scaling_points(n_billion, tokens, error)
    if fix_d is not None:
        require_fraction(float(fix_d), "fix_d")
    problem = _Problem(np.log(size), np.log(count), fix_d)
    best = problem.solve(target, problem.starts(target))
    samples = residual_bootstrap(
        problem.curve(best.parameters),
        target,
        lambda drawn: problem.solve(drawn, [best.parameters], 1e-8).parameters,
        problem.unknowns,
        bootstrap,
        seed,
    )
    return ScalingFit(
        **problem.constants(best.parameters),
        sse=best.sse,
        points=len(target),
        ci=_intervals(np.where(samples < _AT_BOUND, 0.0, samples)),
        warnings=_warnings(problem, best, target),
    )


@dataclass(frozen=True)
class _Problem:
    """The least-squares problem of one design; the unknowns are A, alpha, beta and, if it is not fixed, D."""

    log_size: Float[np.ndarray, "points"]
    log_tokens: Float[np.ndarray, "points"]
    fix_d: float | int | None

    @property
    def unknowns(self) -> int:
        return 4 if self.fix_d is None else 3

    def constants(self, x: np.ndarray) -> dict[str, float]:
        """The solution by name; the solver stays just inside the bounds, so a value next to a bound is set to it."""
        values = [*x, self.fix_d] if self.fix_d is not None else x
        return {
            name: 0.0 if value < _AT_BOUND else float(value)
            for name, value in zip(_NAMES, values, strict=True)
        }

    def curve(self, x: np.ndarray) -> Float[np.ndarray, "points"]:
        return x[0] * self._power(x) + (x[3] if self.fix_d is None else self.fix_d)

    def solve(self, target: np.ndarray, starts: Sequence[np.ndarray], tolerance: float = 1e-12) -> Fit:
        return fit_nonnegative(self.curve, target, starts, jacobian=self._jacobian, tolerance=tolerance)

    def starts(self, target: np.ndarray) -> list[np.ndarray]:
        """Solutions of the law's logarithm, which is linear once D is given: D = 0, half and nearly all of the least error."""
        held = [0.0, 0.5, 0.9] if self.fix_d is None else [1.0]
        least = float(target.min()) if self.fix_d is None else self.fix_d
        design = np.stack([np.ones_like(self.log_size), -self.log_size, -self.log_tokens], axis=1)
        found = []
        for share in held:
            rest = np.log(np.maximum(target - share * least, 1e-6))
            log_a, alpha, beta = np.linalg.lstsq(design, rest, rcond=None)[0]
            found.append(np.array([math.exp(log_a), alpha, beta, share * least][: self.unknowns]))
        return found

    def _power(self, x: np.ndarray) -> np.ndarray:
        return np.exp(-x[1] * self.log_size - x[2] * self.log_tokens)

    def _jacobian(self, x: np.ndarray) -> Float[np.ndarray, "points unknowns"]:
        power = self._power(x)
        slopes = [power, -x[0] * power * self.log_size, -x[0] * power * self.log_tokens, np.ones_like(power)]
        return np.stack(slopes[: self.unknowns], axis=1)


def _intervals(samples: np.ndarray) -> dict[str, tuple[float, float]]:
    if not len(samples):
        return {}
    columns = dict(zip(_NAMES, samples.T, strict=False))
    columns["alpha_beta_ratio"] = columns["alpha"] / np.maximum(columns["beta"], 1e-12)
    edge = (1 - _CONFIDENCE) / 2
    return {
        name: (float(np.quantile(column, edge)), float(np.quantile(column, 1 - edge)))
        for name, column in columns.items()
    }


def _warnings(problem: _Problem, best: Fit, target: np.ndarray) -> tuple[str, ...]:
    constants = problem.constants(best.parameters)
    found = [
        f"{name} is at its bound 0: the error does not fall with {what}, so the ratio alpha / beta says nothing."
        for name, what in (("alpha", "the size of the model"), ("beta", "the number of visual tokens"))
        if constants[name] == 0.0
    ]
    if len(target) <= problem.unknowns:
        found.append(
            f"{len(target)} points for {problem.unknowns} constants: the fit is exact, so neither its error nor its intervals "
            "are known; measure more points."
        )
    elif problem.fix_d is None:
        found += _warning_of_d(problem, best, target)
    return tuple(found)


def _warning_of_d(problem: _Problem, best: Fit, target: np.ndarray) -> list[str]:
    """A warning if D can move without a significantly worse fit, and far enough to move alpha by a tenth."""
    spare = len(target) - problem.unknowns
    allowed = best.sse * (1 + f_distribution.ppf(_CONFIDENCE, 1, spare) / spare)
    *others, d = map(float, best.parameters)
    reached = profile(
        lambda held, start: replace(problem, fix_d=held).solve(target, [start]),
        d,
        np.array(others),
        (0.0, float(target.min())),
        allowed,
    )
    low, high = reached[0][0], reached[-1][0]
    alphas = [float(constants[1]) for _, constants in reached]
    ratios = [_ratio(float(constants[1]), float(constants[2])) for _, constants in reached]
    if max(alphas) <= 1.1 * min(alphas):
        return []
    return [
        f"D cannot be told from these points: anything from {low:.2f} to {high:.2f} fits as well (95 %), while alpha goes from "
        f"{min(alphas):.3f} to {max(alphas):.3f} and alpha / beta from {min(ratios):.2f} to {max(ratios):.2f}: "
        "trust the ratio, and alpha or beta alone only together with D."
    ]


def inference_flops(
    n_params: Numbers, visual_tokens: Numbers, text_tokens: Numbers = 0, decode_tokens: Numbers = 0
) -> Any:
    """Count the FLOPs of one query: 2 per parameter and token, of the prompt and of the answer.

    The paper counts the prompt alone (`decode_tokens=0`). Attention scores, the vision tower and a question pass are left out.

    Args:
        n_params: parameters of the language model (not billions).
        visual_tokens: after compression.
        text_tokens: prompt tokens that no cache holds (0: the text is cached; the paper also plots 50).
    """
    tokens = sum(np.asarray(count) for count in (text_tokens, visual_tokens, decode_tokens))
    return 2 * np.asarray(n_params) * tokens


def compute_optimal(
    fit: VisualErrorLaw,
    sizes: Sequence[float | int] | np.ndarray,
    token_counts: Sequence[int] | np.ndarray,
    budget_flops: float | int,
    text_tokens: int = 0,
    decode_tokens: int = 0,
    cost: Callable[..., Any] = inference_flops,
) -> Optimum | None:
    """Choose the size and the number of visual tokens with the least predicted error that a budget allows; None if nothing fits.

    Ties go to the larger model, then to fewer tokens.

    Args:
        fit: a `ScalingFit`, a `TaskMixture`, or anything with `predict`.
        sizes: language models to choose from, in billions of parameters.
        token_counts: numbers of visual tokens to choose from.
        budget_flops: per query, in the unit of `cost`.
        text_tokens: prompt tokens that no cache holds.
        cost: `cost(n_params, visual_tokens, text_tokens, decode_tokens)`, arrays in and out: put your own latency here.

    Raises:
        UserError: a negative budget, a size <= 0, a number of tokens < 1, or nothing to choose from.
    """
    size, count = np.asarray(sizes, dtype=float), np.asarray(token_counts)
    if not size.size or not count.size:
        raise UserError(
            "there is nothing to choose from: give at least one model size and one number of visual tokens."
        )
    if not budget_flops >= 0:
        raise UserError(f"the budget must be at least 0 FLOPs per query, got {budget_flops}.")
    require_at_least(0, text_tokens=text_tokens, decode_tokens=decode_tokens)
    _require_design(size, count)
    size, count = (axis.ravel() for axis in np.meshgrid(size, count, indexing="ij"))
    price = np.asarray(cost(size * 1e9, count, text_tokens, decode_tokens), dtype=float)
    error = np.asarray(fit.predict(size, count), dtype=float)
    for place in np.lexsort((count, -size, error)):
        if price[place] <= budget_flops:
            return Optimum(float(size[place]), int(count[place]), float(error[place]), float(price[place]))
    return None


def optimal_tokens_closed_form(alpha: float | int, beta: float | int, text_tokens: float | int) -> float:
    """The best number of visual tokens if models of any size exist: V* = beta Q / (alpha - beta), at least 1.

    With FLOPs = 2 N x and x = Q + V, the error at a given budget goes as x^alpha V^-beta. It is 1 for cached text (Q = 0) and
    alpha > beta, and inf (all tokens there are) where tokens are worth as much as size.

    Raises:
        UserError: an exponent or the number of text tokens is negative.

    Source: arXiv 2411.03312, compute-optimal trade-off, solved for V.
    """
    if min(alpha, beta, text_tokens) < 0:
        raise UserError(
            f"alpha, beta and text_tokens are at least 0, got {alpha}, {beta} and {text_tokens}: they come from a fit and a prompt."
        )
    if beta == 0 or (text_tokens == 0 and alpha >= beta):
        return 1.0
    if alpha <= beta:
        return math.inf
    return max(1.0, beta * text_tokens / (alpha - beta))


def _ratio(alpha: float, beta: float) -> float:
    if beta > 0:
        return alpha / beta
    return math.inf if alpha > 0 else math.nan


def scaling_points(n_billion: Numbers, tokens: Numbers, error: Numbers) -> tuple[np.ndarray, ...]:
    """Sizes, token counts and errors as arrays with one entry per point, if a law can be fitted to them.

    Raises:
        UserError: an error outside [0, 1], a size <= 0, a number of tokens < 1, or too few distinct points, sizes or token counts.
    """
    size, count, target = (
        np.atleast_1d(np.asarray(values, dtype=float)) for values in (n_billion, tokens, error)
    )
    if not len(size) == len(count) == len(target):
        raise UserError(
            f"every point needs a size, a number of tokens and an error, got {len(size)}, {len(count)} and {len(target)} of them."
        )
    _require_all(
        target,
        (target >= 0) & (target <= 1),
        "errors must be in [0, 1], got {}: an error is 1 - score, with scores as fractions (divide per cent by 100).",
    )
    _require_design(size, count)
    distinct = len({*zip(size.tolist(), count.tolist(), strict=True)})
    if distinct < 4:
        raise UserError(
            f"the law has four constants and cannot be identified from {distinct} distinct points: measure at least 4, "
            "over several sizes and token counts."
        )
    for values, what in ((size, "model size"), (count, "number of visual tokens")):
        if len(np.unique(values)) == 1:
            raise UserError(
                f"all points have the {what} {values[0]:g}, so its exponent cannot be identified: measure at least two."
            )
    return size, count, target


def _require_design(size: np.ndarray, count: np.ndarray) -> None:
    _require_all(
        size,
        (size > 0) & np.isfinite(size),
        "model sizes are billions of parameters and must be above 0, got {}: leave such a point out.",
    )
    _require_all(
        count,
        (count >= 1) & np.isfinite(count),
        "numbers of visual tokens must be at least 1, got {}: the law is not defined without visual tokens.",
    )


def _require_all(values: np.ndarray, allowed: np.ndarray, words: str) -> None:
    """Raise `UserError` with the first value that is not allowed in the place of {}."""
    if not allowed.all():
        raise UserError(words.format(f"{values[~allowed][0]:g}"))
