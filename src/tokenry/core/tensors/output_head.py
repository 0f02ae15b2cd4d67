"""From hidden states to logits: the output head of a language model, as a matrix, as layers and a matrix, or as its own forward.

    logits = softcap · tanh(scale · (layers(hidden) @ weight.T + bias) / softcap) / temperature

Masked language models have layers before the matrix (dense, activation, norm), each under names of its own; a model that does still more
with its hidden states computes its logits with its own forward. `check_output_head` finds out.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from tokenry.core.errors import UserError
from tokenry.core.tensors.modes import evaluation_mode


@dataclass(frozen=True)
class OutputHead:
    """The map from hidden states to logits of one language model.

    `module` maps a row of hidden states, after `layers` where there are any, to raw logits, which are then multiplied by `scale`,
    soft-capped and divided by `temperature`.
    """

    module: nn.Module
    vocabulary: int
    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0
    layers: nn.Module | None = None

    @cached_property
    def linear(self) -> nn.Linear | None:
        """The module itself where it is a plain matrix: the gradients then need no autograd.

        An adapter on the head, a quantised or an offloaded head keeps its own forward instead.
        """
        # Not the type: fully_shard makes a subclass, and offloading hooks replace the forward of the instance.
        plain = getattr(self.module.forward, "__func__", None) is nn.Linear.forward
        known = plain and type(self.module.weight) in (nn.Parameter, Tensor, DTensor)
        return self.module if known and self.layers is None else None  # type: ignore[return-value]

    @property
    def is_plain(self) -> bool:
        """Whether hidden states meet the head as they are; else the rest of the model's forward is between them."""
        return self.layers is None and not isinstance(self.module, _RestOfForward)

    def split(self, rows: Float[Tensor, "rows dim"]) -> "tuple[Float[Tensor, 'rows width'], OutputHead]":
        """Apply the layers, and return the rows with the head that is left: mostly a matrix, whose gradients need no autograd."""
        return (rows, self) if self.layers is None else (self.layers(rows), replace(self, layers=None))

    def logits(self, rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows vocabulary"]:
        """Compute the logits of `rows` with a graph, in float32 (float64 for a float64 model)."""
        raw: Tensor = self.module(rows if self.layers is None else self.layers(rows))
        logits = raw.to(accumulation_dtype(raw.dtype))
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits if self.temperature == 1.0 else logits / self.temperature

    def scratch_logits(self, rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows vocabulary"]:
        """Compute the logits of `rows` without a graph; the caller may overwrite them where the head is a plain matrix."""
        linear = self.linear
        if linear is None:
            return self.logits(rows)
        matrix = matmul_operand(linear.weight)
        return self.matrix_logits(rows.to(matrix.dtype), matrix, linear.bias)

    def matrix_logits(
        self,
        rows: Float[Tensor, "rows dim"],
        matrix: Float[Tensor, "vocabulary dim"],
        bias: Float[Tensor, "vocabulary"] | None,
    ) -> Float[Tensor, "rows vocabulary"]:
        """Compute the logits of a plain matrix in a fresh float32 buffer, in place after the product."""
        with torch.autocast(rows.device.type, enabled=False):
            logits = (
                torch.mm(rows, matrix.t())
                if bias is None
                else torch.addmm(bias.to(rows.dtype), rows, matrix.t())
            )
        logits = logits.to(accumulation_dtype(logits.dtype))
        if self.scale != 1.0:
            logits *= self.scale
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        if self.temperature != 1.0:
            logits /= self.temperature
        return logits

    def in_forward(self, rows: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Run `compute(rows)`, in the place of the head's own forward where its matrix is sharded (a unit of FSDP2, ZeRO-3).

        The hooks around that forward gather the matrix: once, and on every rank alike, however many chunks a rank needs.
        """
        linear = self.linear
        if linear is None or (type(linear.weight) is not DTensor and linear.weight.numel()):
            return compute(rows)
        linear.forward = compute  # type: ignore[assignment, method-assign]
        try:
            gathered: Tensor = linear(rows)
            return gathered
        finally:
            del linear.forward


def matmul_operand(weight: Tensor) -> Tensor:
    """The head's matrix in the dtype that a matrix product would use here: autocast's where it is on."""
    device = weight.device.type
    return weight.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else weight


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of logits and sums: float32, or float64 for a float64 model."""
    return torch.promote_types(dtype, torch.float32)


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """Find the transformers language model inside PEFT, DDP and other wrappers.

    Raises:
        UserError: there is no model with an output head.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.get_output_embeddings() is not None:
            return module
    raise UserError(
        f"{type(model).__name__} has no output head: a causal language model (AutoModelForCausalLM) is needed."
    )


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether a model of transformers reads its prompt in an encoder (T5, BART) and writes the answer in a decoder."""
    inner = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    return bool(inner is not None and getattr(inner.config, "is_encoder_decoder", False))


def backbone(model: nn.Module) -> nn.Module:
    """The part of a causal language model that maps token ids to hidden states: the model without its output head.

    Raises:
        UserError: the model has no output head, or no part apart from it.
    """
    inner = causal_lm(model)
    # A few classes bear the prefix of a model that they are a part of; their backbone is called `model` like all others.
    found: nn.Module = inner.base_model if inner.base_model is not inner else getattr(inner, "model", inner)
    if found is inner:
        raise UserError(
            f"{type(inner).__name__} has no backbone apart from its output head, so per-token losses cannot be computed."
        )
    return found


def output_head(model: nn.Module) -> OutputHead:
    """Read how a transformers causal language model makes logits: head, scale and soft-cap, or the rest of its own forward.

    Scales go by several names: `logit_scale` (Cohere), `logits_scaling` (Granite, divides), `lm_head_multiplier` (Falcon-H1).
    What these do not explain was found by `check_output_head`.

    Raises:
        UserError: the model has no output head.
    """
    inner = causal_lm(model)
    return _HEADS[getattr(inner, _HEAD, "plain")](inner)


@torch.no_grad()
def check_output_head(
    model: nn.Module, input_ids: Int[Tensor, "1 seq"] | None = None, logits: Tensor | None = None
) -> None:
    """Compare the logits that `output_head` explains with the model's own on a few tokens, and note what explains them.

    A head behind further layers (BERT, RoFormer) is known by them from then on; logits that are scaled in a way of the model's own are
    computed by its own forward. A model that does more would be trained on the wrong loss in silence.

    Args:
        model: a causal or masked language model, wrapped or not, that can run; in evaluation mode if dropout is to be off.
        input_ids: the few tokens; by default those of `short_text`.
        logits: what the model says about them, where it is known.

    Raises:
        UserError: neither explains the model's logits, or they are not finite.
    """
    inner = causal_lm(model)
    body = backbone(inner)
    with evaluation_mode(inner), _unwrapped_forward(inner):
        ids = short_text(inner) if input_ids is None else input_ids
        expected = (inner(input_ids=ids, use_cache=False).logits if logits is None else logits)[0]
        rows = body(input_ids=ids, use_cache=False).last_hidden_state[0]
        if not bool(torch.isfinite(expected).all()):
            raise UserError(
                f"the logits of {type(inner).__name__} are not finite on a few tokens: its weights are damaged, load another copy, or its "
                "training has diverged; try a lower learning rate."
            )
        # In another order: what belongs to the place of a token, or to its neighbours, is no map from its hidden state.
        order = torch.arange(len(rows) - 1, -1, -1, device=rows.device)
        rows, expected = rows[order], expected[order.to(expected.device)]
        plain, own = _plain_head(inner), _through_forward(inner)
        is_plain, is_own = _explains(plain, rows, expected), _explains(own, rows, expected)
        if is_plain and is_own:
            # A soft-cap hardly bends the logits of a few tokens: it shows in hidden states that are many times larger.
            large = rows * (_LARGE_LOGITS / expected.float().abs().max().clamp(min=1e-6)).to(rows)
            bent = _logits_or_none(own, large)
            is_plain = bent is None or not bool(bent.isfinite().all()) or _explains(plain, large, bent)
        if not is_plain and not is_own:
            raise UserError(
                f"{type(inner).__name__} computes its logits in a way that tokenry does not know (not from the hidden state of "
                "the token before alone): per-token losses would be wrong, so this model cannot be used."
            )
        if is_plain:
            found = "plain"
        else:
            found = "layers" if _explains(_behind_layers(inner), rows, expected) else "own"
    setattr(inner, _HEAD, found)


@contextmanager
def _unwrapped_forward(inner: nn.Module) -> Iterator[None]:
    """The model's own forward where accelerate, in a training that is over, put mixed precision around it: its backbone runs without."""
    wrapped, own = vars(inner).get("forward"), vars(inner).get("_original_forward")
    if wrapped is None or own is None:
        yield
        return
    inner.forward = own
    try:
        yield
    finally:
        inner.forward = wrapped


def short_text(model: nn.Module, tokens: int = 6) -> Int[Tensor, "1 seq"]:
    """Different tokens to try a model out on: none that its config gives a role (padding, image, end, …), where it has enough."""
    inner = causal_lm(model)
    config = inner.config.get_text_config()
    roles = {
        number
        for settings in (inner.config, config)
        for name, value in settings.to_dict().items()
        if name.endswith(("_token_id", "_token_index"))
        for number in (value if isinstance(value, list) else [value])
        if isinstance(number, int)
    }
    # From the middle of the vocabulary: the first and the last ids are often such that no text has.
    middle = config.vocab_size // 3
    numbers = itertools.chain(range(middle, config.vocab_size), range(middle))
    ordinary = (number for number in numbers if number not in roles)
    found = list(itertools.islice(ordinary, tokens)) or [0]
    return torch.tensor([(found * tokens)[:tokens]], device=next(inner.parameters()).device)


# The attribute of a model that says which of `_HEADS` explains its logits; copies of the model bear it too.
_HEAD = "_tokenry_head"
_LARGE_LOGITS = 50.0


def _plain_head(inner: PreTrainedModel) -> OutputHead:
    config = inner.config.get_text_config()
    scale = 1.0
    for name, power in (("logit_scale", 1), ("lm_head_multiplier", 1), ("logits_scaling", -1)):
        value = getattr(config, name, None)
        if value is not None:
            scale *= float(value) ** power
    return OutputHead(
        module=inner.get_output_embeddings(),
        vocabulary=config.vocab_size,
        scale=scale,
        softcap=getattr(config, "final_logit_softcapping", None),
    )


def _behind_layers(inner: PreTrainedModel) -> OutputHead:
    head = _plain_head(inner)
    # A head of several matrices begins with layers too: only the last of them meets the vocabulary.
    matrix = [module for module in head.module.modules() if isinstance(module, nn.Linear)][-1:]
    return replace(head, module=matrix[0], layers=_LayersBefore(inner, matrix[0])) if matrix else head


def _through_forward(inner: PreTrainedModel) -> OutputHead:
    return OutputHead(module=_RestOfForward(inner), vocabulary=inner.config.get_text_config().vocab_size)


class _RestOfForward(nn.Module):
    """What a model does with its hidden states: its own forward, in which the backbone gives `rows` instead of computing."""

    def __init__(self, inner: PreTrainedModel) -> None:
        super().__init__()
        self._inner = (inner,)  # in a tuple, as it is no part of this module

    def forward(self, rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows vocabulary"]:
        (inner,) = self._inner
        body = backbone(inner)
        # Some models call the decoder in a wrapper, past the wrapper's own forward.
        parts: list[Any] = [body]
        if isinstance(getattr(body, "decoder", None), nn.Module):
            parts.append(body.decoder)
        before = [vars(part).get("forward") for part in parts]
        known = _HiddenStates(last_hidden_state=rows[None])
        ids = torch.zeros(1, rows.shape[0], dtype=torch.long, device=rows.device)
        try:
            for part in parts:
                part.forward = lambda *args, **kwargs: known
            logits: Tensor = inner.forward(input_ids=ids, use_cache=False).logits[0]
            return logits
        finally:
            for part, forward in zip(parts, before, strict=True):
                if forward is None:
                    del part.forward
                else:
                    part.forward = forward


class _LayersBefore(nn.Module):
    """What a model does with its hidden states before the matrix: its own forward, in which the matrix takes what it is given."""

    def __init__(self, inner: PreTrainedModel, matrix: nn.Linear) -> None:
        super().__init__()
        self._rest, self._matrix = (
            (_RestOfForward(inner),),
            (matrix,),
        )  # in tuples, as they are no part of this module

    def forward(self, rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows width"]:
        (rest,), (matrix,) = self._rest, self._matrix
        taken: list[Tensor] = []

        def take(given: Tensor) -> Tensor:
            taken.append(given)
            return given

        before = vars(matrix).get("forward")
        matrix.forward = take  # type: ignore[assignment, method-assign]
        try:
            rest(rows)
        finally:
            del matrix.forward
            if before is not None:
                matrix.forward = before  # type: ignore[method-assign]
        return taken[0].reshape(len(rows), taken[0].shape[-1])


@dataclass
class _HiddenStates(ModelOutput):
    """The output of a backbone of any kind: hidden states, and None for all else that is asked of it."""

    last_hidden_state: Tensor | None = None

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def _explains(head: OutputHead, rows: Tensor, expected: Tensor) -> bool:
    """Whether `head` gives these logits, as nearly as their dtype allows."""
    found = _logits_or_none(head, rows)
    if found is None or found.shape[-1] < expected.shape[-1]:
        return False
    nearness = 1e-4 if rows.dtype.itemsize >= 4 else 1e-2
    found, expected = found[:, : expected.shape[-1]].to(expected.device), expected.to(found.dtype)
    largest = float(expected.abs().max())
    return torch.allclose(found, expected, atol=nearness * largest + 1e-6, rtol=nearness)


def _logits_or_none(head: OutputHead, rows: Tensor) -> Tensor | None:
    try:
        return head.logits(rows)
    except torch.OutOfMemoryError:
        raise
    except Exception:
        # A head of another width, or a forward that asks more of its backbone than hidden states: said in many ways.
        return None


_HEADS: dict[str, Callable[[PreTrainedModel], OutputHead]] = {
    "plain": _plain_head,
    "layers": _behind_layers,
    "own": _through_forward,
}
