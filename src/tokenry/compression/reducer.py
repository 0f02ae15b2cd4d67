"""The interface of a reduction method to a patched encoder: for each layer, how it reduces its tokens.

    hidden_states, tokens = layer_reducer.reduce(hidden_states, tokens, attention)

A method makes a plan (`MergePlan`) and chooses how it is carried out; counting, sizes in attention, masks, sources and undoing are shared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tokenry.compression.plan import DROPPED, MergePlan, Reduce
from tokenry.compression.precision import precise, precise_dtype
from tokenry.core.io.registry import Registry
from tokenry.core.tensors.attention import AttentionCall
from tokenry.core.tensors.patching import Encoder, run_call


@dataclass(frozen=True)
class Tokens:
    """The tokens of a batch, besides their hidden states.

    Attributes:
        special: number of leading tokens that are no patch or word (class, distillation, registers).
        size: number of first tokens that each stands for; None while each stands for itself.
        mask: False for padding; None where nothing is padding.
        plan: how they came from the tokens before; None where nothing changed.
        inputs: what the forward was given for the reduction, by name (`TokenReducer.inputs`).
        pairs: keys that each query sees, where they differ from query to query (`TokenReducer.pair_masks`).
    """

    special: int
    size: Float[Tensor, "batch tokens 1"] | None = None
    mask: Bool[Tensor, "batch tokens"] | None = None
    plan: MergePlan | None = None
    inputs: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)
    pairs: Bool[Tensor, "batch tokens tokens"] | None = field(default=None, kw_only=True)

    def merge(
        self,
        hidden_states: Float[Tensor, "batch tokens hidden"],
        plan: MergePlan,
        reduce: Reduce | None = None,
        weight: Float[Tensor, "batch tokens 1"] | None = None,
    ) -> tuple[Float[Tensor, "batch kept hidden"], "Tokens"]:
        """Carry out a plan.

        Args:
            hidden_states: hidden states of these tokens.
            reduce: how tokens are merged; None for the mean weighted with sizes, which then add up.
            weight: weights of that mean in place of the sizes, which add up all the same.
        """
        mask = plan.merge_mask(self.mask)
        pairs = None if self.pairs is None else plan.merge_pairs(self.pairs)
        if reduce is not None:
            return plan.merge(hidden_states, reduce), replace(self, mask=mask, pairs=pairs, plan=plan)
        merged, size = plan.merge_weighted(hidden_states, self.size if weight is None else weight)
        if weight is not None:
            size = plan.merge(torch.ones_like(weight) if self.size is None else self.size, "sum")
        return merged, replace(self, size=size, mask=mask, pairs=pairs, plan=plan)

    def drop(
        self, hidden_states: Float[Tensor, "batch tokens hidden"], plan: MergePlan
    ) -> tuple[Float[Tensor, "batch kept hidden"], "Tokens"]:
        """Carry out a plan that merges nothing: the kept tokens stay as they are."""
        size = None if self.size is None else plan.merge(self.size)
        pairs = None if self.pairs is None else plan.merge_pairs(self.pairs)
        mask = plan.merge_mask(self.mask)
        return plan.merge(hidden_states), replace(self, size=size, mask=mask, pairs=pairs, plan=plan)


Positions = Literal["first", "compact"]
"""Where a place stands for a position bias: where its kept token stood, or at its own number."""


class Attention:
    """The attention call of a layer, with what methods read from it, computed at each access."""

    def __init__(self, call: AttentionCall) -> None:
        self.call = call

    @property
    def keys(self) -> Float[Tensor, "batch tokens head_dim"]:
        """Mean over heads of the keys, in float32 or better: what ToMe and its kin compare tokens by."""
        return self.call.key.mean(dim=1, dtype=precise_dtype(self.call.key.dtype))

    @property
    def class_row(self) -> Float[Tensor, "batch heads tokens"]:
        """The attention that the first token pays to each token; rows sum to 1."""
        return self._weights(self.call.query[:, :, :1])[:, :, 0]

    @property
    def weights(self) -> Float[Tensor, "batch heads tokens tokens"]:
        """All attention weights after softmax; only for methods whose definition needs the whole graph."""
        return self._weights(self.call.query)

    def _weights(self, query: Tensor) -> Tensor:
        query, key = precise(query), precise(self.call.key)
        scaling = self.call.kwargs.get("scaling") or query.shape[-1] ** -0.5
        logits = (query @ key.transpose(-1, -2)) * scaling
        mask = self.call.attention_mask
        if mask is not None:
            mask = mask[:, :, : query.shape[2]]
            logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        return logits.softmax(dim=-1)


class LayerReducer:
    """The reduction in one layer: none here; a method overrides `reduce`.

    Attributes:
        after: its place in the layer: between attention and MLP, or after both.
        positions: where a place stands for a relative position bias; see `Positions`.
        module: its trainable part; a part of the model, `token_reduction`, while the model is patched.
    """

    after: Literal["attention", "layer"] = "attention"
    positions: str = "first"
    module: nn.Module | None = None

    def enter(
        self, hidden_states: Float[Tensor, "batch tokens hidden"], tokens: Tokens
    ) -> tuple[Float[Tensor, "batch kept hidden"], Tokens]:
        """Return what the layer starts from, for a reduction that needs no attention; here, what arrives."""
        return hidden_states, tokens

    def attend(self, call: AttentionCall, tokens: Tokens) -> tuple[Tensor, Tensor | None]:
        """Answer the layer's attention call; the model's own kernel unless a method defines another attention."""
        return run_call(call)

    def reduce(
        self, hidden_states: Float[Tensor, "batch tokens hidden"], tokens: Tokens, attention: Attention
    ) -> tuple[Float[Tensor, "batch kept hidden"], Tokens]:
        """Return the hidden states and the tokens after the reduction; here, unchanged."""
        return hidden_states, tokens


def per_length(mask: Bool[Tensor, "batch tokens"], plan: Callable[[Tensor, Tensor], MergePlan]) -> MergePlan:
    """Plan texts of equal length together, each as if it stood alone; shorter ones keep padding to fill their rows.

    Example: of rows with 4 and 2 real tokens, `plan` keeps 2 and 1. Both rows then have 2 places, and the second keeps one padding token
    beside its own; the mask goes with it.

    Args:
        mask: False for padding.
        plan: called with the rows that have one length, and the indices of their real tokens (rows, length); plans those tokens.
    """
    lengths = mask.sum(dim=1)
    parts = []
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero()[:, 0]
        real = mask[rows].nonzero()[:, 1].view(len(rows), length)
        parts.append((rows, real, plan(rows, real)))
    places = max(part.kept.shape[1] for _, _, part in parts)
    # Padding, in its order, before what was dropped: only padding fills up a row.
    kept = mask.to(torch.uint8).argsort(dim=1, stable=True)[:, :places].clone()
    target = torch.full_like(mask, DROPPED, dtype=torch.long)
    for rows, real, part in parts:
        own = real.gather(1, part.kept)
        kept[rows] = torch.cat([own, kept[rows, : places - own.shape[1]]], dim=1)
        target[rows[:, None], real] = part.place()
    together = MergePlan.keep(kept, mask.shape[1])
    return (
        together.sending(target)
        if any(part.ragged or part.merged.numel() for _, _, part in parts)
        else together
    )


@runtime_checkable
class TokenReducer(Protocol):
    """A reduction method: an object with the method's options.

    It may name further `inputs` of a forward, such as `("group_ids",)`: they are taken out of the arguments of the model that was patched,
    and stand in `Tokens.inputs`. With `pair_masks` it takes attention masks that differ from query to query (`Tokens.pairs`).

    Attributes:
        proportional_attention: whether keys get the bias log(size), so that attention counts a merged token by its size.
    """

    @property
    def proportional_attention(self) -> bool:
        """See the class."""
        ...

    def layer_reducers(self, encoder: Encoder) -> Sequence[LayerReducer | None]:
        """The reducer of each layer; None where the layer does not reduce.

        Raises:
            UserError: the method does not fit this encoder.
        """
        ...


REDUCERS: "Registry[TokenReducer]" = Registry(
    "method",
    "tokenry.compression.vision",
    first=("tome", "pitome", "diffrate", "zero-tprune", "random", "norm", "class-attention"),
)
"""The methods by name; a method registers itself in its own file. One that has `at(share, shape)`, which gives the options that cost a
share of the dense FLOPs (see `shares`), takes part in sweeps."""


def make_reducer(description: str, **options: Any) -> TokenReducer:
    """Make a reduction method from `name` or `name:option=value,...`; values are YAML.

    Args:
        description: name and options of the method.
        **options: further options.

    Raises:
        UserError: an unknown method or option (the nearest is suggested), an option given twice, or a value of the wrong kind or out of
            range.
    """
    return REDUCERS.make(description, **options)
