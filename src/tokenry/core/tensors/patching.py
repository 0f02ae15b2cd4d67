"""Own the layers of a transformers encoder: each in two halves, the residual stream between them and the attention call in the owner's hand.

    layer(x) = feed_forward(attend(x))        the owner decides what happens before, between and after

Hooks reach neither the residual stream inside a layer nor the queries and keys; so a layer's class is swapped for a subclass with
another `forward` (a class, because gradient checkpointing wraps the class's `forward` and would miss one that is set on the instance),
and a registered attention function hands each call to the owner's tap before it hands it to the model's own kernel.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tokenry.core.errors import UserError
from tokenry.core.tensors.attention import AttentionCall, interface_forward
from tokenry.core.tensors.handles import Handle

AttentionTap = Callable[[AttentionCall], tuple[Tensor, Tensor | None]]
"""Answers one attention call; `call.function` is the model's own kernel. Returns (output, weights or None)."""

_KERNELS = ("sdpa", "eager")
_TAP = "_tokenry_tap"


# --- the registered attention function -----------------------------------------------------------------------------------------------

# The modelling file's own eager function, by the class of the attention module: known once a model of that class was patched.
_eager: dict[type[nn.Module], Callable[..., Any]] = {}


def _tapped(
    kernel: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    function = _eager[module.__class__] if kernel == "eager" else ALL_ATTENTION_FUNCTIONS[kernel]
    call = AttentionCall(module, query, key, value, attention_mask, function, kwargs)
    tap: AttentionTap = getattr(module, _TAP, run_call)
    return tap(call)


def run_call(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
    """Run the model's own kernel on a call."""
    output, weights = call.function(
        call.module, call.query, call.key, call.value, call.attention_mask, **call.kwargs
    )
    return output, weights


for _kernel in _KERNELS:
    AttentionInterface.register(f"tokenry_{_kernel}", partial(_tapped, _kernel))
    AttentionMaskInterface.register(f"tokenry_{_kernel}", ALL_MASK_ATTENTION_FUNCTIONS[_kernel])


# --- the two halves of a layer, one entry per family ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Family:
    """How the layers of one family split.

    Attributes:
        attend: (layer, hidden_states, attention arguments) -> hidden_states after attention and its residual.
        feed_forward: (layer, hidden_states) -> hidden_states of the next layer.
        attention: name of the layer's attention part, with its projections.
        kernel: name of the module in it that calls the attention function.
        special_tokens: number of leading tokens that are no patch or word (class, distillation, registers), from the config.
        modality: the input that tokens stand for.
        position_bias: (layer, number of tokens) -> bias of every pair of tokens, where the stack hands one from layer to layer.
    """

    attend: Callable[[Any, Tensor, dict[str, Any]], Tensor]
    feed_forward: Callable[[Any, Tensor], Tensor]
    attention: str
    kernel: str
    special_tokens: Callable[[Any], int]
    modality: Literal["image", "text"]
    position_bias: Callable[[Any, int], Tensor] | None = None


def _vit_attend(layer: Any, x: Tensor, arguments: dict[str, Any]) -> Tensor:
    return layer.dropout(layer.attention(layer.layernorm_before(x), **arguments)[0]) + x


def _vit_feed_forward(layer: Any, x: Tensor) -> Tensor:
    return layer.dropout(layer.mlp(layer.layernorm_after(x))) + x


def _dinov2_attend(layer: Any, x: Tensor, arguments: dict[str, Any]) -> Tensor:
    return layer.drop_path(layer.layer_scale1(layer.attention(layer.norm1(x), **arguments)[0])) + x


def _dinov2_feed_forward(layer: Any, x: Tensor) -> Tensor:
    return layer.drop_path(layer.layer_scale2(layer.mlp(layer.norm2(x)))) + x


def _clip_attend(layer: Any, x: Tensor, arguments: dict[str, Any]) -> Tensor:
    return x + layer.self_attn(hidden_states=layer.layer_norm1(x), **arguments)[0]


def _clip_feed_forward(layer: Any, x: Tensor) -> Tensor:
    return x + layer.mlp(layer.layer_norm2(x))


def _bert_attend(layer: Any, x: Tensor, arguments: dict[str, Any]) -> Tensor:
    return layer.attention(x, **arguments)[0]


def _bert_feed_forward(layer: Any, x: Tensor) -> Tensor:
    # The last chunk may be shorter: a reduced length is seldom a multiple of the chunk size.
    chunks = x.split(layer.chunk_size_feed_forward or x.shape[1], dim=1)
    return torch.cat([layer.feed_forward_chunk(chunk) for chunk in chunks], dim=1)


def _distilbert_attend(layer: Any, x: Tensor, arguments: dict[str, Any]) -> Tensor:
    return layer.sa_layer_norm(layer.attention(x, **arguments)[0] + x)


def _distilbert_feed_forward(layer: Any, x: Tensor) -> Tensor:
    return layer.output_layer_norm(layer.ffn(x) + x)


def _t5_attend(layer: Any, x: Tensor, arguments: dict[str, Any]) -> Tensor:
    return _t5_finite(layer.layer[0](x, **arguments)[0])


def _t5_feed_forward(layer: Any, x: Tensor) -> Tensor:
    return _t5_finite(layer.layer[-1](x))


def _t5_finite(x: Tensor) -> Tensor:
    """Clamp what float16 cannot hold, as T5 does."""
    if x.dtype != torch.float16:
        return x
    largest = torch.finfo(x.dtype).max
    limit = torch.where(torch.isinf(x).any(), largest - 1000, largest)
    return torch.clamp(x, min=-limit, max=limit)


def _t5_bias(layer: Any, tokens: int) -> Tensor:
    return layer.layer[0].SelfAttention.compute_bias(tokens, tokens)


def _special(count: int) -> Callable[[Any], int]:
    return lambda config: count


def _class_and_registers(config: Any) -> int:
    return 1 + config.num_register_tokens


_VIT = _Family(_vit_attend, _vit_feed_forward, "attention", "attention", _special(1), "image")
_DEIT = _Family(_vit_attend, _vit_feed_forward, "attention", "attention", _special(2), "image")
_DINOV2 = _Family(_dinov2_attend, _dinov2_feed_forward, "attention", "attention", _special(1), "image")
_DINOV2_REGISTERS = _Family(
    _dinov2_attend, _dinov2_feed_forward, "attention", "attention", _class_and_registers, "image"
)
_CLIP = _Family(_clip_attend, _clip_feed_forward, "self_attn", "self_attn", _special(1), "image")
_SIGLIP = _Family(_clip_attend, _clip_feed_forward, "self_attn", "self_attn", _special(0), "image")
_BERT = _Family(_bert_attend, _bert_feed_forward, "attention", "attention.self", _special(1), "text")
_DISTILBERT = _Family(
    _distilbert_attend, _distilbert_feed_forward, "attention", "attention", _special(1), "text"
)
_T5_ATTENTION = "layer.0.SelfAttention"
_T5 = _Family(_t5_attend, _t5_feed_forward, _T5_ATTENTION, _T5_ATTENTION, _special(0), "text", _t5_bias)

_FAMILIES: dict[str, _Family] = {
    "ViTLayer": _VIT,
    "ViTMSNLayer": _VIT,
    "DeiTLayer": _DEIT,
    "Dinov2Layer": _DINOV2,
    "Dinov2WithRegistersLayer": _DINOV2_REGISTERS,
    "CLIPEncoderLayer": _CLIP,
    "SiglipEncoderLayer": _SIGLIP,
    "BertLayer": _BERT,
    "RobertaLayer": _BERT,
    "XLMRobertaLayer": _BERT,
    "ElectraLayer": _BERT,
    "TransformerBlock": _DISTILBERT,
    "T5Block": _T5,
}


def _is_known(module: nn.Module) -> bool:
    owner = next(owner for owner in type(module).__mro__ if "forward" in vars(owner))
    return owner.__name__ in _FAMILIES and owner.__module__.startswith("transformers.models.")


def _family(layer: nn.Module) -> _Family:
    return next(_FAMILIES[owner.__name__] for owner in type(layer).__mro__ if owner.__name__ in _FAMILIES)


@dataclass
class SplitLayer:
    """One call of a patched layer: its two halves.

    Attributes:
        attention_mask: as the model made it for this call: None, or bool or additive (batch, 1, 1 or tokens, tokens).
        kwargs: further arguments of the model for its attention.
        state: the result of the owner's `begin` for this call.
        position_bias: bias of every pair of tokens, (1 or batch, heads, tokens, tokens), which goes on to the next layer; None where
            the model has none. An owner that changes the tokens puts theirs here.
    """

    module: nn.Module
    attention_mask: Tensor | None
    kwargs: dict[str, Any]
    state: Any
    position_bias: Tensor | None = None

    def attend(
        self, hidden_states: Float[Tensor, "batch tokens hidden"], tap: AttentionTap
    ) -> Float[Tensor, "batch tokens hidden"]:
        """Run attention with its norm, projections and residual; `tap` answers the attention call."""
        family = _family(self.module)
        kernel = self.module.get_submodule(family.kernel)
        setattr(kernel, _TAP, tap)
        try:
            arguments = {**self.kwargs, "attention_mask": self.attention_mask}
            if self.position_bias is not None:
                arguments["position_bias"] = self.position_bias
            return family.attend(self.module, hidden_states, arguments)
        finally:
            delattr(kernel, _TAP)

    def feed_forward(
        self, hidden_states: Float[Tensor, "batch tokens hidden"]
    ) -> Float[Tensor, "batch tokens hidden"]:
        """Run the MLP with its norm and residual."""
        return _family(self.module).feed_forward(self.module, hidden_states)


# --- the encoder ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoder:
    """The layers of one encoder that can be owned, in order.

    Attributes:
        model: the model or tower they belong to.
        special_tokens: number of leading tokens that are no patch or word.
        modality: the input that the other tokens stand for.
        attention: the layers' attention parts.
    """

    model: PreTrainedModel
    layers: tuple[nn.Module, ...]
    special_tokens: int
    modality: Literal["image", "text"]
    attention: tuple[nn.Module, ...] = field(repr=False)


def find_encoder(model: PreTrainedModel) -> Encoder:
    """Find the layers of an encoder; of a CLIP or SigLIP model with two towers, those of its vision tower, of an encoder-decoder, those of
    its encoder.

    Raises:
        UserError: it is a decoder or a vision-language model, or its layers are of no supported family.
    """
    if hasattr(model, "vision_tower") or hasattr(getattr(model, "model", None), "vision_tower"):
        raise UserError(
            f"{type(model).__name__} writes text about images: drop visual tokens with prune_visual_tokens(model, ...), or patch "
            "its vision tower alone if the projector takes any number of tokens."
        )
    tower = getattr(model, "vision_model", model)
    if not isinstance(tower, PreTrainedModel):  # CLIP before transformers 5.2: the tower is the whole model's
        tower = model
    if getattr(tower.config, "is_encoder_decoder", False):
        tower = tower.get_encoder()
    layers = tuple(module for module in tower.modules() if _is_known(module))
    if len({type(layer) for layer in layers}) != 1:
        raise UserError(
            f"the layers of {type(model).__name__} cannot be split: supported are encoders made of "
            f"{', '.join(sorted(_FAMILIES))}."
        )
    if "attention_mask" not in inspect.signature(type(layers[0]).forward).parameters:
        raise UserError(
            f"the {type(layers[0]).__name__} of this transformers version hands no mask on to its attention: "
            "install a newer transformers (5.9 for ViT and DeiT, 5.18 for DINOv2)."
        )
    family = _family(layers[0])
    if interface_forward(layers[0].get_submodule(family.kernel)) is None:
        raise UserError(
            f"the {type(layers[0]).__name__} of this transformers version does not use the attention interface: install a newer "
            "transformers."
        )
    attention = tuple(layer.get_submodule(family.attention) for layer in layers)
    config = tower.config
    if any(getattr(module, "is_causal", False) for part in attention for module in part.modules()) or (
        family.modality == "image" and not hasattr(config, "image_size")
    ):
        raise UserError(
            f"{type(model).__name__} is a decoder or a causal text tower, where a token must not see those after it: "
            "give an encoder (for CLIP, the vision tower)."
        )
    return Encoder(tower, layers, family.special_tokens(config), family.modality, attention)


@runtime_checkable
class LayerOwner(Protocol):
    """The behaviour of a patched layer in place of its `forward`."""

    def begin(self) -> Any:
        """Return the state of this call of the layer, `layer.state`; a second run by gradient checkpointing gets the same.

        By then other forwards may have begun, so the state of one forward must not be looked up anywhere else.
        """
        ...

    def __call__(
        self, layer: SplitLayer, hidden_states: Float[Tensor, "batch tokens hidden"]
    ) -> Float[Tensor, "batch more_or_fewer_tokens hidden"]:
        """Run the layer; a plain one is `layer.feed_forward(layer.attend(hidden_states, run_call))`."""
        ...


_OWNER = "_tokenry_owner"
_STATE = "_tokenry_state"


def _owned_forward(
    self: nn.Module, hidden_states: Tensor, attention_mask: Tensor | None = None, *more: Any, **kwargs: Any
) -> Any:
    layer = SplitLayer(self, attention_mask, {}, kwargs.pop(_STATE))
    first_bias = _family(self).position_bias
    if first_bias is not None:  # what T5's stack hands on comes first, and is expected back
        handed, *more = more  # type: ignore[assignment]
        layer.position_bias = first_bias(self, hidden_states.shape[1]) if handed is None else handed
    layer.kwargs = {name: value for name, value in kwargs.items() if value is not None}
    if any(value is not None for value in more) or "past_key_values" in layer.kwargs:
        raise UserError(
            "a model with patched layers takes neither a key-value cache nor states of another encoder: call remove() first."
        )
    owner: LayerOwner = getattr(self, _OWNER)
    hidden_states = owner(layer, hidden_states)
    return hidden_states if first_bias is None else (hidden_states, layer.position_bias, None)


class Patch(Handle):
    """An encoder whose layers are owned, until `remove()`.

    `copy.deepcopy` of the model copies the patch with it, owners included; saving the model saves nothing of it.
    """

    def __init__(self, encoder: Encoder, owners: Sequence[LayerOwner]) -> None:
        model = encoder.model
        if any(hasattr(layer, _OWNER) for layer in encoder.layers):
            raise UserError(f"{type(model).__name__} is patched already: call remove() on its handle first.")
        kernel = model.config._attn_implementation or "eager"
        if kernel.startswith("tokenry_"):
            raise UserError(
                f"{type(model).__name__} shares its config with a patched model, and the config names the attention function: patch a "
                "copy (copy.deepcopy), or call remove() on the other's handle first."
            )
        if kernel not in _KERNELS:
            raise UserError(
                f"the model runs attention with {kernel}, which takes no bias per key: call "
                'model.set_attn_implementation("sdpa") first.'
            )
        for layer in encoder.layers:
            _drop_bound_forward(layer)
        if any("forward" in vars(layer) for layer in encoder.layers):
            raise UserError(
                f"the layers of {type(model).__name__} are wrapped already (as device_map does it over several devices): load the model on "
                "one device, or patch it before it is wrapped."
            )
        super().__init__(model)
        self._layers, self._kernel = encoder.layers, kernel
        for module in _interface_modules(encoder):
            _eager[type(module)] = interface_forward(module).__globals__["eager_attention_forward"]  # type: ignore[union-attr]
        self._on_removal(self._restore_attention, self._restore_layers)
        model.set_attn_implementation(f"tokenry_{kernel}")
        for layer, owner in zip(encoder.layers, owners, strict=True):
            setattr(layer, _OWNER, owner)
            layer.__class__ = _owned_class(type(layer))  # type: ignore[arg-type]

    def _restore_layers(self) -> None:
        for layer in self._layers:
            _drop_bound_forward(layer)
            layer.__class__ = type(layer).__mro__[1]
            delattr(layer, _OWNER)

    def _restore_attention(self) -> None:
        if self._model.config._attn_implementation == f"tokenry_{self._kernel}":
            self._model.set_attn_implementation(self._kernel)

    def _method(self) -> str:
        return f"{len(self._layers)} layers with owners"


def _drop_bound_forward(layer: nn.Module) -> None:
    """Before 5.2, transformers leaves the `forward` of a layer's class on layers whose hidden states it recorded, where it would hide that of
    another class.
    """
    if getattr(vars(layer).get("forward"), "__func__", None) is type(layer).forward:
        del layer.forward


def _interface_modules(encoder: Encoder) -> Iterator[nn.Module]:
    for part in encoder.attention:
        yield from (module for module in part.modules() if interface_forward(module) is not None)


@cache
def _owned_class(layer_class: type[nn.Module]) -> type[nn.Module]:
    """A subclass with the owner's forward that keeps the name of the original class."""

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        # Gradient checkpointing runs `forward` again, but not this; the state is among the arguments, which it remembers.
        owner: LayerOwner = getattr(self, _OWNER)
        return layer_class.__call__(self, *args, **kwargs, **{_STATE: owner.begin()})

    names = {
        "__call__": call,
        "forward": _owned_forward,
        "__module__": layer_class.__module__,
        "__qualname__": layer_class.__qualname__,
    }
    return type(layer_class.__name__, (layer_class,), names)


def key_mask(attention_mask: Tensor | None) -> Bool[Tensor, "batch keys"] | None:
    """Keys that a bidirectional mask lets every query see; None if all.

    Args:
        attention_mask: bool or additive, (batch, 1, 1 or queries, keys).
    """
    if attention_mask is None:
        return None
    row = attention_mask[:, 0, 0]
    return row if row.dtype == torch.bool else row > torch.finfo(row.dtype).min / 2
