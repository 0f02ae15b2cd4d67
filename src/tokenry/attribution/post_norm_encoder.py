"""An encoder classifier of the BERT kind, opened: what GlobEnc and DecompX need of every layer.

    y = x + W_O concat_h(P_h v_h) + b_O        x' = LN1(y)        v = W_V x + b_V
    z = W_1 x' + b_1                           layer output = LN2(x' + W_2 act(z) + b_2)

Only the embeddings and the attention probabilities P come from the model's own forward, whatever kernel and dtype it runs in; the rest is
computed again in float32 or better, so that what is taken apart sums to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from tokenry.core.errors import UserError
from tokenry.core.tensors.attention import AttentionCall, attention_weights, tap_attention
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.output_head import accumulation_dtype

LAYERS = ("BertLayer", "RobertaLayer", "XLMRobertaLayer", "ElectraLayer")
_HEADS = {
    "BertForSequenceClassification": ("bert.pooler.dense", "tanh", "classifier"),
    "RobertaForSequenceClassification": ("classifier.dense", "tanh", "classifier.out_proj"),
    "XLMRobertaForSequenceClassification": ("classifier.dense", "tanh", "classifier.out_proj"),
    "ElectraForSequenceClassification": ("classifier.dense", "gelu", "classifier.out_proj"),
}


@dataclass(frozen=True)
class Affine:
    """A linear map in the dtype of the computation: x ↦ x W^T + b."""

    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, "out"]

    @classmethod
    def of(cls, linear: Any, dtype: torch.dtype) -> "Affine":
        """The map of a linear layer."""
        return cls(linear.weight.detach().to(dtype), linear.bias.detach().to(dtype))

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the map."""
        return x @ self.weight.T + self.bias


@dataclass(frozen=True)
class Norm:
    """A LayerNorm; `parts` takes it apart."""

    gamma: Float[Tensor, "dim"]
    beta: Float[Tensor, "dim"]
    eps: float

    @classmethod
    def of(cls, norm: Any, dtype: torch.dtype) -> "Norm":
        """The norm of a module."""
        return cls(norm.weight.detach().to(dtype), norm.bias.detach().to(dtype), norm.eps)

    def deviation(self, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows 1"]:
        """What the true vector is divided by."""
        return (x.var(dim=-1, correction=0, keepdim=True) + self.eps).sqrt()

    def linear(self, parts: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        """The part of the norm that is linear in its input, before the division."""
        return (parts - parts.mean(dim=-1, keepdim=True)) * self.gamma

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the norm."""
        return self.linear(x) / self.deviation(x) + self.beta


@dataclass(frozen=True)
class LayerState:
    """One layer of one forward.

    Attributes:
        x: its input.
        probabilities: attention after softmax.
        value: W_V and b_V.
        output: W_O and b_O.
        first_norm: LN1.
        up: W_1 and b_1.
        down: W_2 and b_2.
        second_norm: LN2.
    """

    x: Float[Tensor, "batch seq dim"]
    probabilities: Float[Tensor, "batch heads seq seq"]
    value: Affine
    output: Affine
    first_norm: Norm
    up: Affine
    down: Affine
    second_norm: Norm
    activation: nn.Module

    def heads(self, values: Float[Tensor, "batch *rows dim"]) -> Float[Tensor, "batch *rows heads head_dim"]:
        """Cut the last dimension into heads."""
        return values.unflatten(-1, (self.probabilities.shape[1], -1))

    @cached_property
    def before_first_norm(self) -> Float[Tensor, "batch seq dim"]:
        """The true input of LN1."""
        v = self.heads(self.value(self.x)).transpose(1, 2)
        mixed = (self.probabilities @ v).transpose(1, 2).flatten(2)
        return self.x + self.output(mixed)

    @cached_property
    def before_second_norm(self) -> Float[Tensor, "batch seq dim"]:
        """The true input of LN2."""
        x = self.first_norm(self.before_first_norm)
        return x + self.down(self.activation(self.up(x)))

    @cached_property
    def result(self) -> Float[Tensor, "batch seq dim"]:
        """The output of the layer."""
        return self.second_norm(self.before_second_norm)


@dataclass(frozen=True)
class EncoderReading:
    """A forward of an encoder classifier.

    Attributes:
        layers: every layer.
        dense: first map of the classifier, on the first token.
        activation: name of the function after it.
        classifier: last map.
        real: False for padding.
    """

    layers: tuple[LayerState, ...]
    dense: Affine
    activation: str
    classifier: Affine
    real: Bool[Tensor, "batch seq"]

    @property
    def before_activation(self) -> Float[Tensor, "batch dim"]:
        """What the first map of the classifier puts out."""
        return self.dense(self.layers[-1].result[:, 0])

    @property
    def logits(self) -> Float[Tensor, "batch classes"]:
        """The logits, computed from the layers."""
        return self.classifier(activate(self.activation, self.before_activation))


def activate(name: str, z: Tensor) -> Tensor:
    """Tanh or the exact GELU."""
    return torch.tanh(z) if name == "tanh" else nn.functional.gelu(z)


def require_post_norm_encoder(model: nn.Module, method: str) -> list[Any]:
    """Return the layers of an encoder classifier whose norms come after the residual."""
    layers = [module for module in model.modules() if type(module).__name__ in LAYERS]
    if type(model).__name__ not in _HEADS or not layers or getattr(model.config, "is_decoder", False):
        raise UserError(
            f"{method} takes apart encoder classifiers whose norms follow the residual ({', '.join(_HEADS)}), got "
            f"{type(model).__name__}: use decompx:method=linear for decoders and other encoders."
        )
    return layers


@torch.no_grad()
def read_encoder(
    model: nn.Module,
    input_ids: Int[Tensor, "batch seq"],
    attention_mask: Num[Tensor, "batch seq"] | Bool[Tensor, "batch seq"] | None = None,
    method: str = "this method",
) -> EncoderReading:
    """Run an encoder classifier and open it.

    Raises:
        UserError: another kind of model, no tokens, or more tokens than it has positions.
    """
    layers = require_post_norm_encoder(model, method)
    limit = position_limit_of_encoder(model)
    if not 1 <= input_ids.shape[1] <= limit:
        raise UserError(
            f"the texts have {input_ids.shape[1]} tokens, and the model reads 1 to {limit}: cut them."
        )
    real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask != 0
    dtype = accumulation_dtype(next(model.parameters()).dtype)
    probabilities: dict[nn.Module, Tensor] = {}
    inputs: list[Tensor] = []

    def read(call: AttentionCall) -> None:
        probabilities[call.module] = attention_weights(call).to(dtype)

    hook = layers[0].register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    kernels = [layer.attention.self for layer in layers]
    try:
        with evaluation_mode(model), tap_attention(dict.fromkeys(kernels, read)):
            model(input_ids=input_ids, attention_mask=real.long())
    finally:
        hook.remove()
    states = tuple(_states(layers, inputs[0].to(dtype), [probabilities[kernel] for kernel in kernels]))
    dense, activation, classifier = _HEADS[type(model).__name__]
    head = [Affine.of(model.get_submodule(name), dtype) for name in (dense, classifier)]
    return EncoderReading(states, head[0], activation, head[1], real)


def position_limit_of_encoder(model: Any) -> int:
    """Number of tokens that an encoder reads: RoBERTa's positions begin after that of padding."""
    table = next(module for name, module in model.named_modules() if name.endswith("position_embeddings"))
    return int(table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1))


def _states(layers: list[Any], x: Tensor, probabilities: list[Tensor]) -> Iterator[LayerState]:
    for layer, p in zip(layers, probabilities, strict=True):
        attention, dtype = layer.attention, x.dtype
        state = LayerState(
            x, p,
            Affine.of(attention.self.value, dtype), Affine.of(attention.output.dense, dtype), Norm.of(attention.output.LayerNorm, dtype),
            Affine.of(layer.intermediate.dense, dtype), Affine.of(layer.output.dense, dtype), Norm.of(layer.output.LayerNorm, dtype),
            layer.intermediate.intermediate_act_fn,
        )  # fmt: skip
        yield state
        x = state.result
