"""Counts of kept tokens that can be learned: an encoder that removes nothing, but is differentiable in how many tokens each layer keeps.

No token is removed: a mask of who is alive goes from layer to layer, dead tokens are hidden from attention, merged ones are averaged
into those that stay, and the mask carries the gradient to the logits of the counts (`RateProxy`). One sort by class attention puts the
living first, so a count is a position.

Source: DiffRate (arXiv 2305.17997). The bounded gradient is ours (see `masked_softmax`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.compression.flops import LayerCost
from tokenry.compression.plan import MergePlan
from tokenry.compression.precision import precise_dtype
from tokenry.compression.reducer import Attention, LayerReducer, Tokens
from tokenry.compression.vision.diffrate import (
    Schedule,
    diffrate_merge,
    importance_order,
    masked_softmax,
    require_class_token,
    require_image_encoder,
    scale_merged,
    scheduled_flops,
    take,
)
from tokenry.compression.vision.rate_proxy import RateProxy
from tokenry.core.tensors.attention import AttentionCall
from tokenry.core.tensors.patching import Encoder


@dataclass(frozen=True)
class MaskedTokens(Tokens):
    """Tokens of which none was removed.

    Attributes:
        alive: 1 for the living and 0 for the dead, with the gradient of their survival; None while all live.
    """

    alive: Float[Tensor, "batch tokens"] | None = None


class SearchedRates:
    """The counts of all layers while they are learned; a `TokenReducer` whose model removes nothing but is differentiable in them.

    Attributes:
        prune: one proxy per layer for pruning.
        merge: one proxy per layer for merging.
        proportional_attention: on, as in `DiffRate`.
    """

    proportional_attention = True

    def __init__(
        self,
        layers: int,
        num_patches: int,
        granularity: int = 4,
        special_tokens: int = 1,
        bounded: bool = True,
    ) -> None:
        """Make proxies with logits 0; the first layer has one candidate, all patches, so it is never compressed.

        Args:
            num_patches: tokens to choose from, see `RateProxy`.
            granularity: step between candidates, in all layers but the first.
            special_tokens: leading tokens that always stay.
            bounded: see `masked_softmax`.
        """
        RateProxy(num_patches, granularity, special_tokens)
        self.bounded = bounded
        steps = [num_patches + 1] + [granularity] * (layers - 1)
        self.prune = [RateProxy(num_patches, step, special_tokens) for step in steps]
        self.merge = [RateProxy(num_patches, step, special_tokens) for step in steps]

    @property
    def proxies(self) -> list[RateProxy]:
        """The proxies of pruning, then those of merging."""
        return [*self.prune, *self.merge]

    def layer_reducers(self, encoder: Encoder) -> list[LayerReducer | None]:
        """One pair of proxies per layer.

        Raises:
            UserError: the encoder reads text or has no class token.
        """
        require_image_encoder(encoder)
        require_class_token(encoder)
        return [_Masked(*pair, self.bounded) for pair in zip(self.prune, self.merge, strict=True)]

    def flops(self, costs: Sequence[LayerCost], tokens: int) -> Float[Tensor, ""]:
        """Multiply-adds of the layers for one image, differentiable in the logits; see `scheduled_flops`."""
        prune, merge = ([proxy.kept() for proxy in proxies] for proxies in (self.prune, self.merge))
        return scheduled_flops(costs, tokens, prune, merge)

    def schedule(self) -> Schedule:
        """The counts learned so far."""
        with torch.no_grad():
            counts = [int(proxy.kept()) for proxy in self.proxies]
        layers = len(self.prune)
        return Schedule(counts[:layers], counts[layers:])

    def start_at(self, schedule: Schedule) -> None:
        """Give logits the form of a normal distribution around the counts of a schedule."""
        for proxy, count in zip(self.proxies, (*schedule.prune_kept, *schedule.merge_kept), strict=True):
            _bump(proxy, count)


@torch.no_grad()
def _bump(proxy: RateProxy, count: int) -> None:
    candidates = proxy.candidates.to(proxy.logits.dtype)
    # Wide enough that candidates some steps away have a gradient, narrow enough that the mean is about the count.
    width = max(len(candidates) / 10, 1) * float(candidates[0] - candidates[-1] + 1) / len(candidates)
    distance = (candidates - (count - proxy.special_tokens)) / width
    proxy.logits.copy_(-(distance**2) / 2)


@dataclass(frozen=True, eq=False)
class _Masked(LayerReducer):
    prune: RateProxy
    merge: RateProxy
    bounded: bool

    def attend(self, call: AttentionCall, tokens: Tokens) -> tuple[Tensor, Tensor | None]:
        weights = masked_softmax(_logits(call, call.query), _alive(call, tokens), bounded=self.bounded)
        output = weights.to(call.value.dtype) @ call.value
        return output.transpose(1, 2).contiguous(), None

    def reduce(
        self, hidden_states: Tensor, tokens: Tokens, attention: Attention
    ) -> tuple[Tensor, MaskedTokens]:
        call = attention.call
        alive = _alive(call, tokens)
        order = _living_first(call, alive, tokens.special)
        x, alive = take(hidden_states, order), take(alive, order)
        size = alive.new_ones((*alive.shape, 1)) if tokens.size is None else take(tokens.size, order)
        living = int(alive[0].detach().sum())
        pruned, merged = int(self.prune.kept().detach()), int(self.merge.kept().detach())
        if pruned < living:
            alive = alive * self.prune.mask(living)
            living = pruned
        if merged < living:
            x, size = _merge_in_place(x, size, living, merged, tokens.special)
            alive = alive * self.merge.mask(living)
        plan = MergePlan.keep(order, order.shape[1])
        return x, MaskedTokens(tokens.special, size, tokens.mask, plan, alive)


def _logits(call: AttentionCall, query: Tensor) -> Tensor:
    scaling = call.kwargs.get("scaling") or query.shape[-1] ** -0.5
    logits = (query @ call.key.transpose(-1, -2)) * scaling
    return logits if call.attention_mask is None else logits + call.attention_mask


def _alive(call: AttentionCall, tokens: Tokens) -> Tensor:
    """The mask of living tokens before this layer; all live in the first, to which no `MaskedTokens` come."""
    batch, _, count, _ = call.key.shape
    alive = getattr(tokens, "alive", None)
    return call.key.new_ones((batch, count), dtype=precise_dtype(call.key.dtype)) if alive is None else alive


@torch.no_grad()
def _living_first(call: AttentionCall, alive: Tensor, special: int) -> Tensor:
    """Order by masked class attention: what the dead get is next to nothing."""
    class_row = masked_softmax(_logits(call, call.query[:, :, :1]), alive)[:, :, 0]
    return importance_order(class_row.mean(dim=1), special)


def _merge_in_place(x: Tensor, size: Tensor, living: int, merged: int, special: int) -> tuple[Tensor, Tensor]:
    """Merge positions `merged` to `living` into those before; they keep their own values and places."""
    plan, similarity = diffrate_merge(x[:, :living], merged, special)
    scaled = (size[:, :living] * scale_merged(plan, similarity)).clamp_min(1)
    x = torch.cat([plan.merge(x[:, :living]), x[:, merged:]], dim=1)
    size = torch.cat([plan.merge(scaled, "sum"), scaled[:, merged:], size[:, living:]], dim=1)
    return x, size
