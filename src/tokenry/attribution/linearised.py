"""A model made linear at the point where it is: then one backward pass gives contributions that sum to the logit.

While `linearised(model)` is open the model computes what it always does, but its gradients are those of a linear map:

    attention    queries and keys are constants                 norms        so is the denominator
    activation   act(z) = z · (act(z) / z), the ratio constant  gated MLPs   act(gate) is a constant

    logit = Σ_j <∂ logit / ∂ e_j, e_j> + bias           e_j: what the embedding block puts out for token j

`bias` is one number, Σ <∂ logit / ∂ b, b> over all biases; that the sum is the logit is checked in every call. For encoders it is DecompX
with the biases in a token of their own; for decoders it is attribution of the language model itself.

Source: DecompX (arXiv 2306.02873); the one backward pass is ours.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from tokenry.attribution.attribution import Question, TokenScores, is_causal_lm, stacked
from tokenry.core.errors import UserError
from tokenry.core.tensors.attention import AttentionCall, answer_attention, interface_forward
from tokenry.core.tensors.handles import replaced
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.output_head import backbone, causal_lm, output_head

LAYERS = {
    *("BertLayer", "RobertaLayer", "XLMRobertaLayer", "ElectraLayer", "ModernBertEncoderLayer", "GPT2Block"),
    *("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"),
    *("Gemma2DecoderLayer", "Gemma3DecoderLayer"),
}
"""The layers whose every nonlinearity is known."""
_GATED = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP", "Gemma2MLP", "Gemma3MLP", "ModernBertMLP")
_TANH_HEADS = ("RobertaClassificationHead", "XLMRobertaClassificationHead")
_SMALLEST = 1e-12


class Contributions(NamedTuple):
    """Contributions to one logit per text.

    Attributes:
        tokens: of every token; 0 at padding.
        logit: what they sum to.
    """

    tokens: Float[Tensor, "batch seq"]
    bias: Float[Tensor, "batch"]
    logit: Float[Tensor, "batch"]


@contextmanager
def linearised(model: nn.Module) -> Iterator[None]:
    """Give a model the gradients of the linear map that it is at its input; what it computes stays as it is.

    Raises:
        UserError: it has a layer that is not known.
    """
    layers = _layers(model)
    with ExitStack() as stack:
        attention = [module for layer in layers for module in layer.modules() if interface_forward(module)]
        stack.enter_context(answer_attention(dict.fromkeys(attention, _constant_weights)))
        for module in model.modules():
            forward = _linear_forward(module)
            if forward is not None:
                stack.callback(replaced(module, "forward", partial(forward, module, module.forward)))
        yield


def _layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model, all known."""
    attends = [module for module in model.modules() if interface_forward(module) is not None]
    stacks = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and any(set(layer.modules()) & set(attends) for layer in module)
    ]
    layers = list(stacks[0]) if stacks else []
    unknown = next((type(layer).__name__ for layer in layers if type(layer).__name__ not in LAYERS), None)
    if not layers or unknown:
        raise UserError(
            f"{type(model).__name__} cannot be made linear: {unknown or 'its attention'} is not known (known layers: "
            f"{', '.join(sorted(LAYERS))})."
        )
    return layers


def _constant_weights(call: AttentionCall) -> Any:
    query, key = call.query.detach(), call.key.detach()
    return call.function(call.module, query, key, call.value, call.attention_mask, **call.kwargs)


# --- the linear gradient of every nonlinear module: the value is always the module's own ---------------------------------------------

Forward = Callable[..., Tensor]


def _with_gradient(value: Tensor, linear: Tensor) -> Tensor:
    """`value`, bit for bit, with the gradient of `linear`."""
    return value.detach() + (linear - linear.detach())


def _linear_forward(module: nn.Module) -> Callable[..., Any] | None:
    """The forward that replaces that of a nonlinear module; None where it is linear or is made of others."""
    name = type(module).__name__
    if isinstance(module, nn.LayerNorm):
        return _layer_norm
    if name.endswith("RMSNorm"):
        return _rms_norm
    if name in _GATED:
        return _gated
    if name in _TANH_HEADS:
        return _tanh_head
    is_activation = name.endswith(("GELU", "GELUTanh", "GELUActivation", "SiLUActivation")) or isinstance(
        module, nn.Tanh | nn.GELU | nn.SiLU
    )
    return _activation if is_activation else None


def _layer_norm(module: Any, own: Forward, x: Tensor) -> Tensor:
    deviation = (x.var(dim=-1, correction=0, keepdim=True) + module.eps).sqrt().detach()
    linear = (x - x.mean(dim=-1, keepdim=True)) / deviation
    linear = linear if module.weight is None else linear * module.weight
    return _with_gradient(own(x), linear if module.bias is None else linear + module.bias)


def _rms_norm(module: Any, own: Forward, x: Tensor) -> Tensor:
    """The module's own output is x times a gain that does not depend on the direction of x: that of each dimension is read off it."""
    value = own(x).detach()
    wide = x.detach().float() if x.dtype != torch.float64 else x.detach()
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", 0.0))
    unit = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    gain = next(
        (gain for gain in _gains(module, wide.dtype) if torch.allclose((unit * gain).to(value.dtype), value, rtol=1e-2, atol=1e-4)), None
    )  # fmt: skip
    if gain is None:
        raise UserError(
            f"{type(module).__name__} is a norm that is not known, so the model cannot be made linear."
        )
    scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps) * gain
    return _with_gradient(value, x * scale.to(x.dtype))


def _gains(module: Any, dtype: torch.dtype) -> Iterator[Tensor]:
    """The weight as Llama applies it, and as Gemma does."""
    weight = module.weight.detach().to(dtype)
    yield weight
    yield 1 + weight


def _activation(module: Any, own: Forward, z: Tensor) -> Tensor:
    value = own(z).detach()
    return _with_gradient(value, z * (value / (z.detach() + _SMALLEST)))


def _gated(module: Any, own: Forward, x: Tensor) -> Tensor:
    if hasattr(module, "Wi"):
        gate, up = module.Wi(x).chunk(2, dim=-1)
        return module.Wo(module.drop(module.act(gate).detach() * up))
    return module.down_proj(module.act_fn(module.gate_proj(x)).detach() * module.up_proj(x))


def _tanh_head(module: Any, own: Forward, features: Tensor, **_: Any) -> Tensor:
    z = module.dense(features[:, 0])
    value = torch.tanh(z).detach()
    return module.out_proj(_with_gradient(value, z * (value / (z.detach() + _SMALLEST))))


# --- contributions -------------------------------------------------------------------------------------------------------------------


def contributions(
    model: nn.Module,
    input_ids: Int[Tensor, "batch seq"],
    of: Sequence[int] | Int[Tensor, "batch"],
    attention_mask: Num[Tensor, "batch seq"] | Bool[Tensor, "batch seq"] | None = None,
) -> Contributions:
    """Contributions of every token to one logit of each text: the class of a classifier, or the next token of a decoder.

    Where a model scales or caps its logits, it is the logit before that, whose order is the same.

    Args:
        input_ids: the texts, padded on either side.
        of: the class, or the next token, of each text.
        attention_mask: non-zero at real tokens.

    Raises:
        UserError: a layer that is not known, or contributions that do not sum to the logit.
    """
    real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask != 0
    last = real.long().mul(torch.arange(1, real.shape[1] + 1, device=real.device)).argmax(dim=1)
    chosen = torch.as_tensor(of, device=input_ids.device)
    rows = torch.arange(len(input_ids), device=input_ids.device)

    def logits(arguments: dict[str, Any]) -> Tensor:
        if not is_causal_lm(model):
            return model(**arguments).logits[rows, chosen]
        inner = causal_lm(model)
        hidden = backbone(inner)(**arguments, use_cache=False).last_hidden_state[rows, last]
        return output_head(inner).module(hidden)[rows, chosen]

    arguments: dict[str, Any] = {"input_ids": input_ids, "attention_mask": real.long()}
    if is_causal_lm(model):
        arguments["position_ids"] = (real.long().cumsum(dim=1) - 1).clamp(min=0)
    return _one_backward(model, lambda: logits(arguments))


def _one_backward(model: nn.Module, logits: Callable[[], Float[Tensor, "batch"]]) -> Contributions:
    """Run the linearised model once forwards and once backwards."""
    layers, embedded, values = _layers(model), [], []
    biases = {name: p for name, p in model.named_parameters() if name.rpartition(".")[2] == "bias"}
    wanted = {name: p.requires_grad for name, p in biases.items()}

    def begin(_module: nn.Module, given: tuple) -> tuple:
        embedded.append(given[0].detach().requires_grad_())
        return (embedded[0], *given[1:])

    def keep(_module: nn.Module, _given: Any, output: Tensor) -> None:
        values.append(output)

    hooks = [layers[0].register_forward_pre_hook(begin)]
    value: Any = getattr(getattr(getattr(layers[0], "attention", None), "self", None), "value", None)
    if (
        value is not None
    ):  # of the BERT kind, where the first layer's value bias belongs to the token (DecompX)
        hooks.append(value.register_forward_hook(keep))
    try:
        for parameter in biases.values():
            parameter.requires_grad_(True)
        with evaluation_mode(model), linearised(model), torch.enable_grad():
            logit = logits()
            found = torch.autograd.grad(
                logit.sum(), [embedded[0], *values, *biases.values()], allow_unused=True
            )
    finally:
        for hook in hooks:
            hook.remove()
        for name, parameter in biases.items():
            parameter.requires_grad_(wanted[name])
    tokens = (found[0] * embedded[0].detach()).sum(dim=-1, dtype=_precise(logit))
    if values:
        tokens = tokens + (found[1] * value.bias.detach()).sum(dim=-1, dtype=_precise(logit))
    logit = logit.detach().to(tokens.dtype)
    of_biases = math.fsum(
        float((gradient * parameter.detach()).sum(dtype=tokens.dtype))
        for gradient, (name, parameter) in zip(found[1 + len(values) :], biases.items(), strict=True)
        if gradient is not None and parameter is not (value.bias if values else None)
    )
    bias = logit - tokens.sum(dim=1)
    _require_complete(model, float(bias.sum()), of_biases, logit)
    return Contributions(tokens, bias, logit)


def _precise(logit: Tensor) -> torch.dtype:
    return torch.promote_types(logit.dtype, torch.float32)


def _require_complete(model: nn.Module, remainder: float, of_biases: float, logit: Tensor) -> None:
    """What the tokens leave of the logits must be what the biases give."""
    near = 1e-3 if torch.finfo(next(model.parameters()).dtype).bits >= 32 else 5e-2
    size = float(logit.abs().sum()) + abs(of_biases) + 1.0
    if abs(remainder - of_biases) > near * size:
        raise UserError(
            f"the contributions in {type(model).__name__} leave {remainder:.4g} of the logits, and its biases give {of_biases:.4g}: it has a "
            "nonlinearity that is not known, so it cannot be made linear."
        )


def class_of(logits: Float[Tensor, "classes"], target: Sequence[int]) -> int:
    """The class that is asked about, by default the predicted one."""
    if not target:
        return int(logits.argmax())
    if not 0 <= target[0] < len(logits):
        raise UserError(f"class {target[0]} is out of range: the model has 0 to {len(logits) - 1}.")
    return target[0]


def linear_contributions(questions: Sequence[Question]) -> list[TokenScores]:
    """The contributions in each text to the logit of the answer's first token, or of the class, by one backward pass for all."""
    model: Any = questions[0].model
    ids, real = stacked(questions)
    targets = [question.target[:1] for question in questions]
    if not is_causal_lm(model):
        with evaluation_mode(model), torch.no_grad():
            logits = model(input_ids=ids, attention_mask=real.long()).logits
        targets = [(class_of(row, target),) for row, target in zip(logits, targets, strict=True)]
    found = contributions(model, ids, [target for (target,) in targets], real)
    return [
        TokenScores(row[: len(question.context)], forwards=2)
        for row, question in zip(found.tokens, questions, strict=True)
    ]
