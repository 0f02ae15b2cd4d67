"""Rules that decide which of two models writes a token, from what the small one says about it: no training.

    entropy       H = −Σ p log p of the small model's distribution, in nats       the large model writes where H >= threshold
    log-u         x = top-10 logits, S = Σ x, p = x / S
                  aleatoric = −Σ p (ψ(x + 1) − ψ(S + 1)), epistemic = 10 / (S + 10): they mean something for positive logits only
    momentum      m <- 0.7 m + 0.3 [aleatoric < threshold]; small while m > 0.3, from the large model back to it where m > 0.7
    rolling       to the large model at once, back where the mean of its last 3 aleatoric values is below the threshold
    random        a pseudo-random share

Rules that remember begin as if the large model had written last. A router (`tokenry.decoding.r2r.router`) is a rule that is trained.

    decide = EntropyRule().begin()
    routed = decide(SmallStep(logits, tokens), threshold=0.45)

Source: `switching.py` of thu-nics/R2R, for the paper R2R (arXiv 2505.21600).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.core.errors import UserError, require_at_least, require_fraction
from tokenry.core.io.registry import Registry

_TOP = 10


class SmallStep(NamedTuple):
    """What the small model says about the next token of each row.

    Attributes:
        logits: of the model itself; the largest ones are enough for all but the entropy.
        tokens: the tokens that it chose.
        hidden: its last hidden states, for rules that need them.
        number: tokens that were written before this one.
        context: the last tokens of each row, -1 where there is padding.
        entropy: of its distribution, where it is known already.
    """

    logits: Float[Tensor, "batch vocabulary"]
    tokens: Int[Tensor, "batch"]
    hidden: Float[Tensor, "batch dim"] | None = None
    number: int = 0
    context: Int[Tensor, "batch last"] | None = None
    entropy: Float[Tensor, "batch"] | None = None


Threshold = float | int | Tensor
Decide = Callable[[SmallStep, Threshold], Bool[Tensor, "batch"]]
"""Which rows the large model writes, given a threshold for all of them or one for each."""


class RoutingRule(ABC):
    """What scores a token: the higher, the more it needs the large model.

    Attributes:
        threshold: score from which the large model writes the token.
        needs_hidden: whether it reads hidden states.
        highest: largest threshold that means anything; None for no limit.
    """

    threshold: float | int
    needs_hidden: ClassVar[bool] = False
    highest: ClassVar[float | None] = None

    @abstractmethod
    def score(self, step: SmallStep) -> Float[Tensor, "batch"]:
        """Score the next token of each row, at least 0."""

    def begin(self) -> Decide:
        """Decide about one batch from its first token on; a rule that remembers begins anew."""
        return lambda step, threshold: self.score(step) >= threshold


ROUTING_RULES: Registry[RoutingRule] = Registry("routing rule", __name__)


@ROUTING_RULES.register("entropy")
@dataclass(frozen=True)
class EntropyRule(RoutingRule):
    """The entropy of the small model's distribution.

    Attributes:
        threshold: entropy in nats.
    """

    threshold: float | int = 0.45

    def __post_init__(self) -> None:
        require_at_least(0, threshold=self.threshold)

    def score(self, step: SmallStep) -> Float[Tensor, "batch"]:
        """The entropy in nats."""
        return entropy(step.logits) if step.entropy is None else step.entropy


@ROUTING_RULES.register("log-u")
@dataclass(frozen=True)
class LogURule(RoutingRule):
    """Aleatoric uncertainty, and lower limits on others.

    Attributes:
        threshold: aleatoric uncertainty.
        epistemic: epistemic uncertainty that must be reached too.
        entropy: entropy in nats that must be reached too.
    """

    threshold: float | int = 2.275
    epistemic: float | None = None
    entropy: float | None = None

    def __post_init__(self) -> None:
        require_at_least(0, threshold=self.threshold, epistemic=self.epistemic, entropy=self.entropy)

    def score(self, step: SmallStep) -> Float[Tensor, "batch"]:
        """The aleatoric uncertainty; 0 where another limit is not reached."""
        aleatoric, epistemic = log_u(step.logits)
        if self.epistemic is not None:
            aleatoric = aleatoric * (epistemic >= self.epistemic)
        if self.entropy is not None:
            aleatoric = aleatoric * (EntropyRule().score(step) >= self.entropy)
        return aleatoric


@ROUTING_RULES.register("momentum")
@dataclass(frozen=True)
class MomentumRule(RoutingRule):
    """A moving average of how simple tokens are, with two limits.

    Attributes:
        threshold: aleatoric uncertainty below which a token is simple.
        factor: weight of the past.
        to_large: average at which the large model takes over.
        to_small: average above which the small one does.
    """

    threshold: float | int = 2.275
    factor: float = 0.7
    to_large: float = 0.3
    to_small: float = 0.7

    def __post_init__(self) -> None:
        require_at_least(0, threshold=self.threshold)
        for name in ("factor", "to_large", "to_small"):
            require_fraction(getattr(self, name), name)

    def score(self, step: SmallStep) -> Float[Tensor, "batch"]:
        """The aleatoric uncertainty."""
        return log_u(step.logits)[0]

    def begin(self) -> Decide:
        """Decide with the average of each row so far."""
        average: Tensor | float = 0.0
        was_large: Tensor | bool = True

        def decide(step: SmallStep, threshold: Threshold) -> Bool[Tensor, "batch"]:
            nonlocal average, was_large
            simple = (self.score(step) < threshold).float()
            average = self.factor * average + (1 - self.factor) * simple
            large = torch.as_tensor(was_large, device=simple.device)
            was_large = average <= torch.where(large, self.to_small, self.to_large)
            return was_large

        return decide


@ROUTING_RULES.register("rolling")
@dataclass(frozen=True)
class RollingRule(RoutingRule):
    """The large model takes over at once, and gives back where its recent tokens were simple on average.

    Attributes:
        threshold: aleatoric uncertainty.
        window: number of recent tokens.
        escape: entropy in nats below which the small model keeps a token whatever its uncertainty; 0 for none.
        counts_last: whether the token at which the large model took over counts among the recent ones.
    """

    threshold: float | int = 2.275
    window: int = 3
    escape: float = 0.02
    counts_last: bool = True

    def __post_init__(self) -> None:
        require_at_least(0, threshold=self.threshold, escape=self.escape)
        require_at_least(1, window=self.window)

    def score(self, step: SmallStep) -> Float[Tensor, "batch"]:
        """The aleatoric uncertainty."""
        return log_u(step.logits)[0]

    def begin(self) -> Decide:
        """Decide with the recent values of each row; nan where there is none."""
        recent: Tensor | None = None
        was_large: Tensor | None = None

        def decide(step: SmallStep, threshold: Threshold) -> Bool[Tensor, "batch"]:
            nonlocal recent, was_large
            score = self.score(step)
            if recent is None or was_large is None:
                recent = score.new_full((len(score), self.window), float("nan"))
                was_large = torch.ones_like(score, dtype=torch.bool)
            complex_ = score >= threshold
            if self.escape:
                complex_ &= EntropyRule().score(step) >= self.escape
            kept = torch.cat([recent[:, 1:], score[:, None]], 1)
            begun = torch.full_like(recent, float("nan"))
            if self.counts_last:
                begun[:, -1] = score
            recent = torch.where(was_large[:, None], kept, begun)
            was_large = torch.where(was_large, kept.nanmean(1) >= threshold, complex_)
            return was_large

        return decide


@ROUTING_RULES.register("duo-rolling")
@dataclass(frozen=True)
class DuoRollingRule(RollingRule):
    """The same, without an escape, counting only the tokens since the large model took over."""

    escape: float = 0.0
    counts_last: bool = False


@ROUTING_RULES.register("random")
@dataclass(frozen=True)
class RandomRule(RoutingRule):
    """A pseudo-random share of the tokens: the control.

    A score is made from the seed, the place and the last tokens of the row, so that a row is routed alike in any batch.

    Attributes:
        threshold: 1 less the share.
    """

    threshold: float | int = 0.9
    seed: int = 0
    highest: ClassVar[float | None] = 1.0

    def __post_init__(self) -> None:
        require_fraction(self.threshold, "threshold")

    def score(self, step: SmallStep) -> Float[Tensor, "batch"]:
        """A number from 0 to below 1."""
        mixed = step.tokens.new_full(step.tokens.shape, step.number * 0x85EBCA77 + self.seed * 0xC2B2AE3D + 1)
        for column in () if step.context is None else step.context.T:
            mixed = torch.where(column < 0, mixed, (mixed * 0x01000193 + column) & 0xFFFFFFFF)
        for _ in range(2):
            mixed = ((mixed ^ (mixed >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
        return ((mixed ^ (mixed >> 16)) & 0xFFFFFF).float() / 0x1000000


def entropy(logits: Float[Tensor, "batch vocabulary"]) -> Float[Tensor, "batch"]:
    """Entropy of the distribution in nats."""
    return torch.special.entr(logits.softmax(-1)).sum(-1).clamp(min=0)


def log_u(logits: Float[Tensor, "batch vocabulary"]) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Aleatoric and epistemic uncertainty from the ten largest logits."""
    if logits.shape[-1] < _TOP:
        raise UserError(f"log-u reads the {_TOP} largest logits, and there are {logits.shape[-1]}.")
    top = logits.topk(_TOP).values
    total = top.sum(-1, keepdim=True)
    aleatoric = -(top / total * (torch.digamma(top + 1) - torch.digamma(total + 1))).sum(-1)
    return aleatoric, _TOP / (total[:, 0] + _TOP)
