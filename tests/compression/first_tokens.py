"""Reducers that need no method: the first tokens behind the special ones are merged or dropped."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tokenry.compression.plan import MergePlan
from tokenry.compression.reducer import Attention, LayerReducer, Tokens
from tokenry.core.tensors.patching import Encoder


@dataclass(frozen=True)
class _MergeNext(LayerReducer):
    """Merge the first r tokens behind the special ones into the r that follow: no padding, if texts are long enough."""

    r: int

    def reduce(self, hidden_states: torch.Tensor, tokens: Tokens, attention: Attention):
        before = torch.arange(hidden_states.shape[1]).expand(hidden_states.shape[0], -1)
        first = tokens.special
        kept = torch.cat([before[:, :first], before[:, first + self.r :]], dim=1)
        plan = MergePlan(
            before.shape[1], kept, before[:, first : first + self.r], before[:, first : first + self.r]
        )
        return tokens.merge(hidden_states, plan)


@dataclass(frozen=True)
class _DropNext(LayerReducer):
    """Drop the r tokens that follow the special ones."""

    r: int

    def reduce(self, hidden_states: torch.Tensor, tokens: Tokens, attention: Attention):
        before = torch.arange(hidden_states.shape[1]).expand(hidden_states.shape[0], -1)
        kept = torch.cat([before[:, : tokens.special], before[:, tokens.special + self.r :]], dim=1)
        return tokens.drop(hidden_states, MergePlan.keep(kept, before.shape[1]))


@dataclass(frozen=True)
class MergeFirst:
    """Per layer, merges the first r tokens into the r next ones."""

    r: int
    proportional_attention: bool = True

    def layer_reducers(self, encoder: Encoder) -> Sequence[LayerReducer | None]:
        return [_MergeNext(self.r) if self.r else None for _ in encoder.layers]


@dataclass(frozen=True)
class DropFirst:
    """Per layer, drops the first r tokens."""

    r: int
    proportional_attention: bool = True

    def layer_reducers(self, encoder: Encoder) -> Sequence[LayerReducer | None]:
        return [_DropNext(self.r) if self.r else None for _ in encoder.layers]
