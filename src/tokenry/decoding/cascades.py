"""Cascades: a small model answers, and a score of its own token log-probabilities decides which prompts a large model answers instead.

    Chow-sum       s = Σ_i l_i                              l_i = log p(y_i | x, y_<i); an end token counts, padding never does
    Chow-average   s = Σ_i l_i / n
    Chow-quantile  s = quantile_alpha(l_1 … l_n)            linear between the order statistics at rank alpha (n − 1)
    deferral       defer if s < threshold: a higher score keeps the small model's answer
    curve          Q(k) = (Σ q_large over the k lowest scores + Σ q_small over the rest) / N    at the rate k / N
    AUC-DF         ∫ Q over the rate; (mean q_small + mean q_large) / 2 at random

Sum and average are biased by length: the sum defers long answers, the average short ones. Equal scores stand in random order, so the
curve is linear across them (`ties="expected"`); `ties="stable"` takes them in the order of the examples.
The x-axis can be a cost: the cost curve is the curve of the costs themselves, in which the small model's wasted work counts.

Source: Language Model Cascades: Token-level uncertainty and beyond (arXiv 2404.10136). No code was released.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from tokenry.core.errors import UserError, require_fraction, require_one_of
from tokenry.core.stats import Estimate, Values, bootstrap_estimate, times_drawn
from tokenry.core.tensors.output_head import accumulation_dtype

ChowRule = Literal["sum", "average", "quantile"]
Ties = Literal["expected", "stable"]
Empty = Literal["refuse", "defer"]

ALPHAS = tuple(float(alpha) for alpha in np.linspace(0, 1, 101))
"""The levels of the quantiles by default: 0, 0.01 … 1."""
_ROUNDING = 1e-6
"""How far above 0 a log-probability may lie by rounding."""


# --- scores ------------------------------------------------------------------------------------------------------------


def token_logprobs(
    logits: Float[Tensor, "batch seq vocab"], output_ids: Int[Tensor, "batch seq"], mask: Tensor
) -> Float[Tensor, "batch seq"]:
    """Log-probability of each output token at temperature 1, 0 where masked; logits at `t` predict output `t`."""
    logits = logits.to(accumulation_dtype(logits.dtype))
    chosen = logits.gather(-1, output_ids[..., None])[..., 0] - logits.logsumexp(-1)
    return torch.where(mask.bool(), chosen, chosen.new_zeros(()))


def pad_logprobs(
    outputs: Sequence[Sequence[float | int]],
) -> tuple[Float[Tensor, "batch seq"], Bool[Tensor, "batch seq"]]:
    """Stack the log-probabilities of outputs of different lengths, with a mask of the real tokens."""
    lengths = torch.tensor([len(output) for output in outputs], dtype=torch.int64)
    mask = torch.arange(int(lengths.max()) if len(outputs) else 0) < lengths[:, None]
    rows = torch.zeros(mask.shape, dtype=torch.float64)
    rows[mask] = torch.tensor([value for output in outputs for value in output], dtype=torch.float64)
    return rows, mask


def chow_score(
    logprobs: Any, mask: Any, rule: ChowRule = "sum", alpha: float | int = 0.0, empty: Empty = "refuse"
) -> Float[Tensor, "batch"]:
    """Score outputs by one of Chow's rules; higher = keep.

    Args:
        logprobs: log-probabilities of the output tokens, batch × seq; whatever stands in padding is ignored.
        mask: true where a token is real.
        rule: `sum`, `average` or `quantile`.
        alpha: level of the quantile, in [0, 1]: 0 scores the least confident token.
        empty: what becomes of an output without tokens: an error, or the score −inf, which defers it.
    """
    require_one_of(rule, ("sum", "average", "quantile"), "rule")
    if rule == "quantile":
        return quantile_features(logprobs, mask, [alpha], empty)[:, 0]
    rows, real = _outputs(logprobs, mask, empty)
    lengths = real.sum(1)
    total = np.where(real, rows, 0.0).sum(1)
    score = total if rule == "sum" else total / np.maximum(lengths, 1)
    return torch.from_numpy(np.where(lengths > 0, score, -np.inf))


def quantile_features(
    logprobs: Any, mask: Any, alphas: Sequence[float | int] = ALPHAS, empty: Empty = "refuse"
) -> Float[Tensor, "batch alphas"]:
    """Quantiles of the log-probabilities of each output at several levels; arguments as in `chow_score`.

    Between −inf and a finite value every quantile is −inf.
    """
    for alpha in alphas:
        require_fraction(float(alpha), "alpha")
    rows, real = _outputs(logprobs, mask, empty)
    lengths, levels = real.sum(1), np.asarray(alphas, dtype=float)
    ordered = np.sort(np.where(real, rows, np.inf), axis=1)
    found = np.full((len(rows), len(levels)), -np.inf)
    by_length = np.argsort(lengths, kind="stable")
    # All outputs of one length have their ranks in the same columns.
    for length, group in _groups(lengths[by_length], by_length):
        if length == 0:
            continue
        ranks = levels * (length - 1)
        below = np.floor(ranks).astype(int)
        block = ordered[group, :length]
        low = block.take(below, axis=1)
        step = block.take(np.minimum(below + 1, length - 1), axis=1)
        with np.errstate(invalid="ignore"):
            step -= low
            step *= ranks - below
            step += low
        found[group] = step
    found[np.isnan(found)] = -np.inf
    return torch.from_numpy(found)


def _groups(values: ndarray, members: ndarray) -> list[tuple[int, ndarray]]:
    """The members that have each value; `values` are sorted and belong to the members."""
    different, starts = np.unique(values, return_index=True)
    return list(zip(different.tolist(), np.split(members, starts[1:]), strict=True))


def array(values: Any) -> ndarray:
    """Numbers of any library, device and precision as float64 on the CPU."""
    if isinstance(values, Tensor):
        return values.detach().to("cpu", torch.float64).numpy()
    return np.asarray(values, dtype=float)


def _outputs(logprobs: Any, mask: Any, empty: Empty) -> tuple[ndarray, ndarray]:
    require_one_of(empty, ("refuse", "defer"), "empty")
    rows, real = array(logprobs), array(mask).astype(bool)
    if rows.shape != real.shape or rows.ndim != 2:
        raise UserError(
            f"log-probabilities and mask must both be batch × seq, got {rows.shape} and {real.shape}."
        )
    with np.errstate(invalid="ignore"):
        wrong = real & ~(rows <= _ROUNDING)
    if wrong.any():
        output, token = np.argwhere(wrong)[0]
        raise UserError(
            f"a log-probability must be at most 0, got {rows[output, token]} for token {token} of output {output}: "
            "give natural logarithms of probabilities."
        )
    if empty == "refuse" and not real.any(1).all():
        raise UserError(
            f"output {int(np.flatnonzero(~real.any(1))[0])} has no tokens, so it has no score: "
            'give empty="defer" to send empty outputs to the large model.'
        )
    return rows, real


# --- curves ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AucDf:
    """Area under a deferral curve, with what it lies between.

    Attributes:
        auc: area of the rule.
        random: area of random deferral, the mean of both models' quality.
        oracle: area where those examples are deferred first that gain the most.
        gain_percent: 100 (auc − random) / random; nan if random is 0.
    """

    auc: float
    random: float
    oracle: float
    gain_percent: float


def deferral_curve(
    score: Values, q_small: Values, q_large: Values, ties: Ties = "expected"
) -> tuple[Float[ndarray, "points"], Float[ndarray, "points *rules"]]:
    """Quality when the k examples with the lowest scores are deferred, for k = 0 … N.

    Args:
        score: one per example, or examples × rules for the curves of several rules at once.
        q_small: quality of the small model's answer to each example, in any unit.
        q_large: the same of the large model's.
        ties: whether equal scores count in random order (`expected`) or in the order of the examples (`stable`).

    Returns:
        The rates k / N, and the quality at each, one column per rule if there are several.
    """
    require_one_of(ties, ("expected", "stable"), "ties")
    scores, small, large = _examples(score, q_small, q_large)
    rows = np.ascontiguousarray(scores.T) if scores.ndim == 2 else scores[None]
    order = np.argsort(rows, axis=1, kind="stable" if ties == "stable" else None)
    count = len(small)
    curves = np.empty((len(rows), count + 1))
    curves[:, 0], curves[:, 1:] = small.mean(), ((large - small) / count).take(order)
    if ties == "expected":
        order += np.arange(len(rows))[:, None] * count
        _spread_over_ties(rows.take(order), curves[:, 1:])
    np.cumsum(curves, axis=1, out=curves)
    return np.arange(count + 1) / count, curves[0] if scores.ndim == 1 else curves.T


def _spread_over_ties(ordered: ndarray, gains: ndarray) -> None:
    """Replace the gain of every example by the mean of its tie group, rule by rule."""
    begins = np.ones(ordered.shape, dtype=bool)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=begins[:, 1:])
    if begins.all():
        return
    starts = np.flatnonzero(begins)
    sizes = np.diff(starts, append=begins.size)
    gains[:] = np.repeat(np.add.reduceat(gains.ravel(), starts) / sizes, sizes).reshape(gains.shape)


def auc_df(score: Values, q_small: Values, q_large: Values, ties: Ties = "expected") -> AucDf:
    """Area under the deferral curve of one rule, beside random deferral and the oracle; arguments as in `deferral_curve`."""
    _, small, large = _examples(score, q_small, q_large)
    areas = [
        area(*deferral_curve(ranking, small, large, ties)) for ranking in (score, oracle_score(small, large))
    ]
    random = float(small.mean() + large.mean()) / 2
    gain = 100 * (areas[0] - random) / random if random else math.nan
    return AucDf(areas[0], random, areas[1], gain)


def area(x: Float[ndarray, "points"], quality: Float[ndarray, "points"]) -> float:
    """Mean height of a curve by the trapezoid rule: the AUC-DF over rates, the cost-aware AUC over costs."""
    span = float(x[-1] - x[0])
    return float(np.trapezoid(quality, x)) / span if span else float(np.mean(quality))


def oracle_score(q_small: Values, q_large: Values) -> Float[ndarray, "examples"]:
    """The score that knows both answers: those that gain the most by deferral come first."""
    return array(q_small) - array(q_large)


def cost_curve(
    score: Values,
    small_cost: Values,
    large_cost: Values,
    wasted: Values | None = None,
    ties: Ties = "expected",
) -> Float[ndarray, "points *rules"]:
    """Mean cost per example at each rate, in any unit: FLOPs, seconds, money.

    Args:
        score: as in `deferral_curve`.
        small_cost: cost of the small model's answer to each example.
        large_cost: the same of the large model's.
        wasted: cost of the small model's work on an example that is deferred: by default the whole answer; an early rule wastes less.
        ties: as in `deferral_curve`.
    """
    lost = array(small_cost if wasted is None else wasted)
    return deferral_curve(score, small_cost, lost + array(large_cost), ties)[1]


def auc_draws(
    score: Float[ndarray, "examples rules"],
    q_small: Values,
    q_large: Values,
    draws: int = 1000,
    seed: int = 0,
) -> Float[ndarray, "draws rules"]:
    """AUC-DF of several rules on resampled examples, the same draws for all rules, so that their differences are paired.

    An example drawn w times stands w times in a row; the curve is linear across these as across any equal scores.
    """
    scores, small, large = _examples(score, q_small, q_large)
    found = []
    for times in times_drawn(len(small), draws, seed):
        areas = np.empty((len(times), scores.shape[1]))
        for rule in range(scores.shape[1]):
            x, quality = _drawn_curves(scores[:, rule], small, large, times)
            areas[:, rule] = np.trapezoid(quality, x, axis=1)
        found.append(areas)
    return np.concatenate(found)


def curve_band(
    score: Values, q_small: Values, q_large: Values, rates: Values, draws: int = 500, seed: int = 0
) -> list[Estimate]:
    """Quality at given rates, each with the bootstrap interval over the examples."""
    scores, small, large = _examples(score, q_small, q_large)
    at = array(rates)
    drawn = [
        np.interp(at, x, quality)
        for times in times_drawn(len(small), draws, seed)
        for x, quality in zip(*_drawn_curves(scores, small, large, times), strict=True)
    ]
    values = np.interp(at, *deferral_curve(scores, small, large))
    return [
        bootstrap_estimate(float(value), column, len(small))
        for value, column in zip(values, np.array(drawn).T, strict=True)
    ]


def _drawn_curves(score: ndarray, small: ndarray, large: ndarray, times: ndarray) -> tuple[ndarray, ndarray]:
    """Rates and quality at the ends of the tie groups, one row per draw."""
    order = np.argsort(score)
    starts = np.flatnonzero(np.concatenate([[True], score[order][1:] != score[order][:-1]]))
    counts = times[:, order].astype(float)
    moved = np.add.reduceat(counts, starts, axis=1)
    gained = np.add.reduceat(counts * (large - small)[order], starts, axis=1)
    zero = np.zeros((len(times), 1))
    x = np.concatenate([zero, moved.cumsum(1)], axis=1) / len(small)
    quality = np.concatenate([zero, gained.cumsum(1)], axis=1) / len(small)
    return x, quality + (times @ small)[:, None] / len(small)


def _examples(score: Values, q_small: Values, q_large: Values) -> tuple[ndarray, ndarray, ndarray]:
    scores, small, large = array(score), array(q_small), array(q_large)
    if small.shape != large.shape or small.ndim != 1:
        raise UserError(
            f"both models need one quality per example, got {small.size} of the small and {large.size} of the large one."
        )
    if len(scores) != len(small):
        raise UserError(f"{len(scores)} scores for {len(small)} qualities: give one score per example.")
    if len(small) == 0:
        raise UserError("there are no examples: a deferral curve needs at least one.")
    for name, values in (("a score", scores), ("a quality", np.stack([small, large]))):
        if np.isnan(values).any():
            raise UserError(f"{name} is nan: every example needs a score and both qualities.")
    return scores, small, large


# --- length ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LengthDiagnosis:
    """How a score depends on the length of the answer, and how the oracle's does.

    Attributes:
        spearman: rank correlation of score and length; nan where either is constant.
        oracle_spearman: the same of the oracle's score.
        lengths: mean length of the answers in each tenth of the examples, from the lowest scores to the highest.
        oracle_lengths: the same by the oracle's score.
    """

    spearman: float
    oracle_spearman: float
    lengths: tuple[float, ...]
    oracle_lengths: tuple[float, ...]


def diagnose_lengths(score: Values, lengths: Values, q_small: Values, q_large: Values) -> LengthDiagnosis:
    """Compare how a score and the oracle's score depend on the number of tokens of the small model's answers."""
    scores, small, large = _examples(score, q_small, q_large)
    tokens, oracle = array(lengths), oracle_score(small, large)
    return LengthDiagnosis(
        rank_correlation(tokens, scores),
        rank_correlation(tokens, oracle),
        _means_of_tenths(tokens, scores),
        _means_of_tenths(tokens, oracle),
    )


def _means_of_tenths(tokens: ndarray, score: ndarray) -> tuple[float, ...]:
    parts = np.array_split(tokens[np.argsort(score, kind="stable")], 10)
    return tuple(float(part.mean()) for part in parts if len(part))


def rank_correlation(one: Values, other: Values) -> float:
    """Spearman's correlation; nan where a side is constant."""
    from scipy.stats import rankdata  # most of a second, which every --help would pay

    ranks = [rankdata(array(values)) for values in (one, other)]
    centred = [values - values.mean() for values in ranks]
    scale = math.sqrt(float(centred[0] @ centred[0]) * float(centred[1] @ centred[1]))
    return float(centred[0] @ centred[1]) / scale if scale else math.nan


# --- thresholds --------------------------------------------------------------------------------------------------------


def defer_lowest(score: Values, rate: float | int) -> Bool[ndarray, "examples"]:
    """The deferred examples under a budget: the ⌊rate · N⌋ lowest scores, ties in the order of the examples."""
    scores = _scores(score)
    deferred = np.zeros(len(scores), dtype=bool)
    deferred[np.argsort(scores, kind="stable")[: _affordable(rate, len(scores))]] = True
    return deferred


def threshold_for_budget(score: Values, rate: float | int) -> float:
    """The threshold below which at most the share `rate` of the scores lies: fewer than that only where scores are equal."""
    ordered = np.sort(_scores(score))
    affordable = _affordable(rate, len(ordered))
    return float(ordered[affordable]) if affordable < len(ordered) else math.inf


def conformal_threshold(score: Values, wrong: Values, risk: float | int) -> float:
    """The lowest threshold at which a new example is kept and wrong with probability at most `risk`.

        (number kept and wrong + 1) / (N + 1) ≤ risk

    The guarantee is for the average over calibration sets, of examples exchangeable with the new one: conformal risk control
    (arXiv 2208.02814). If even deferring everything leaves too few examples to promise it, the threshold is inf.
    """
    require_fraction(float(risk), "risk")
    scores, bad = _scores(score), array(wrong).astype(bool)
    if len(scores) != len(bad):
        raise UserError(f"{len(scores)} scores for {len(bad)} answers: give one score per answer.")
    allowed = math.floor(risk * (len(scores) + 1) + 1e-9) - 1
    kept_wrong = np.sort(scores[bad])[::-1]
    if allowed < 0:
        return math.inf
    # The answers with the highest scores are kept first: the one that is wrong too many lies just below the threshold.
    return float(np.nextafter(kept_wrong[allowed], np.inf)) if allowed < len(kept_wrong) else -math.inf


def _scores(score: Values) -> ndarray:
    scores = array(score)
    if np.isnan(scores).any():
        raise UserError(
            f"score {int(np.isnan(scores).argmax())} is nan: a threshold needs a score of every example."
        )
    return scores


def _affordable(rate: float | int, examples: int) -> int:
    require_fraction(float(rate), "the budget")
    return math.floor(rate * examples + 1e-9)


def tune_alpha(
    logprobs: Any, mask: Any, q_small: Values, q_large: Values, alphas: Sequence[float | int] = ALPHAS
) -> float:
    """The level of the quantile with the largest AUC-DF on these examples; the lowest of equally good ones."""
    features = quantile_features(logprobs, mask, alphas, empty="defer").numpy()
    rates, curves = deferral_curve(features, q_small, q_large)
    return float(alphas[int(np.argmax(np.trapezoid(curves, rates, axis=0).round(12)))])
