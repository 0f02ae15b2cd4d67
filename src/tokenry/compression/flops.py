"""FLOPs of an encoder in multiply-adds: attention at the tokens that enter a layer, the MLP at those that remain before it.

    flops = sum over layers of  N_in · (weights of attention) + 2 · N_in² · width  +  N_mlp · (weights of the MLP)

For a plain ViT that is 4 N C² + 2 N² C and 8 N C². All methods and all reports count this way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from tokenry.core.tensors.patching import Encoder

Count = TypeVar("Count", int, Tensor)


@dataclass(frozen=True)
class LayerCost:
    """What one token costs in one layer.

    Attributes:
        attention_weights: number of weights of the projections, and so multiply-adds per token.
        width: width of the queries over all heads; an attended pair costs twice this, for its logit and its value.
    """

    attention_weights: int
    mlp_weights: int
    width: int

    def flops(self, attention_tokens: Count, mlp_tokens: Count) -> Count:
        """Multiply-adds of one image or text in this layer; differentiable in counts that are tensors."""
        attention = attention_tokens * self.attention_weights + 2 * attention_tokens**2 * self.width
        return attention + mlp_tokens * self.mlp_weights


def layer_costs(encoder: Encoder) -> list[LayerCost]:
    """Read the costs of each layer off its weights."""
    return [
        _layer_cost(layer, attention)
        for layer, attention in zip(encoder.layers, encoder.attention, strict=True)
    ]


def _layer_cost(layer: nn.Module, attention: nn.Module) -> LayerCost:
    of_attention = _linear_weights(attention)
    # Queries, keys, values and the output projection are four matrices hidden × width.
    hidden = next(module.in_features for module in attention.modules() if isinstance(module, nn.Linear))
    return LayerCost(of_attention, _linear_weights(layer) - of_attention, of_attention // (4 * hidden))


def _linear_weights(module: nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))


def encoder_flops(
    costs: Sequence[LayerCost], attention_tokens: Sequence[int], mlp_tokens: Sequence[int]
) -> int:
    """Multiply-adds of one image or text in all layers.

    Args:
        costs: cost of each layer, from `layer_costs`.
        attention_tokens: number of tokens that enter each layer.
        mlp_tokens: number of tokens that its MLP sees.
    """
    counts = zip(costs, attention_tokens, mlp_tokens, strict=True)
    return sum(cost.flops(entering, seen) for cost, entering, seen in counts)
