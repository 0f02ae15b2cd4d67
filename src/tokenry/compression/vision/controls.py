"""Controls: drop tokens at random, by the norm of their hidden state, or by the attention that the class token pays to them.

    kept = the special tokens and the `keep` others with the highest signal, in the order they stood

A reduction method is worth its trouble only if it beats these at the same token counts: `counts=reduction.token_counts[1:]` replays
those of any other method, and `after` puts the drop at the same place in the layer.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.compression.plan import MergePlan, special_first
from tokenry.compression.precision import precise_dtype
from tokenry.compression.reducer import REDUCERS, Attention, LayerReducer, Tokens
from tokenry.compression.vision.shares import EncoderShape, counts_at
from tokenry.compression.vision.tome import parse_r
from tokenry.core.errors import UserError, require_one_of, require_share
from tokenry.core.tensors.choices import top_k_indices
from tokenry.core.tensors.patching import Encoder


def keep_highest(signal: Float[Tensor, "batch tokens"], keep: int, tokens: Tokens) -> MergePlan:
    """Keep the special tokens and `keep` others; padding is dropped before any of them.

    Args:
        signal: higher is more worth keeping; not read at special tokens and padding.
        keep: number of tokens that stay besides the special ones.
        tokens: which of them are special, and which padding.
    """
    if tokens.mask is not None:
        signal = signal.masked_fill(~tokens.mask, -torch.inf)
    kept = top_k_indices(signal[:, tokens.special :], keep)
    return MergePlan.keep(special_first(kept, tokens.special), signal.shape[1])


Keep = Callable[[int, int], int]
"""Maps the number of tokens that come in, and of special ones among them, to the number of others that stay."""


def _keep_all_but(r: int, tokens: int, special: int) -> int:
    free = tokens - special
    return free - min(r, free // 2)


def _keep_ratio(ratio: float, tokens: int, special: int) -> int:
    free = tokens - special
    return free - math.floor(free - free * ratio)


def _keep_count(count: int, layer: int, tokens: int, special: int) -> int:
    if not special <= count <= tokens:
        raise UserError(
            f"counts says {count} tokens after layer {layer}, where {tokens} come in and {special} of them are special and stay: "
            "give counts that were made for this model and this size of image."
        )
    return count - special


@dataclass(frozen=True)
class _Drop(LayerReducer):
    control: "_Control"
    keep: Keep
    after: Literal["attention", "layer"] = "attention"

    def reduce(self, hidden_states: Tensor, tokens: Tokens, attention: Attention) -> tuple[Tensor, Tokens]:
        keep = self.keep(hidden_states.shape[1], tokens.special)
        if keep + tokens.special == hidden_states.shape[1]:
            return hidden_states, tokens
        signal = self.control.signal(hidden_states, attention)
        return tokens.drop(hidden_states, keep_highest(signal, keep, tokens))


@dataclass(frozen=True)
class _Control:
    """Drop tokens by a signal. Give exactly one of `r`, `ratio` and `counts`.

    Attributes:
        r: tokens that a layer drops, as ToMe takes it (see `parse_r`); at most half of those that are not special.
        ratio: fraction of the tokens that are not special that each layer keeps, as PiToMe takes it.
        counts: number of tokens that leave each layer, special ones included.
        after: whether tokens are dropped between attention and MLP, or after both.
    """

    r: int | Sequence[int] | tuple[int, float] | None = None
    ratio: float | None = None
    counts: Sequence[int] | None = None
    after: Literal["attention", "layer"] = "attention"

    def __post_init__(self) -> None:
        given = [name for name in ("r", "ratio", "counts") if getattr(self, name) is not None]
        if len(given) != 1:
            raise UserError(
                f"{type(self).__name__} got {' and '.join(given) or 'no schedule'}: give exactly one of r (tokens to drop per layer), "
                "ratio (fraction to keep per layer) and counts (tokens that leave each layer)."
            )
        if self.r is not None:
            parse_r(1000, self.r)
        if self.ratio is not None:
            require_share(self.ratio, "ratio")
        require_one_of(self.after, ("attention", "layer"), "after")

    @classmethod
    def at(cls, share: float, shape: EncoderShape) -> dict[str, Any]:
        """The options that cost a share of the dense FLOPs: the token counts of PiToMe."""
        return {"counts": counts_at(share, shape)}

    @property
    def proportional_attention(self) -> bool:
        """Off: dropped tokens are not counted."""
        return False

    def signal(
        self, hidden_states: Float[Tensor, "batch tokens hidden"], attention: Attention
    ) -> Float[Tensor, "batch tokens"]:
        """One number per token; higher is more worth keeping."""
        raise NotImplementedError

    def layer_reducers(self, encoder: Encoder) -> list[LayerReducer | None]:
        """One drop per layer.

        Raises:
            UserError: r or counts does not fit the number of layers.
        """
        return [keep and _Drop(self, keep, self.after) for keep in self._keeps(len(encoder.layers))]

    def _keeps(self, layers: int) -> list[Keep | None]:
        if self.r is not None:
            return [partial(_keep_all_but, r) if r else None for r in parse_r(layers, self.r)]
        if self.ratio is not None:
            return [partial(_keep_ratio, self.ratio)] * layers
        assert self.counts is not None
        if len(self.counts) != layers:
            raise UserError(
                f"counts lists {len(self.counts)} layers, but the model has {layers}: give the number of tokens that leave each "
                "layer, such as token_counts[1:] of another reduction."
            )
        return [partial(_keep_count, count, layer) for layer, count in enumerate(self.counts, start=1)]


@REDUCERS.register("random")
@dataclass(frozen=True)
class RandomDrop(_Control):
    """Drop tokens at random: the control that every method must beat.

    Draws from torch's global generator, so `torch.manual_seed` makes a run repeatable and gradient checkpointing replays it.
    """

    def signal(
        self, hidden_states: Float[Tensor, "batch tokens hidden"], attention: Attention
    ) -> Float[Tensor, "batch tokens"]:
        """Uniform in [0, 1)."""
        return torch.rand(hidden_states.shape[:2], device=hidden_states.device)


@REDUCERS.register("norm")
@dataclass(frozen=True)
class NormDrop(_Control):
    """Keep the tokens whose hidden states have the largest norm."""

    def signal(
        self, hidden_states: Float[Tensor, "batch tokens hidden"], attention: Attention
    ) -> Float[Tensor, "batch tokens"]:
        """Euclidean norm, in float32 or better."""
        return torch.linalg.vector_norm(hidden_states, dim=-1, dtype=precise_dtype(hidden_states.dtype))


@REDUCERS.register("class-attention")
@dataclass(frozen=True)
class ClassAttentionDrop(_Control):
    """Keep the tokens that the class token pays most attention to, on average over heads; needs a class token."""

    def signal(
        self, hidden_states: Float[Tensor, "batch tokens hidden"], attention: Attention
    ) -> Float[Tensor, "batch tokens"]:
        """Attention weight of the first query, mean over heads."""
        return attention.class_row.mean(dim=1)

    def layer_reducers(self, encoder: Encoder) -> list[LayerReducer | None]:
        """One drop per layer.

        Raises:
            UserError: the encoder has no class token, or as for the other controls.
        """
        if encoder.special_tokens == 0:
            raise UserError(
                f"{type(encoder.model).__name__} has no class token whose attention could rank the others: use NormDrop or ZeroTPrune."
            )
        return super().layer_reducers(encoder)
