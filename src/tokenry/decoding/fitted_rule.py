"""A fitted deferral rule: fitted on one half of the examples, its threshold, curve and bounds measured on the other, kept in one file.

    threshold       for a budget: at most this share of the examples is deferred
                    for a risk: a new example is kept and wrong with at most this probability (conformal)
    kept and wrong  at the threshold: share of the examples, conformal bound (k + 1) / (N + 1), exact bound (95 %, one-sided)

The file says on what it was fitted and for which two models; it refuses others. Thresholds do not transfer between tasks: `meets` says
on new examples whether the budget holds.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from tokenry.core.errors import UserError, require_at_least, require_fraction
from tokenry.core.io.files import atomic_write, without_nan
from tokenry.core.io.records import read_record
from tokenry.core.io.schema import SCHEMA
from tokenry.core.io.workspace import fingerprint
from tokenry.core.stats import Estimate, bootstrap_estimate, clopper_pearson
from tokenry.decoding.cascades import (
    LengthDiagnosis,
    array,
    auc_df,
    auc_draws,
    conformal_threshold,
    curve_band,
    diagnose_lengths,
    threshold_for_budget,
)
from tokenry.decoding.deferral_rules import (
    DEFERRAL_RULES,
    ChowScorer,
    DebiasedScorer,
    DeferralRule,
    Examples,
)
from tokenry.decoding.post_hoc_deferral import PostHocScorer
from tokenry.models.identity import ModelIdentity

WithoutLogprobs = Literal["refuse", "defer", "keep"]

KIND = "deferral rule"
RATES = tuple(number / 20 for number in range(21))
FEWEST = 8
_INFINITE = {math.inf: "defer all", -math.inf: "keep all"}


@dataclass(frozen=True)
class Target:
    """What the threshold is chosen for: a budget or a risk.

    Attributes:
        budget: largest share of the prompts that is deferred.
        risk: largest probability that an answer is kept and wrong; the smallest such deferral is chosen.
        right_from: quality from which an answer is right.
    """

    budget: float | None = None
    risk: float | None = None
    right_from: float | None = None

    def __post_init__(self) -> None:
        if (self.budget is None) == (self.risk is None):
            raise UserError("a threshold is chosen for a budget or for a risk: give one of them.")
        require_fraction(
            self.budget if self.budget is not None else self.risk or 0.0,
            "budget" if self.risk is None else "risk",
        )


@dataclass(frozen=True)
class CurvePoint:
    """Quality at a deferral rate, with its 95 % interval over the examples."""

    rate: float
    quality: float
    low: float
    high: float


@dataclass(frozen=True)
class KeptWrong:
    """How often an answer is kept and wrong at the threshold.

    Attributes:
        conformal: bound on the probability for a new example, averaged over calibration sets; holds for the threshold of a risk.
        exact: exact bound on the share, with 95 % confidence (one-sided).
    """

    share: float
    conformal: float
    exact: float


@dataclass(frozen=True)
class FittedRule:
    """A rule, its threshold, and what was measured of it.

    Attributes:
        rule: the rule as it was asked for, such as `quantile:alpha=0.2`.
        scorer: what it learned.
        threshold: answers that score below it are deferred; ± inf to defer all or none.
        first: number of tokens after which an early rule decides; None for the whole answer.
        target: what the threshold was chosen for.
        small: the small model.
        large: the large model.
        data: fingerprint of the examples.
        fitted_on: number of examples that the rule learned from.
        calibrated_on: number of other examples, on which all below was measured.
        deferred: share of them that is deferred.
        auc: AUC-DF with its interval.
        above_random: by how much it is above random deferral, on the same resamples.
        random: AUC-DF of random deferral.
        oracle: AUC-DF of the oracle.
        curve: the deferral curve.
        lengths: dependence of the score on length.
        kept_wrong: None where no quality is known to be right.
        without_logprobs: what becomes of an answer that comes without log-probabilities.
    """

    rule: str
    scorer: ChowScorer | DebiasedScorer | PostHocScorer
    threshold: float
    first: int | None
    target: Target
    small: ModelIdentity
    large: ModelIdentity
    data: str
    fitted_on: int
    calibrated_on: int
    deferred: float
    auc: Estimate
    above_random: Estimate
    random: float
    oracle: float
    curve: tuple[CurvePoint, ...]
    lengths: LengthDiagnosis
    kept_wrong: KeptWrong | None
    without_logprobs: WithoutLogprobs = "refuse"

    def score(self, logprobs: Any, mask: Any, embeddings: Any = None) -> Float[Tensor, "batch"]:
        """Score answers; an early rule looks at their first tokens only."""
        return self.scorer.score(logprobs[:, : self.first], mask[:, : self.first], embeddings)

    def defers(self, logprobs: Any, mask: Any, embeddings: Any = None) -> ndarray:
        """Which answers the large model is to give instead."""
        deferred: ndarray = array(self.score(logprobs, mask, embeddings)) < self.threshold
        return deferred

    def require_models(self, small: ModelIdentity, large: ModelIdentity) -> None:
        """Raise `UserError` unless these are the models that the rule was fitted for."""
        self.small.require(small, "the small model")
        self.large.require(large, "the large model")

    def as_json(self) -> dict[str, Any]:
        """What the file holds."""
        stored = asdict(self) | {"threshold": _INFINITE.get(self.threshold, self.threshold)}
        return {"schema": SCHEMA, "kind": KIND, **without_nan(stored)}

    def text(self) -> str:
        """The file as text."""
        return json.dumps(self.as_json(), indent=1, allow_nan=False) + "\n"

    def save(self, path: Path) -> None:
        """Write the file."""
        with atomic_write(path) as partial:
            partial.write_text(self.text(), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "FittedRule":
        """Read a file.

        Raises:
            UserError: it is no file of a deferral rule, or a damaged one.
        """
        return read_record(path, cls, KIND, "deferral rule", "tokenry cascade fit", _values)


def _values(stored: dict[str, Any]) -> dict[str, Any]:
    """The values of a rule from those of its file, where no number is infinite or nan."""
    words: dict[Any, float] = {word: value for value, word in _INFINITE.items()}
    threshold = stored.get("threshold")
    values: dict[str, Any] = _with_nan({**stored, "threshold": words.get(threshold, threshold)})
    return values


def fit_rule(
    rule: DeferralRule | str,
    examples: Examples,
    target: Target,
    small: ModelIdentity,
    large: ModelIdentity,
    *,
    first: int | None = None,
    without_logprobs: WithoutLogprobs = "refuse",
    draws: int = 1000,
    seed: int = 0,
) -> FittedRule:
    """Fit a rule on a random half of the examples, and choose the threshold on the other half.

    Args:
        rule: a rule, or its description.
        examples: answers of the small model with the quality of both.
        target: what the threshold is chosen for.
        small: the small model.
        large: the large model.
        first: number of tokens after which the rule decides; None for the whole answer.
        without_logprobs: what is to become of an answer without log-probabilities.
        draws: resamples behind the intervals.
        seed: random seed of the halves and the resamples.
    """
    require_at_least(FEWEST, examples=len(examples))
    require_at_least(1, first=first, draws=draws)
    description = rule if isinstance(rule, str) else DEFERRAL_RULES.name_of(rule)
    made = DEFERRAL_RULES.make(rule) if isinstance(rule, str) else rule
    seen = examples.first(first)
    rows, others = halves(len(examples), seed)
    learned, held = seen.rows(rows), seen.rows(others)
    scorer = made.fit(learned)
    score = array(scorer.score(held.logprobs, held.mask, held.embeddings))
    wrong = _wrong(held, target)
    if target.budget is not None:
        threshold = threshold_for_budget(score, target.budget)
    elif wrong is None:
        raise UserError(
            "these qualities are not all 0 or 1, so a risk needs right_from: the quality from which an answer is right."
        )
    else:
        threshold = conformal_threshold(score, wrong, target.risk or 0.0)
    found = auc_df(score, held.q_small, held.q_large)
    # Where all scores are equal, deferral is random.
    both = np.stack([score, np.zeros_like(score)], axis=1)
    drawn, at_random = auc_draws(both, held.q_small, held.q_large, draws, seed).T
    band = curve_band(score, held.q_small, held.q_large, RATES, draws, seed)
    return FittedRule(
        rule=description,
        scorer=scorer,  # type: ignore[arg-type]
        threshold=threshold,
        first=first,
        target=target,
        small=small,
        large=large,
        data=data_fingerprint(examples),
        fitted_on=len(learned),
        calibrated_on=len(held),
        deferred=float((score < threshold).mean()),
        auc=bootstrap_estimate(found.auc, drawn, len(held)),
        above_random=bootstrap_estimate(found.auc - found.random, drawn - at_random, len(held)),
        random=found.random,
        oracle=found.oracle,
        curve=tuple(
            CurvePoint(rate, point.value, point.low, point.high) for rate, point in zip(RATES, band, strict=True)
        ),
        lengths=diagnose_lengths(score, examples.lengths[others], held.q_small, held.q_large),
        kept_wrong=None if wrong is None else _kept_wrong(score, wrong, threshold),
        without_logprobs=without_logprobs,
    )  # fmt: skip


def halves(count: int, seed: int) -> tuple[ndarray, ndarray]:
    """The examples to learn from and those to measure on, at random."""
    one, other = np.array_split(np.random.default_rng(seed).permutation(count), 2)
    return np.sort(one), np.sort(other)


def data_fingerprint(examples: Examples) -> str:
    """Hash examples: their tokens' log-probabilities and both qualities."""
    return fingerprint(
        array(examples.logprobs)[array(examples.mask) > 0],
        examples.lengths,
        examples.q_small,
        examples.q_large,
        length=24,
    )


def meets(fitted: FittedRule, examples: Examples) -> dict[str, float]:
    """The share of new examples that is deferred, its exact 95 % interval, and the quality reached there."""
    deferred = fitted.defers(examples.logprobs, examples.mask, examples.embeddings)
    low, high = clopper_pearson(int(deferred.sum()), len(deferred))
    quality = np.where(deferred, examples.q_large, examples.q_small)
    return {"deferred": float(deferred.mean()), "low": low, "high": high, "quality": float(quality.mean())}


def _wrong(examples: Examples, target: Target) -> ndarray | None:
    if target.right_from is not None:
        return examples.q_small < target.right_from
    known = np.isin(np.stack([examples.q_small, examples.q_large]), (0.0, 1.0)).all()
    return examples.q_small < 1 if known else None


def _kept_wrong(score: ndarray, wrong: ndarray, threshold: float) -> KeptWrong:
    count = int((wrong & (score >= threshold)).sum())
    return KeptWrong(
        count / len(score), (count + 1) / (len(score) + 1), clopper_pearson(count, len(score), 0.9)[1]
    )


def _with_nan(values: dict[str, Any]) -> dict[str, Any]:
    """The figures that can be undefined are nan again where the file has null."""
    filled = dict(values)
    for name in ("auc", "above_random", "lengths"):
        if isinstance(filled.get(name), dict):
            filled[name] = {key: math.nan if part is None else part for key, part in filled[name].items()}
    return filled
