"""Forwards in which each new token sees the tokens that it is told to see, at a position of its own: branches of a tree, blocks, drafts.

    tree = TreeAttention(model)
    tree.read(prompt)                          # (batch, new, dim): plain causal, positions 0, 1, …
    tree.read(draft, positions, sees)          # sees[row, new, other]: of what is kept, then of what is new
    tree.keep(places)                          # what later tokens may see; the others are forgotten

    mask[new, other] = sees[new, other] and other is within the window of new        (one mask for each kind of layer)

Keys and values are kept by a cache that was made without the model's config: one made from it forgets what leaves the window, and places
then mean something else in each layer. Recurrent states cannot be taken back by tokens, so models with such layers are refused.

Source: tree attention as in SpecInfer (arXiv 2305.09781), section 4.2.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.utils.generic import is_flash_attention_requested

from tokenry.core.errors import UserError
from tokenry.core.tensors.gate import name_of
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.output_head import backbone, causal_lm, short_text

_WINDOWS = {
    "full_attention": None,
    "sliding_attention": "sliding_window",
    "chunked_attention": "attention_chunk_size",
}
"""The kinds of layers that can be told what to see, and the setting that holds the size of their window."""


class TreeAttention:
    """A causal language model of transformers, and what it has read so far, in the rows of one batch.

    Args:
        model: causal language model, wrapped or not; its weights must not change while what was read is used.

    Attributes:
        tokens: number of tokens that are kept in each row, padding included.
        real: tokens that belong to their row; the others are padding, which nothing sees.

    Raises:
        UserError: the model has layers that cannot be told what to see (`require_tree_attention` also asks the model itself).
    """

    def __init__(self, model: nn.Module) -> None:
        if reason := _obstacle(model):
            raise UserError(reason)
        inner = causal_lm(model)
        self._backbone, self._windows = backbone(inner), attention_windows(inner.config.get_text_config())
        self._dtype = next(inner.parameters()).dtype
        self._cache, self._all_real = DynamicCache(), True
        self.tokens = 0
        self.positions: Tensor = torch.empty(0, 0, dtype=torch.long)
        self.real: Tensor = torch.empty(0, 0, dtype=torch.bool)

    def read(
        self,
        new: Int[Tensor, "batch new"] | Float[Tensor, "batch new dim"],
        positions: Int[Tensor, "batch new"] | None = None,
        sees: Bool[Tensor, "#batch new all"] | None = None,
        real: Bool[Tensor, "batch new"] | None = None,
    ) -> Float[Tensor, "batch new dim"]:
        """Read tokens and keep their keys and values; returns the hidden states that meet the head.

        Args:
            new: token ids, or embeddings in their place.
            positions: of the new tokens; None where they follow what is kept.
            sees: what each new token sees, of the kept tokens and then of the new ones; itself always, padding never. None for all that
                comes before it.
            real: new tokens that belong to their row (a prompt is padded on the left); None for all.
        """
        if not self.tokens:
            self.positions = torch.empty(len(new), 0, dtype=torch.long, device=new.device)
            self.real = self.positions.bool()
        if real is None:
            real = torch.ones(new.shape[:2], dtype=torch.bool, device=new.device)
        else:
            self._all_real = self._all_real and bool(real.all())
        is_plain = sees is None and not (self._windows and (self.tokens or positions is not None))
        if positions is None:
            positions = (self.real.sum(1, keepdim=True) + real.cumsum(1) - 1).clamp(min=0)
        self.positions, self.real = torch.cat([self.positions, positions], 1), torch.cat([self.real, real], 1)
        output = self._backbone(
            **{"input_ids" if new.ndim == 2 else "inputs_embeds": new},
            position_ids=positions,
            attention_mask=None if is_plain and self._all_real else self._masks(sees),
            past_key_values=self._cache,
            use_cache=True,
        )
        self.tokens = self.positions.shape[1]
        hidden_states: Tensor = output.last_hidden_state
        return hidden_states

    def keep(self, places: Int[Tensor, "batch kept"], real: Bool[Tensor, "batch kept"] | None = None) -> None:
        """Keep these of the tokens that were read, in this order, and forget the others.

        A row that keeps fewer than another is filled up with any place, and False in `real`.
        """
        for layer in self._cache.layers:
            if layer.keys is not None and layer.keys.numel():
                layer.keys, layer.values = _at(places, layer.keys), _at(places, layer.values)
        self.positions, self.real = self.positions.gather(1, places), self.real.gather(1, places)
        if real is not None:
            self.real = self.real & real
        self.tokens, self._all_real = places.shape[1], bool(self.real.all())

    def crop(self, kept: int) -> None:
        """Keep the first tokens that were read, the same number in each row: `keep` without gathering."""
        for layer in self._cache.layers:
            if layer.keys is not None and layer.keys.numel():
                layer.keys, layer.values = layer.keys[:, :, :kept], layer.values[:, :, :kept]
        self.positions, self.real, self.tokens = self.positions[:, :kept], self.real[:, :kept], kept
        self._all_real = bool(self.real.all())

    def _masks(self, sees: Bool[Tensor, "rows new all"] | None) -> Tensor | dict[str, Tensor]:
        """What is added to the attention, from what new tokens see: padding never, themselves always."""
        positions, known = self.positions, self.tokens
        places = torch.arange(positions.shape[1], device=positions.device)
        allowed = (places <= places[known:, None])[None] if sees is None else sees.to(positions.device)
        if not self._all_real:
            allowed = allowed & self.real[:, None]
        allowed = allowed | (places == places[known:, None])
        return attention_masks(allowed, positions[:, known:], positions, self._windows, self._dtype)


def attention_masks(
    allowed: Bool[Tensor, "rows new all"],
    new: Int[Tensor, "texts new"],
    known: Int[Tensor, "texts all"],
    windows: Mapping[str, int | None],
    dtype: torch.dtype,
) -> Tensor | dict[str, Tensor]:
    """What is added to the attention in each kind of layer: nothing where a token sees another, the lowest number elsewhere.

    Not True and False: eager attention would add 1 and 0.

    Args:
        allowed: what each new token sees as far as windows let it.
        new: positions of the new tokens.
        known: positions of all tokens, the new ones last.
        windows: from `attention_windows`.
    """
    if not windows:
        return _added(allowed, dtype)
    behind, at = new[:, :, None], known[:, None]
    near: dict[str, Callable[[int], Tensor]] = {
        "sliding_attention": lambda size: behind - at < size,
        "chunked_attention": lambda size: behind // size == at // size,
    }
    masks = {
        kind: _added(allowed & near[kind](size) if size else allowed, dtype) for kind, size in windows.items()
    }
    return masks if len(masks) > 1 else next(iter(masks.values()))


def require_tree_attention(model: nn.Module) -> None:
    """Refuse a model that cannot be told what its tokens see: by the kinds of its layers, then by asking it.

    Raises:
        UserError: recurrent layers, flash attention, or a model that answers otherwise than it does by itself.
    """
    if not attends_as_told(model):
        raise UserError(
            _obstacle(model)
            or f"{name_of(causal_lm(model))} ({type(causal_lm(model)).__name__}) does not attend as it is told to: on a few tokens, a mask of "
            "its own for each token gives other hidden states than the plain forward. Take a model with rotary or learned positions."
        )


def attends_as_told(model: nn.Module) -> bool:
    """Ask a model whether its tokens see what they are told to: two branches of a tree, in two steps, against a row for each."""
    if _obstacle(model):
        return False
    inner = causal_lm(model)
    ids = short_text(inner, 5)
    # The first token, two branches after it, and a token after each branch; the branches change places in between.
    rows = ids[0, [[0, 2, 3], [0, 1, 4]]]
    branches, leaves, order = (
        torch.tensor([value], device=ids.device)
        for value in ([[1, 0, 0], [1, 1, 0], [1, 0, 1]], [[1, 1, 0, 1, 0], [1, 0, 1, 0, 1]], [0, 2, 1])
    )
    try:
        with evaluation_mode(inner), torch.no_grad():
            tree = TreeAttention(inner)
            first = tree.read(ids[:, :3], order.clamp(max=1), branches.bool())[0]
            tree.keep(order)
            last = tree.read(ids[:, 3:], torch.full_like(ids[:, 3:], 2), leaves.bool())[0]
            mask = torch.ones_like(rows)
            expected = backbone(inner)(input_ids=rows, attention_mask=mask, use_cache=False).last_hidden_state
    except torch.OutOfMemoryError:
        raise
    except Exception:
        # A model that takes no such mask, positions or cache raises errors of its own.
        return False
    found = torch.stack([first[0], first[2], last[0], first[0], first[1], last[1]]).view_as(expected).float()
    tolerance = 1e-4 if expected.dtype.itemsize >= 4 else 3e-2
    return bool((found - expected.float()).norm() <= tolerance * expected.float().norm())


def _obstacle(model: nn.Module) -> str:
    """Why a model cannot be told what its tokens see, as far as it can be known from outside; empty if it may."""
    inner = causal_lm(model)
    called = f"{name_of(inner)} ({type(inner).__name__})"
    kinds = getattr(inner.config.get_text_config(), "layer_types", None) or ()
    recurrent = ["linear_attention"] if getattr(inner, "_is_stateful", False) else []
    other = [kind.replace("_", "-") for kind in [*recurrent, *kinds] if kind not in _WINDOWS]
    if other:
        named = other[0].replace("linear-attention", "linear-attention or state-space")
        return (
            f"{called} has {named} layers, whose state cannot be taken back token by token: give a "
            "model whose layers all attend, such as Llama, Qwen3, Gemma 3, Mistral or GPT-2."
        )
    if is_flash_attention_requested(inner.config):
        return f"{called} runs flash attention, which takes no mask of its own for each token: load it with attn_implementation='sdpa'."
    return ""


def attention_windows(config: Any) -> dict[str, int | None]:
    """The size of the window of each kind of layer; empty where no layer has one."""
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:
        kinds = {kind for kind, size in _WINDOWS.items() if size and getattr(config, size, None)} or {
            "full_attention"
        }
    sizes = {
        kind: getattr(config, name, None) if (name := _WINDOWS[kind]) else None for kind in sorted(kinds)
    }
    return sizes if len(sizes) > 1 or any(sizes.values()) else {}


def _added(allowed: Bool[Tensor, "rows new all"], dtype: torch.dtype) -> Float[Tensor, "rows 1 new all"]:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
        ~allowed, torch.finfo(dtype).min
    )[:, None]


def _at(
    places: Int[Tensor, "batch kept"], states: Float[Tensor, "batch heads tokens dim"]
) -> Float[Tensor, "batch heads kept dim"]:
    index = places.to(states.device)[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
    return states.gather(2, index)
