"""Make an encoder carry fewer tokens, in one line, and undo it in another.

    reduction = apply_token_reduction(model, ToMe(r=13))
    ...
    reduction.remove()

Every layer: attention (with log(size) on the keys), then what the method does with its tokens, then the MLP on those that are left.
The state of the tokens is kept at each boundary between layers, anew for each forward, so that a layer that gradient checkpointing
runs again starts from the same state.

Source: ToMe (arXiv 2210.09461), proportional attention: softmax(QK^T / sqrt(d) + log size).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenry.compression.flops import encoder_flops, layer_costs
from tokenry.compression.plan import MergePlan, compose_places, source_map
from tokenry.compression.reducer import Attention, LayerReducer, TokenReducer, Tokens
from tokenry.core.errors import UserError
from tokenry.core.tensors.attention import AttentionCall
from tokenry.core.tensors.handles import Handle
from tokenry.core.tensors.patching import Encoder, Patch, SplitLayer, find_encoder, key_mask

LEAST_SIZE = 1e-6
"""Floor of a size before its logarithm is taken: a method may scale sizes down to nothing."""


@dataclass
class _Boundary:
    """The state before a layer, in one forward."""

    tokens: Tokens | None = None
    count: int = 0
    seen_by_attention: int = 0
    seen_by_mlp: int = 0
    before_drop: Tensor | None = None


@dataclass
class _Stream:
    """State that the layers of one encoder share: options, and the boundaries of the last forward."""

    layers: int
    special: int
    proportional_attention: bool
    restore_length: bool
    pair_masks: bool
    boundaries: list[_Boundary] = field(default_factory=list)
    inputs: dict[str, Tensor] = field(default_factory=dict)

    def take(self, names: Sequence[str], model: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """Keep the inputs of the reduction for the next forward and hand the others on: a pre-hook of the model."""
        self.inputs |= {name: kwargs[name] for name in names if kwargs.get(name) is not None}
        return args, {name: value for name, value in kwargs.items() if name not in names}

    def mask_decoder(self, decoder: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """Let a decoder see the tokens that the encoder put out: a pre-hook of the decoder."""
        states, tokens = kwargs.get("encoder_hidden_states"), self.boundaries[-1].tokens
        if states is None or tokens is None or (tokens.plan is None and not self.plans(self.layers)):
            return args, kwargs
        mask = states.new_ones(states.shape[:2], dtype=torch.long)
        if tokens.mask is not None:  # every beam has a copy of its text
            mask = tokens.mask.long().repeat_interleave(len(states) // len(tokens.mask), dim=0)
        return args, {**kwargs, "encoder_attention_mask": mask}

    @property
    def ran(self) -> bool:
        return bool(self.boundaries) and self.boundaries[-1].tokens is not None

    def plans(self, layers: int) -> list[MergePlan]:
        made = (boundary.tokens for boundary in self.boundaries[1 : layers + 1])
        return [tokens.plan for tokens in made if tokens is not None and tokens.plan is not None]


@dataclass
class _Owner:
    """One layer's part; a `LayerOwner` of core.patching. Layer i starts from boundary i and writes boundary i + 1."""

    number: int
    reducer: LayerReducer
    stream: _Stream

    def begin(self) -> list[_Boundary]:
        if self.number == 0:
            self.stream.boundaries = [_Boundary() for _ in range(self.stream.layers + 1)]
            self.stream.boundaries[0].tokens = Tokens(self.stream.special, inputs=self.stream.inputs)
            self.stream.inputs = {}
        return self.stream.boundaries

    def __call__(self, layer: SplitLayer, hidden_states: Tensor) -> Tensor:
        here, ahead = layer.state[self.number : self.number + 2]
        tokens = self._arrive(here, layer, hidden_states)
        arrived, (hidden_states, tokens) = hidden_states, self.reducer.enter(hidden_states, tokens)
        self._follow(layer, tokens.plan, ahead, arrived)
        here.seen_by_attention = hidden_states.shape[1]
        calls: list[AttentionCall] = []  # the layer's own first; who reads attention repeats it

        def tap(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
            calls.append(replace(call, attention_mask=self._key_bias(call, tokens)))
            return self.reducer.attend(calls[-1], tokens)

        hidden_states = layer.attend(hidden_states, tap)
        ahead.tokens = tokens
        if self.reducer.after == "attention":
            hidden_states = self._reduce(hidden_states, layer, calls[0], ahead)
            calls.clear()  # queries, keys and values need not live through the MLP
        here.seen_by_mlp = hidden_states.shape[1]
        hidden_states = layer.feed_forward(hidden_states)
        if self.reducer.after == "layer":
            hidden_states = self._reduce(hidden_states, layer, calls[0], ahead)
        ahead.count = hidden_states.shape[1]
        last = self.number == self.stream.layers - 1
        return _restored(hidden_states, layer.state) if last and self.stream.restore_length else hidden_states

    def _arrive(self, here: _Boundary, layer: SplitLayer, hidden_states: Tensor) -> Tokens:
        assert here.tokens is not None
        if self.number == 0:
            pairs = _pairs(layer.attention_mask, self.stream.pair_masks)
            mask = _padding(layer.attention_mask if pairs is None else pairs.any(dim=1)[:, None, None])
            here.tokens = replace(here.tokens, mask=mask, pairs=pairs)
        here.count = hidden_states.shape[1]
        return replace(here.tokens, plan=None)

    def _follow(self, layer: SplitLayer, plan: MergePlan | None, ahead: _Boundary, before: Tensor) -> None:
        """Keep what later layers need of the tokens before a plan: their positions, and the states of the dropped."""
        if plan is None:
            return
        if layer.position_bias is not None:
            layer.position_bias = _bias_of(layer.position_bias, plan, self.reducer.positions)
        ahead.before_drop = before if plan.drops and self.stream.restore_length else None

    def _key_bias(self, call: AttentionCall, tokens: Tokens) -> Tensor | None:
        """One number per key, added to the logits: log(size), and the least number for what is not seen."""
        weighted = self.stream.proportional_attention and tokens.size is not None
        if tokens.mask is None and tokens.pairs is None and not weighted:
            return None
        batch, _, keys, _ = call.key.shape
        bias = (
            tokens.size[..., 0].clamp_min(LEAST_SIZE).log()
            if weighted and tokens.size is not None
            else call.key.new_zeros(batch, keys)
        )
        if tokens.mask is not None:
            bias = bias.masked_fill(~tokens.mask, torch.finfo(call.query.dtype).min)
        bias = bias.to(call.query.dtype)[:, None, None, :]
        return (
            bias
            if tokens.pairs is None
            else bias.masked_fill(~tokens.pairs[:, None], torch.finfo(bias.dtype).min)
        )

    def _reduce(
        self, hidden_states: Tensor, layer: SplitLayer, call: AttentionCall, ahead: _Boundary
    ) -> Tensor:
        assert ahead.tokens is not None
        entered = ahead.tokens.plan
        reduced, ahead.tokens = self.reducer.reduce(hidden_states, ahead.tokens, Attention(call))
        if ahead.tokens.plan is not entered:
            self._follow(layer, ahead.tokens.plan, ahead, hidden_states)
        return reduced


def _bias_of(
    bias: Float[Tensor, "batch_or_one heads tokens tokens"],
    plan: MergePlan,
    positions: str,
) -> Float[Tensor, "batch heads kept kept"]:
    """Position bias between the places of a plan."""
    places = plan.first
    if positions == "compact":
        return bias[:, :, : places.shape[1], : places.shape[1]]
    rows = torch.arange(len(places), device=places.device)[:, None, None]
    of_pairs = bias.expand(len(places), -1, -1, -1)[rows, :, places[:, :, None], places[:, None, :]]
    return of_pairs.permute(0, 3, 1, 2)


def _restored(hidden_states: Tensor, boundaries: Sequence[_Boundary]) -> Tensor:
    """Copy the tokens back to where they came from; a dropped one gets its last value."""
    for boundary in reversed(boundaries[1:]):
        if boundary.tokens is not None and boundary.tokens.plan is not None:
            hidden_states = boundary.tokens.plan.unmerge(hidden_states, boundary.before_drop)
    return hidden_states


def _pairs(attention_mask: Tensor | None, allowed: bool) -> Bool[Tensor, "batch tokens tokens"] | None:
    """The mask of every query, where they differ."""
    if attention_mask is None or not bool((attention_mask != attention_mask[:, :1, :1]).any()):
        return None
    if not allowed:
        raise UserError(
            "the attention mask differs from query to query (as for packed texts), but a merged token has one: give one mask for "
            "all queries, (batch, tokens)."
        )
    seen = attention_mask[:, 0]
    return seen if seen.dtype == torch.bool else seen > torch.finfo(seen.dtype).min / 2


def _padding(attention_mask: Tensor | None) -> Bool[Tensor, "batch tokens"] | None:
    mask = key_mask(attention_mask)
    if mask is None or bool(mask.all()):
        return None
    if not bool(mask[:, 0].all()):
        raise UserError(
            'the text is padded on the left, where the class token belongs: tokenize with padding_side="right".'
        )
    return mask


class TokenReduction(Handle):
    """The reduction of one model, from `apply_token_reduction`; also a context manager that removes it at the end.

    Its figures are those of the last forward. `copy.deepcopy((model, reduction))` copies both.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        encoder: Encoder,
        reducer: TokenReducer,
        proportional_attention: bool,
        restore_length: bool,
    ) -> None:
        super().__init__(encoder.model)
        reducers = [layer or LayerReducer() for layer in reducer.layer_reducers(encoder)]
        self._reducer = reducer
        pair_masks = getattr(reducer, "pair_masks", False)
        self._stream = _Stream(
            len(reducers), encoder.special_tokens, proportional_attention, restore_length, pair_masks
        )
        self._costs = layer_costs(encoder)
        owners = [_Owner(number, layer, self._stream) for number, layer in enumerate(reducers)]
        self._on_removal(Patch(encoder, owners).remove)
        if inputs := getattr(reducer, "inputs", ()):
            for called in {model, encoder.model}:
                taking = partial(self._stream.take, inputs)
                self._on_removal(called.register_forward_pre_hook(taking, with_kwargs=True).remove)
        if getattr(model.config, "is_encoder_decoder", False) and not restore_length:
            decoder = model.get_decoder()
            self._on_removal(
                decoder.register_forward_pre_hook(self._stream.mask_decoder, with_kwargs=True).remove
            )
        for layer in reducers:
            if layer.module is not None:
                encoder.model.token_reduction = layer.module
                self._on_removal(partial(delattr, encoder.model, "token_reduction"))

    @property
    def token_counts(self) -> tuple[int, ...]:
        """Number of tokens that entered each layer, and that left the last."""
        return tuple(boundary.count for boundary in self._ran())

    @property
    def plans(self) -> tuple[MergePlan | None, ...]:
        """The plan of each layer; None where it left its tokens alone."""
        return tuple(boundary.tokens.plan if boundary.tokens else None for boundary in self._ran()[1:])

    @property
    def flops(self) -> int:
        """Multiply-adds of the layers for one image or text."""
        layers = self._ran()[:-1]
        return encoder_flops(
            self._costs,
            [layer.seen_by_attention for layer in layers],
            [layer.seen_by_mlp for layer in layers],
        )

    @property
    def dense_flops(self) -> int:
        """Multiply-adds of the layers without the reduction."""
        tokens = [self._ran()[0].count] * len(self._costs)
        return encoder_flops(self._costs, tokens, tokens)

    @property
    def size(self) -> Float[Tensor, "batch kept 1"] | None:
        """Number of first tokens that each remaining token stands for; None where sizes were not followed."""
        tokens = self._ran()[-1].tokens
        return None if tokens is None else tokens.size

    @property
    def mask(self) -> Bool[Tensor, "batch kept"] | None:
        """False for padding and for empty places after the last layer; None where there is neither."""
        tokens = self._ran()[-1].tokens
        return None if tokens is None else tokens.mask

    def places(self, layers: int | None = None) -> Int[Tensor, "batch tokens"]:
        """Place of each of the first tokens after `layers` layers (default: all); -1 for dropped ones."""
        boundaries = self._ran()
        plans = self._stream.plans(len(boundaries) - 1)
        if not plans:
            raise UserError(
                "no token was merged or dropped in the last forward, so there are no places to report."
            )
        first = plans[0].kept
        plans = self._stream.plans(len(boundaries) - 1 if layers is None else layers)
        return compose_places(plans, boundaries[0].count, first.shape[0], first.device)

    def source_map(self, layers: int | None = None) -> Bool[Tensor, "batch kept tokens"]:
        """Mask of the first tokens that each token remaining after `layers` layers (default: all) is made of."""
        kept = self.token_counts[-1 if layers is None else layers]
        return source_map(self.places(layers), kept)

    def _ran(self) -> list[_Boundary]:
        if not self._stream.ran:
            raise UserError("nothing has run through the model since it was patched: run it once first.")
        return self._stream.boundaries

    def _method(self) -> str:
        return repr(self._reducer)

    def _details(self) -> Iterator[str]:
        yield f"{self._stream.layers} layers"
        if self._stream.ran:
            yield f"{self.token_counts[0]} to {self.token_counts[-1]} tokens"


def apply_token_reduction(
    model: PreTrainedModel,
    reducer: TokenReducer,
    *,
    proportional_attention: bool | None = None,
    restore_length: bool = False,
) -> TokenReduction:
    """Make an encoder carry fewer tokens from layer to layer, whatever its batches; `remove()` undoes it.

    Works on ViT, DeiT, DINOv2, CLIP and SigLIP vision towers, on BERT-like text encoders and on the encoder of T5 (whose decoder then sees the
    tokens that are left), in any dtype, in training (gradient checkpointing included) and inference, with sdpa or eager attention. `output_hidden_states` then gives shrinking tensors.

    Args:
        model: the model or tower; of a CLIP or SigLIP model with two towers the vision tower is patched.
        reducer: the method with its options, such as `ToMe(r=13)` or `PiToMe(ratio=0.9)`.
        proportional_attention: whether attention counts a merged token by its size; None leaves it to the reducer.
        restore_length: give the last layer's output the full length again, each token with the value of the one it was merged into (a
            dropped one with its last value). Heads that pool over the tokens or predict densely need it; a class token does not.

    Returns:
        The handle, with counts, FLOPs and sources; its `remove()` undoes the patch.

    Raises:
        UserError: the model is a decoder, of no supported family, patched already, or does not fit the reducer.
    """
    proportional = (
        reducer.proportional_attention if proportional_attention is None else proportional_attention
    )
    return TokenReduction(model, find_encoder(model), reducer, proportional, restore_length)
