"""Dynamic fine-tuning: cross-entropy in which every token weighs as much as the model already believes in it.

    loss(token x) = −π(x) log π(x), with the weight π(x) taken as a constant

It is the exact one-token rollout at temperature 1 with reward 0 for a miss. Improbable tokens are all but ignored: that helps where many
solutions are valid and part of the data is wrong, and hurts where the single right answer is still improbable.

Source: On the Generalization of SFT (arXiv 2508.05629).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.core.tensors.logit_losses import loss_of_logits
from tokenry.core.tensors.row_losses import RowLoss, RowLosses, cross_entropy
from tokenry.core.tensors.signals import Signals
from tokenry.finetuning.weighing import WEIGHINGS, GivenWeights


def dynamic_cross_entropy(
    logits: Float[Tensor, "rows vocabulary"], targets: Int[Tensor, "rows"], *, entropy: bool = True
) -> RowLosses:
    """Cross-entropy times the probability of the target; a `RowLoss`."""
    plain = cross_entropy(logits, targets, entropy=entropy)
    probability = (-plain.nll).exp()
    logits *= probability[:, None]
    # Below the smallest slope the gradient says nothing about the entropy, and nothing is learned.
    slope = probability.clamp(min=1e-30)
    return plain._replace(loss=probability * plain.nll, slope=slope, weight=probability)


@WEIGHINGS.register("dft")
@dataclass(frozen=True, kw_only=True)
class DynamicFineTuning(GivenWeights):
    """Learn every response token by its own probability times its NLL."""

    @property
    def row_loss(self) -> RowLoss:
        """Cross-entropy times the probability of the target."""
        return dynamic_cross_entropy

    def given(self, signals: Signals) -> Float[Tensor, "batch seq"]:
        """1: what a token weighs is its probability."""
        return torch.ones(signals.labels.shape)


def dft_loss(
    logits: Float[Tensor, "batch seq vocabulary"], labels: Int[Tensor, "batch seq"], reduction: str = "token"
) -> Float[Tensor, ""]:
    """Dynamic fine-tuning of a batch of logits, for custom training loops; arguments as of `otr_loss`."""
    return loss_of_logits(logits, labels, dynamic_cross_entropy, reduction).mean
