"""Token weighing: how much of each token a fine-tuning loss learns from.

A weighing names the signals it needs and scores the tokens with them; this base turns the score into weights:

    kept    = the `share` of learnable tokens with the highest score, per sample, batch or data set
    weights = 1 where kept, `dropped_weight` elsewhere
    loss    = Σ weights · nll / Σ weights        (over the whole optimisation step, all ranks)
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenry.core.errors import UserError, require_at_least, require_fraction, require_one_of, require_share
from tokenry.core.io.descriptions import describe
from tokenry.core.io.registry import Registry
from tokenry.core.tensors.choices import Rounding, group_counts, kept_counts, top_share
from tokenry.core.tensors.row_losses import RowLoss, cross_entropy
from tokenry.core.tensors.signals import LIVE_SIGNALS, STATIC_SIGNALS, AttentionProbe, Signals
from tokenry.finetuning.folds import Folds
from tokenry.finetuning.history import HistorySource, parse_history

WEIGHINGS: "Registry[TokenWeighing]" = Registry(
    "weighing",
    "tokenry.finetuning",
    first=("full", "random", "sstoken", "rho1", "token-cleaning", "cross-fitted", "small-loss", "otr", "dft"),
)
"""The weighings by name; a weighing registers itself in its own file."""

Scope = Literal["sample", "batch", "dataset"]
Reduction = Literal["token", "sample", "paper"]


@dataclass(frozen=True, kw_only=True)
class TokenWeighing:
    """Base of all weighings: subclass it, set `needs` and write `score`.

    Args:
        share: fraction of the learnable tokens to keep, in (0, 1].
        dropped_weight: weight of the tokens that are not kept, in [0, 1]; 0 is hard selection.
        warmup_epochs: epochs of plain fine-tuning on all tokens before selection begins.
        scope: rank the tokens within each `sample`, over the (micro-)`batch`, or once over the `dataset`.
        reduction: `token`: mean over the weight of the step. `sample`: mean over samples of their weighted mean.
            `paper`: mean over samples of their weighted sum / (share · R), the form printed in ssToken.
        rounding: how a share becomes a number of tokens, see `tokenry.core.tensors.choices.kept_counts`.
    """

    share: float = 0.6
    dropped_weight: float = 0.0
    warmup_epochs: float = 0.0
    scope: Scope = "sample"
    reduction: Reduction = "token"
    rounding: Rounding = "ceil"

    def __post_init__(self) -> None:
        require_share(self.share, nothing="to train on nothing is never meant; ")
        require_fraction(self.dropped_weight, "dropped_weight")
        require_at_least(0, warmup_epochs=self.warmup_epochs)
        require_one_of(self.scope, get_args(Scope), "scope")
        require_one_of(self.reduction, get_args(Reduction), "reduction")
        require_one_of(self.rounding, get_args(Rounding), "rounding")
        if self.scope == "dataset" and self.needs & LIVE_SIGNALS:
            raise UserError(
                f"scope='dataset' ranks all tokens once, before training, but {type(self).__name__} needs "
                f"{', '.join(sorted(self.needs & LIVE_SIGNALS))}, which change at every step: use sample or batch."
            )

    @property
    def needs(self) -> frozenset[str]:
        """Names of the signals that `score` reads."""
        return frozenset()

    @property
    def learns_from_prompt(self) -> bool:
        """Whether prompt tokens are targets too."""
        return False

    def score(self, signals: Signals) -> Float[Tensor, "batch seq"]:
        """Score the tokens: higher = more worth learning from. Only learnable tokens are read."""
        raise NotImplementedError(f"{type(self).__name__} must define `score` (or `weigh`).")

    def choose(self, signals: Signals) -> Bool[Tensor, "batch seq"]:
        """Keep the `share` of learnable tokens with the highest score."""
        return top_share(
            self.score(signals), signals.learnable, self.share, self._groups(signals), self.rounding
        )

    def weigh(self, signals: Signals) -> Float[Tensor, "batch seq"]:
        """Weigh every token: 1 where kept, `dropped_weight` where not, 0 where nothing may be learned."""
        learnable = signals.learnable
        if not self.selects(signals.epoch):
            return learnable.float()
        kept = signals["kept"].bool() if self.scope == "dataset" else self.choose(signals)
        return torch.where(kept, 1.0, self.dropped_weight) * learnable

    def reduce(self, weights: Float[Tensor, "batch seq"], signals: Signals) -> Float[Tensor, "batch seq"]:
        """Scale the weights per sample, so that dividing by `weight_sum` gives the mean that `reduction` names."""
        if self.reduction == "token":
            return weights
        learnable = signals.learnable
        segment = signals.segments[learnable].long()
        number = int(segment.max()) + 1 if segment.numel() else 0
        if self.reduction == "paper" and self.selects(signals.epoch):
            divisor = torch.bincount(segment, minlength=number).float() * self.share
        else:
            divisor = weights.new_zeros(number).index_add_(0, segment, weights[learnable])
        reduced = torch.zeros_like(weights)
        reduced[learnable] = weights[learnable] / divisor.clamp(min=1e-12)[segment]
        return reduced

    def weight_sum(self, signals: Signals) -> Float[Tensor, ""]:
        """The divisor of a batch's loss, from the labels (and static signals) alone.

        With reduction `token` it is the sum of the weights that `weigh` will give, otherwise the number of samples with a
        response (a sample that keeps no token counts as 0 in the mean). It is needed before the first micro-batch of a step
        has been scored. A weighing that overrides `weigh` overrides this too.
        """
        learnable = signals.learnable
        if self.reduction != "token":
            return (group_counts(learnable, signals.segments) > 0).sum().float()
        count = learnable.sum()
        if not self.selects(signals.epoch):
            return count.float()
        if self.scope == "dataset":
            kept = (signals["kept"].bool() & learnable).sum()
        else:
            kept = kept_counts(
                group_counts(learnable, self._groups(signals)), self.share, self.rounding
            ).sum()
        return kept + self.dropped_weight * (count - kept).float()

    def selects(self, epoch: float) -> bool:
        """Whether tokens have different weights after `epoch` epochs."""
        return self.share < 1.0 and epoch >= self.warmup_epochs

    @property
    def is_plain(self) -> bool:
        """Whether this is plain fine-tuning: all tokens have the same weight at all times."""
        own = type(self).weigh is not TokenWeighing.weigh or type(self).reduce is not TokenWeighing.reduce
        own = own or self.row_loss is not cross_entropy
        return not (own or self.learns_from_prompt or self.reduction != "token" or self.selects(math.inf))

    @property
    def row_loss(self) -> RowLoss:
        """What is minimised at each token, times its weight."""
        return cross_entropy

    @property
    def static_needs(self) -> frozenset[str]:
        """The needed signals that are known before training."""
        return self.needs & STATIC_SIGNALS

    @property
    def attention_probe(self) -> AttentionProbe:
        """Which attention `prompt_attention` reads."""
        return AttentionProbe()

    @property
    def history_source(self) -> HistorySource:
        """Where `history_nll` comes from."""
        return parse_history("base")

    @property
    def cross_fit(self) -> Folds:
        """The split of the data behind `out_of_fold_nll`."""
        return Folds()

    @property
    def reference_model(self) -> str | None:
        """Path or name of the model behind `reference_nll`; None if it is passed to the trainer."""
        return None

    def describe(self) -> str:
        """Name the weighing with every option that differs from its default."""
        return describe(self)

    def _groups(self, signals: Signals) -> Tensor | None:
        return signals.segments if self.scope == "sample" else None


@dataclass(frozen=True, kw_only=True)
class GivenWeights(TokenWeighing):
    """Base of the weighings that select nothing: their weights are known from the data."""

    share: float = 1.0

    def given(self, signals: Signals) -> Float[Tensor, "batch seq"]:
        """The weight of every token; only learnable tokens are read."""
        raise NotImplementedError(f"{type(self).__name__} must define `given`.")

    def selects(self, epoch: float) -> bool:
        """Weights differ as soon as the warm-up is over, whatever the share."""
        return epoch >= self.warmup_epochs

    def weigh(self, signals: Signals) -> Float[Tensor, "batch seq"]:
        """The given weights on learnable tokens."""
        given = self.given(signals) if self.selects(signals.epoch) else torch.ones(signals.labels.shape)
        learnable = signals.learnable
        return torch.where(learnable, given.to(learnable.device), 0.0)

    def weight_sum(self, signals: Signals) -> Float[Tensor, ""]:
        """The sum of the given weights, or the number of samples (with reduction `sample`: of those with any weight)."""
        if self.reduction == "paper":
            return super().weight_sum(signals)
        return self.reduce(self.weigh(signals), signals).sum()


def make_weighing(description: str, **defaults: Any) -> TokenWeighing:
    """Make a weighing from `name` or `name:option=value,...`: `sstoken:balance=0.75` is `SSToken(balance=0.75)`.

    Args:
        description: name and options, with values in YAML; they override `defaults`.
        **defaults: options; those that the weighing does not have are ignored.
    """
    name, given = WEIGHINGS.parse(description)
    entry = WEIGHINGS[name]
    kinds = entry.kinds()
    return entry.make(**{option: value for option, value in defaults.items() if option in kinds} | given)
