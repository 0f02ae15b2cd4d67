"""Deferral rules by name: each is fitted on logged answers and gives a scorer, plain data that a rule file holds.

    sum · average · quantile[:alpha=0.2]    Chow's rules; a quantile without a level takes the level with the largest AUC-DF
    debiased[:of=sum,curve=linear]          Chow's score less what an answer of its length scores on average:  s − E[s | n]

The other rule, `post-hoc`, is learned (`tokenry.decoding.post_hoc_deferral`). An output without tokens is always deferred.

    scorer = DEFERRAL_RULES.make("debiased").fit(examples)
    scorer.score(logprobs, mask)
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from tokenry.core.errors import UserError, require_fraction
from tokenry.core.io.registry import Registry
from tokenry.decoding.cascades import ALPHAS, ChowRule, array, chow_score, tune_alpha


@dataclass(frozen=True)
class Examples:
    """Answers of the small model to prompts that both models answered.

    Attributes:
        logprobs: log-probabilities of the tokens of its answers.
        mask: true where a token is real.
        q_small: quality of each of its answers.
        q_large: quality of the large model's answer to the same prompt.
        embeddings: further features of each prompt, such as hidden states of both models; None if there are none.
    """

    logprobs: Float[Tensor, "examples seq"]
    mask: Bool[Tensor, "examples seq"]
    q_small: Float[ndarray, "examples"]
    q_large: Float[ndarray, "examples"]
    embeddings: Float[ndarray, "examples width"] | None = None

    def __len__(self) -> int:
        return len(self.q_small)

    @property
    def lengths(self) -> Float[ndarray, "examples"]:
        """Number of tokens of each answer."""
        return array(self.mask).sum(1)

    def rows(self, chosen: ndarray) -> "Examples":
        """Some of the examples."""
        embeddings = None if self.embeddings is None else self.embeddings[chosen]
        return Examples(
            self.logprobs[chosen], self.mask[chosen], self.q_small[chosen], self.q_large[chosen], embeddings
        )

    def first(self, tokens: int | None) -> "Examples":
        """The examples as they are known after the first tokens of each answer."""
        return replace(self, logprobs=self.logprobs[:, :tokens], mask=self.mask[:, :tokens])


@runtime_checkable
class Scorer(Protocol):
    """What a fitted rule knows: it scores answers, higher = keep."""

    def score(self, logprobs: Any, mask: Any, embeddings: Any = None) -> Float[Tensor, "batch"]:
        """Score answers, one number per row."""
        ...


class DeferralRule(ABC):
    """A rule with its options."""

    @abstractmethod
    def fit(self, examples: Examples) -> Scorer:
        """Learn from examples what the rule needs to know."""


DEFERRAL_RULES: Registry[DeferralRule] = Registry(
    "deferral rule", "tokenry.decoding", first=("sum", "average", "quantile", "debiased")
)


# --- scorers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChowScorer:
    """One of Chow's scores."""

    rule: ChowRule
    alpha: float | int = 0.0
    kind: Literal["chow"] = "chow"

    def score(self, logprobs: Any, mask: Any, embeddings: Any = None) -> Float[Tensor, "batch"]:
        """Score answers; embeddings are not used."""
        return chow_score(logprobs, mask, self.rule, self.alpha, empty="defer")


@dataclass(frozen=True)
class DebiasedScorer:
    """Chow's score less what is expected at the answer's length, between knots.

    Attributes:
        of: the score.
        lengths: lengths at the knots, ascending.
        expected: expected score at each; beyond the ends it stays.
    """

    of: Literal["sum", "average"]
    lengths: tuple[float, ...]
    expected: tuple[float, ...]
    kind: Literal["debiased"] = "debiased"

    def score(self, logprobs: Any, mask: Any, embeddings: Any = None) -> Float[Tensor, "batch"]:
        """Score answers; embeddings are not used."""
        raw = chow_score(logprobs, mask, self.of, empty="defer")
        return raw - torch.from_numpy(np.interp(array(mask).sum(1), self.lengths, self.expected))


# --- rules -------------------------------------------------------------------------------------------------------------


@DEFERRAL_RULES.register("sum")
@dataclass(frozen=True)
class ChowSum(DeferralRule):
    """The log-likelihood of the answer."""

    def fit(self, examples: Examples) -> ChowScorer:
        """Nothing is learned."""
        return ChowScorer("sum")


@DEFERRAL_RULES.register("average")
@dataclass(frozen=True)
class ChowAverage(DeferralRule):
    """The log-likelihood per token."""

    def fit(self, examples: Examples) -> ChowScorer:
        """Nothing is learned."""
        return ChowScorer("average")


@DEFERRAL_RULES.register("quantile")
@dataclass(frozen=True)
class ChowQuantile(DeferralRule):
    """A quantile of the token log-probabilities.

    Attributes:
        alpha: its level; None takes the one of 0, 0.01 … 1 with the largest AUC-DF on the examples.
    """

    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.alpha is not None:
            require_fraction(self.alpha, "alpha")

    def fit(self, examples: Examples) -> ChowScorer:
        """Choose the level where none is given."""
        alpha = self.alpha
        if alpha is None:
            alpha = tune_alpha(examples.logprobs, examples.mask, examples.q_small, examples.q_large, ALPHAS)
        return ChowScorer("quantile", alpha)


@DEFERRAL_RULES.register("debiased")
@dataclass(frozen=True)
class DebiasedChow(DeferralRule):
    """Chow's score without its dependence on length.

    Attributes:
        of: the score.
        curve: how the score may depend on length: in a straight line, or in any monotone way (isotonic regression).
    """

    of: Literal["sum", "average"] = "sum"
    curve: Literal["linear", "isotonic"] = "linear"

    def fit(self, examples: Examples) -> DebiasedScorer:
        """Regress the scores on the lengths; answers with an impossible token are left out."""
        score = array(chow_score(examples.logprobs, examples.mask, self.of, empty="defer"))
        known = np.isfinite(score)
        if not known.any():
            raise UserError("no answer has a finite score, so nothing says what a length scores on average.")
        lengths, score = examples.lengths[known], score[known]
        if self.curve == "linear":
            slope, start = np.polyfit(lengths, score, 1) if np.ptp(lengths) else (0.0, score.mean())
            knots = np.array([0.0, 1e6])  # a straight line through two far knots
            return DebiasedScorer(self.of, tuple(knots.tolist()), tuple((start + slope * knots).tolist()))
        from sklearn.isotonic import IsotonicRegression

        fitted = IsotonicRegression(increasing="auto").fit(lengths, score)
        return DebiasedScorer(
            self.of, tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist())
        )
