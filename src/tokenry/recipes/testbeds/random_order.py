"""The control of the order in which DiffRate keeps tokens: a random one, with everything else its own."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.compression.reducer import Attention, LayerReducer, Tokens
from tokenry.compression.vision.diffrate import DiffRate
from tokenry.core.tensors.patching import Encoder


class _RandomRow(Attention):
    @property
    def class_row(self) -> Float[Tensor, "batch heads tokens"]:
        return torch.rand(self.call.key.shape[:3], device=self.call.key.device)


@dataclass(frozen=True)
class _InRandomOrder(LayerReducer):
    reducer: LayerReducer

    def reduce(self, hidden_states: Tensor, tokens: Tokens, attention: Attention) -> tuple[Tensor, Tokens]:
        return self.reducer.reduce(hidden_states, tokens, _RandomRow(attention.call))


@dataclass(frozen=True)
class RandomOrder:
    """DiffRate, sorted at random instead of by class attention; everything else is its own."""

    method: DiffRate
    proportional_attention: bool = True

    def layer_reducers(self, encoder: Encoder) -> list[LayerReducer | None]:
        """Those of the method, in another order."""
        return [_InRandomOrder(reducer) for reducer in self.method.layer_reducers(encoder) if reducer]
