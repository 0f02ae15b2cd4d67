"""The losses of a model that writes text and continuous tokens at once.

    loss = text NLL + flow_weight · flow loss + stop_weight · BCE(stop)

Sources: Flow-Omni (arXiv 2412.04917); the stop as in MELLE (arXiv 2407.08551).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.utils import ModelOutput

from tokenry.core.tensors.losses import weighted_cross_entropy
from tokenry.core.tensors.output_head import OutputHead
from tokenry.generation.flow_omni.continuous_token_config import ContinuousTokenConfig


@dataclass
class ContinuousTokenOutput(ModelOutput):
    """The losses of a batch; `loss` is their weighted sum.

    Attributes:
        loss: with gradients.
        text_loss: nats per learned text token; 0 where there is none.
        flow_loss: squared error of the velocity per element; 0 where there is no speech.
        stop_loss: cross-entropy in nats per speech token; 0 where there is none.
    """

    loss: Any = None  # a tensor; accelerate, in mixed precision, makes an output of one mapping
    text_loss: Tensor | None = None
    flow_loss: Tensor | None = None
    stop_loss: Tensor | None = None


def text_loss(
    hidden: Float[Tensor, "batch seq dim"],
    labels: Int[Tensor, "batch seq"],
    learned: Bool[Tensor, "batch seq"],
    head: OutputHead,
) -> Float[Tensor, ""]:
    """The mean NLL of the text tokens that are learned; 0 with a graph where there is none. Only their rows meet the head."""
    weights = learned.float() / learned.sum().clamp(min=1)
    return weighted_cross_entropy(hidden, labels, weights, head)[0]


def stop_loss(
    logits: Float[Tensor, "*tokens"],
    is_last: Float[Tensor, "*tokens"],
    mask: Bool[Tensor, "*tokens"],
    positive_weight: float,
) -> Float[Tensor, ""]:
    """The mean cross-entropy of whether a token is the last one, in which last tokens weigh more."""
    weight = logits.new_tensor(positive_weight)
    losses = nn.functional.binary_cross_entropy_with_logits(
        logits, is_last.to(logits), pos_weight=weight, reduction="none"
    )
    return torch.where(mask, losses, 0).sum() / mask.sum().clamp(min=1)


def joint_loss(text: Tensor, flow: Tensor, stop: Tensor, config: ContinuousTokenConfig) -> Float[Tensor, ""]:
    """The weighted sum of the losses of both streams."""
    return text + config.flow_weight * flow + config.stop_weight * stop
