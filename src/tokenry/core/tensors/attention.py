"""Read attention inside any transformers model: a tap on each call of its attention function, and the mass paid to chosen columns.

Every modern transformers model asks the attention interface for its attention function at each call (`get_interface`), whatever
kernel stands behind it; a tap sits there, so masks, rotary variants, q/k norms, grouped heads, windows and soft-caps are the model's own.
mass = softmax(QK^T) @ indicator(columns): the model's function called again with indicators as values, so no seq x seq matrix is made.

Source: the attention score of ssToken (arXiv 2510.18250): a_i = 1/H sum_h sum_{j in prompt} A^h[i, j].
"""

import inspect
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.module_tracker import ModuleTracker
from transformers import PreTrainedModel
from transformers.utils.generic import is_flash_attention_requested

from tokenry.core.errors import UserError
from tokenry.core.tensors.handles import replaced

_INTERFACE = "ALL_ATTENTION_FUNCTIONS"


@dataclass(frozen=True)
class AttentionCall:
    """One call of a model's attention function; `function(module, query, key, value, attention_mask, **kwargs)` repeats it.

    `attention_mask` is whatever the implementation takes: None (causal by `module.is_causal`), a bool or additive
    (batch, 1, queries, keys) tensor, a (batch, keys) padding mask, or a block mask. The function returns a pair whose first
    entry is the output, (batch, queries, query_heads, value_dim).
    """

    module: nn.Module
    query: Float[Tensor, "batch query_heads queries head_dim"]
    key: Float[Tensor, "batch key_heads keys head_dim"]
    value: Float[Tensor, "batch key_heads keys value_dim"]
    attention_mask: Any
    function: Callable[..., Any]
    kwargs: dict[str, Any]


Reader = Callable[[AttentionCall], None]
Answer = Callable[[AttentionCall], tuple[Tensor, Tensor | None]]
"""Computes a call's (output, weights or None) in the place of the model's own function, with gradients."""


def interface_forward(module: nn.Module) -> FunctionType | None:
    """The `forward` (own or inherited) that looks its attention function up in the interface; its globals hold that interface."""
    for owner in type(module).__mro__:
        forward = inspect.unwrap(vars(owner).get("forward", interface_forward))
        if isinstance(forward, FunctionType) and _INTERFACE in forward.__code__.co_names:
            return forward
    return None


# The open taps. The interface is replaced only while there are some; `_intercepted` holds what restores it.
_lock = threading.Lock()
_readers: dict[nn.Module, tuple[Reader, ...]] = {}
_answers: dict[nn.Module, Answer] = {}
_intercepted: list[tuple[Any, Callable[[], None]]] = []
_autograd = ModuleTracker()


@torch.compiler.disable  # compiled code would keep what is open for another layer or reading
def _attend(
    function: Callable[..., Any],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any = None,
    **kwargs: Any,
) -> Any:
    if module not in _readers and module not in _answers:
        return function(module, query, key, value, attention_mask, **kwargs)
    call = AttentionCall(module, query, key, value, attention_mask, function, kwargs)
    output = _answers.get(module, _own_answer)(call)
    _read(call)
    return output


def _own_answer(call: AttentionCall) -> Any:
    return call.function(call.module, call.query, call.key, call.value, call.attention_mask, **call.kwargs)


@torch.no_grad()
def _read(call: AttentionCall) -> None:
    if _autograd.is_bw:  # gradient checkpointing repeats the forward inside backward: it was read before
        return
    for reader in _readers.get(call.module, ()):
        reader(call)


def _tapped_lookup(
    lookup: Callable[..., Any], attn_implementation: str, default: Callable[..., Any]
) -> Callable[..., Any]:
    return partial(_attend, lookup(attn_implementation, default))


def _intercept(interface: Any) -> None:
    if any(interface is known for known, _ in _intercepted):
        return
    lookup = partial(_tapped_lookup, interface.get_interface)
    _intercepted.append((interface, replaced(interface, "get_interface", lookup)))


def _restore() -> None:
    while _intercepted:
        _, restore = _intercepted.pop()
        restore()


@contextmanager
def tap_attention(readers: Mapping[nn.Module, Reader]) -> Iterator[None]:
    """Call `readers[module]` after each attention call of that module, while the context is open.

    Nothing of the model changes: its mask creation and its output are those of the untapped model, gradients included. Readers run
    without gradient, and not again when gradient checkpointing repeats the forward inside backward. Taps nest, on one model or on
    several; the attention interface is as it was when the last one is closed, also after an exception.

    Args:
        readers: by attention module (see `attention_layers`), the reader of its calls.

    Raises:
        UserError: a module does not use the transformers attention interface.
    """
    with _interception(readers):
        with _lock:
            for module, reader in readers.items():
                _readers[module] = (*_readers.get(module, ()), reader)
        try:
            yield
        finally:
            with _lock:
                for module, reader in readers.items():
                    remaining = list(_readers.pop(module))
                    remaining.remove(reader)
                    if remaining:
                        _readers[module] = tuple(remaining)


@contextmanager
def answer_attention(answers: Mapping[nn.Module, Answer]) -> Iterator[None]:
    """Let `answers[module]` answer each attention call of that module, while the context is open.

        answer_attention({layer: lambda call: call.function(layer, call.query.detach(), ...) for layer in attention_layers(model)})

    Taps read the calls as before. Of several answers for one module, the innermost counts.

    Raises:
        UserError: a module does not use the transformers attention interface.
    """
    with _interception(answers):
        with _lock:
            before = {module: _answers[module] for module in answers if module in _answers}
            _answers.update(answers)
        try:
            yield
        finally:
            with _lock:
                for module in answers:
                    del _answers[module]
                _answers.update(before)


@contextmanager
def _interception(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Replace the interface that the modules look their attention function up in, until the last tap is closed."""
    interfaces = []
    for module in modules:
        forward = interface_forward(module)
        if forward is None:
            raise UserError(
                f"{type(module).__name__} does not call the transformers attention interface, so its attention cannot be read: "
                "tap the modules that attention_layers(model) returns."
            )
        interfaces.append(forward.__globals__[_INTERFACE])
    with _lock:
        for interface in interfaces:
            _intercept(interface)
    try:
        yield
    finally:
        with _lock:
            if not _readers and not _answers:
                _restore()


def attention_layers(model: nn.Module) -> list[nn.Module]:
    """The self-attention modules of a decoder-only model in layer order; `model` may be wrapped (PEFT, DDP, compiled).

    Layers without attention (state-space or linear ones of hybrid models) are not counted.

    Raises:
        UserError: the model's attention does not go through the transformers attention interface, or it is an encoder-decoder.
    """
    layers = {}
    for module in model.modules():
        index = getattr(module, "layer_idx", None)
        if index is None or interface_forward(module) is None:
            continue
        if index in layers:
            raise UserError(
                f"{_name(model)} has several attention modules in layer {index}: "
                "attention can be read in decoder-only models, so give one of those."
            )
        layers[index] = module
    if not layers:
        raise UserError(
            f"{_name(model)} computes attention outside the transformers attention interface, so its attention cannot be read: "
            "use a model that goes through it (such as Llama, Qwen, Gemma, Mistral, Phi or GPT-NeoX), or do without attention signals."
        )
    return [layers[index] for index in sorted(layers)]


def _name(model: nn.Module) -> str:
    inner = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), model)
    return type(inner).__name__


def resolve_layers(layers: int | str | Sequence[int], total: int) -> tuple[int, ...]:
    """Layer numbers in 0..total-1, each once, in the order given.

    Args:
        layers: one layer, several, or "deep" for the last third (rounded up); negative numbers count from the last layer.
        total: number of attention layers of the model.

    Raises:
        UserError: a layer is out of range, or `layers` is empty or another word.
    """
    if layers == "deep":
        return tuple(range(total - math.ceil(total / 3), total))
    chosen = [] if isinstance(layers, str) else [layers] if isinstance(layers, int) else list(layers)
    if not chosen:
        raise UserError(f'layers must be a layer number, several of them, or "deep", got {layers!r}.')
    for layer in chosen:
        if not -total <= layer < total:
            raise UserError(
                f"layer {layer} is out of range: the model has {total} attention layers, "
                f'so choose from {-total} to {total - 1}, or "deep" for the last third.'
            )
    return tuple(dict.fromkeys(layer % total for layer in chosen))


@dataclass
class AttentionMass:
    """By layer number, the attention mass in [0, 1] that each query row of each head pays to each set of columns.

    Rows of padding tokens hold junk (finite); ignore them.
    """

    by_layer: dict[int, Float32[Tensor, "batch heads seq sets"]] = field(default_factory=dict)


@contextmanager
def attention_mass(
    model: nn.Module, layers: int | str | Sequence[int], columns: Bool[Tensor, "batch sets seq"]
) -> Iterator[AttentionMass]:
    """Read, in the next forward of `model`, how much attention every row pays to each set of columns.

    mass[b, h, i, s] = sum_{j in columns[b, s]} softmax(QK^T)[b, h, i, j], of the attention before dropout. Costs one more call of the
    attention function per chosen layer and O(batch * heads * seq) memory. Works with any implementation (sdpa, eager, flash, flex),
    with padding on either side, packed rows, gradient checkpointing and in train mode; the forward must not reuse a key-value cache.
    The arithmetic is float32 or better; flash kernels keep their half precision (mass to about 3 digits).

    Args:
        model: a decoder-only model, plain or wrapped.
        layers: see `resolve_layers`.
        columns: key positions of each set, at most as many sets as a head has dimensions.

    Yields:
        An `AttentionMass`, filled by the forward; a second forward replaces what the first one left.

    Raises:
        UserError: a layer is out of range, the model's attention cannot be read, the shape of `columns` does not fit the batch, or
            no forward was run inside the context.
    """
    modules = attention_layers(model)
    chosen = resolve_layers(layers, len(modules))
    mass = AttentionMass()

    def reader(layer: int) -> Reader:
        def read(call: AttentionCall) -> None:
            mass.by_layer[layer] = _mass_on_columns(call, columns).float()

        return read

    with tap_attention({modules[layer]: reader(layer) for layer in chosen}):
        yield mass
    if unread := [layer for layer in chosen if layer not in mass.by_layer]:
        raise UserError(
            f"The attention of {_name(model)} was not read in layers {unread}: run the model inside the context, with an attention "
            'implementation that goes through the transformers attention interface (such as attn_implementation="sdpa").'
        )


class _OneKeyHeadPerQueryHead:
    """The attention module as its function sees it once the key heads have been repeated."""

    num_key_value_groups = 1

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The module's class, by which a patched model (`core.tensors.patching`) finds its attention function."""
        return type(self._module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _mass_on_columns(
    call: AttentionCall, columns: Bool[Tensor, "batch sets seq"]
) -> Float[Tensor, "batch heads seq sets"]:
    """One more call of the attention function, with the indicators of the columns in the first dimensions of the values."""
    batch, sets, seq = columns.shape
    head_dim = call.value.shape[-1]
    if sets > head_dim:
        raise UserError(f"at most {head_dim} sets of columns (the head size) are read at once, got {sets}.")
    if (batch, seq) != (attended := (call.key.shape[0], call.key.shape[2])):
        raise UserError(
            f"columns are for (batch, seq) = {(batch, seq)}, but the model attends over {attended}: "
            "give one column per token of the batch, and run the model without a filled cache."
        )
    flash = is_flash_attention_requested(call.module.config)
    module: Any = call.module
    query, key, attention_mask, kwargs = call.query, call.key, call.attention_mask, call.kwargs
    if not flash:
        # Fused float32 kernels on GPUs support no grouped heads and would fall back to a seq x seq matrix.
        module = _OneKeyHeadPerQueryHead(module)
        query, attention_mask = _widened(query), _widened(attention_mask)
        key = _widened(key).repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        kwargs = {name: _widened(option) for name, option in kwargs.items()}
    value = key.new_zeros((*key.shape[:-1], head_dim))
    value[..., :sets] = columns.to(key.device).transpose(1, 2).unsqueeze(1)
    device = query.device.type
    with torch.autocast(device, enabled=flash and torch.is_autocast_enabled(device)):
        output = call.function(module, query, key, value, attention_mask, **{**kwargs, "dropout": 0.0})[0]
    # A copy, so that the whole output is not kept alive.
    return _widened(output[..., :sets].transpose(1, 2).clone())


@torch.no_grad()
def attention_weights(call: AttentionCall) -> Float[Tensor, "batch heads queries keys"]:
    """All weights of a call after softmax, in float32 or better, whatever kernel computes them and whatever it masks or caps.

    The values are replaced by unit vectors, as many at once as a head has dimensions. Rows of padding tokens hold junk (finite).
    """
    keys = call.key.shape[2]
    columns = torch.eye(keys, dtype=torch.bool, device=call.key.device).expand(call.key.shape[0], -1, -1)
    blocks = columns.split(call.value.shape[-1], dim=1)
    return torch.cat([_mass_on_columns(call, block) for block in blocks], dim=-1)


def _widened(tensor: Any) -> Any:
    """Floating-point tensors in float32 (float64 stays); anything else unchanged."""
    if isinstance(tensor, Tensor) and tensor.is_floating_point():
        return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    return tensor


def prompt_attention(
    by_layer: Mapping[int, Float[Tensor, "batch heads seq 1"]], query_mask: Bool[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq"]:
    """Attention that each query token pays to the prompt: the ssToken signal, in [0, 1]; nan outside `query_mask`.

    a_i = 1/H sum_h sum_{j in prompt} A^h[i, j]; with several layers, their mean.

    Args:
        by_layer: from `attention_mass` with one set of columns, the prompt.
        query_mask: the query rows of interest (the response).

    Source: ssToken (arXiv 2510.18250), attention score.
    """
    score = torch.stack([mass[..., 0].mean(dim=1) for mass in by_layer.values()]).mean(dim=0)
    return score.masked_fill(~query_mask.to(score.device), torch.nan)


def sink_aware_prompt_attention(
    by_layer: Mapping[int, Float[Tensor, "batch heads seq 2"]], query_mask: Bool[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq"]:
    """Share of each row's attention off the sink that goes to the prompt's content, in [0, 1]; nan outside `query_mask`.

    a_i = mean over layers and heads of content^h_i / (1 - sink^h_i): the attention sink (the first token, template tokens) takes most of
    the mass and differs between heads, so each head is renormalised without it.

    Args:
        by_layer: from `attention_mass` with two disjoint sets of columns: content, sink.
        query_mask: the query rows of interest (the response).
    """
    scores = []
    for mass in by_layer.values():
        content, sink = mass.unbind(dim=-1)
        # A head that gives everything to the sink has nothing to share out: 0 / tiny = 0, never 0 / 0.
        scores.append((content / (1 - sink).clamp(min=1e-6)).clamp(max=1).mean(dim=1))
    score = torch.stack(scores).mean(dim=0)
    return score.masked_fill(~query_mask.to(score.device), torch.nan)


def prompt_attention_mass(
    q: Float[Tensor, "batch query_heads seq head_dim"],
    k: Float[Tensor, "batch key_heads seq head_dim"],
    prompt_mask: Bool[Tensor, "batch seq"],
    attention_mask: Bool[Tensor, "batch seq"] | Int[Tensor, "batch seq"] | None = None,
    segment_ids: Int[Tensor, "batch seq"] | None = None,
    query_mask: Bool[Tensor, "batch seq"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "batch seq"]:
    """Causal attention that each query row pays to the prompt columns, mean over heads, from queries and keys alone.

    a_i = 1/H sum_h sum_{j in prompt} softmax(scale * q_i^h k^h)_j over the real j <= i of the segment of i; query head h uses key head
    h // (query_heads / key_heads). In [0, 1], in float32 or better.

    Args:
        q: queries, with rotary embedding applied.
        k: keys, likewise.
        prompt_mask: the columns whose mass is asked for.
        attention_mask: non-zero at real tokens; None: all are real.
        segment_ids: tokens of packed rows attend within their segment only; None: one segment.
        query_mask: the rows that are asked about; None: the real rows that are not prompt. All other rows are nan.
        scale: of the dot products; None: 1 / sqrt(head_dim).

    Source: ssToken (arXiv 2510.18250), attention score.
    """
    batch, heads, seq, head_dim = q.shape
    real = torch.ones_like(prompt_mask) if attention_mask is None else attention_mask != 0
    visible = None
    if attention_mask is not None or segment_ids is not None:
        visible = real[:, None, None, :].expand(batch, 1, seq, seq).tril()
        if segment_ids is not None:
            visible = visible & (segment_ids[:, None, :, None] == segment_ids[:, None, None, :])
    q, k = _widened(q), _widened(k).repeat_interleave(heads // k.shape[1], dim=1)
    indicator = (prompt_mask & real).to(q.dtype)[:, None, :, None].expand(batch, heads, seq, head_dim)
    output = scaled_dot_product_attention(
        q, k, indicator, attn_mask=visible, is_causal=visible is None, scale=scale
    )
    asked = real & (~prompt_mask if query_mask is None else query_mask)
    return output[..., 0].mean(dim=1).masked_fill(~asked, torch.nan)
