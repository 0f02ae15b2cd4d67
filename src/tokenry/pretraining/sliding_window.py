"""Sliding-window attention in blocks: every token sees `window / 2` tokens to either side, and global tokens see and are seen by all.

Longformer (arXiv 2004.05150), exactly, for the layers of `LongformerModel` and of the encoder of LED in transformers, whose own form
copies the scores several times. Blocks of w/4 queries (w/2 below a window of 256) meet the keys up to w/2 around them in one call of scaled
dot-product attention:

    allowed(i, j) = key j is a token  and  (|i − j| ≤ w/2  or  j is global)          with the ordinary projections
    row i global  = over all tokens, with projections of its own

so that memory and time grow with length · window.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.models.led.modeling_led import LEDEncoderSelfAttention
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

from tokenry.core.errors import UserError
from tokenry.core.tensors.handles import Handle


def require_window(window: int) -> None:
    """Raise `UserError` unless a window is even and at least 2."""
    if window < 2 or window % 2:
        raise UserError(
            f"window must be even and at least 2, got {window}: half of it lies on either side of a token."
        )


def sliding_window_mask(
    length: int,
    window: int,
    attention_mask: Int[Tensor, "batch seq"] | None = None,
    global_mask: Int[Tensor, "batch tokens"] | None = None,
) -> Bool[Tensor, "batch seq seq"]:
    """Which pairs of tokens may interact, as a whole matrix: the reference, for short texts."""
    require_window(window)
    places = torch.arange(length)
    near = (places[:, None] - places).abs() <= window // 2
    allowed, real = near[None], None if attention_mask is None else attention_mask.bool()
    if global_mask is not None:
        require_same_shape(global_mask, near[:1] if real is None else real)
        seen = global_mask.bool() if real is None else global_mask.bool() & real
        allowed = allowed.to(seen.device) | seen[:, :, None] | seen[:, None, :]
    if real is not None:
        allowed = allowed.to(real.device) & real[:, :, None] & real[:, None, :]
    return allowed


def require_same_shape(global_mask: Tensor, attention_mask: Tensor | None) -> None:
    """Raise `UserError` where the masks belong to other batches."""
    if attention_mask is not None and global_mask.shape != attention_mask.shape:
        raise UserError(
            f"the global mask has shape {tuple(global_mask.shape)} and the attention mask {tuple(attention_mask.shape)}: both need one "
            "value per token."
        )


def sliding_window_attention(
    q: Float[Tensor, "batch heads seq dim"],
    k: Float[Tensor, "batch heads seq dim"],
    v: Float[Tensor, "batch heads seq dim"],
    window: int,
    global_idx: Int[Tensor, "batch globals"] | None = None,
    attention_mask: Int[Tensor, "batch seq"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads seq dim"]:
    """Attend to the window around each token, and to the global tokens; scores are scaled by 1 / sqrt(dim).

    Args:
        q: queries.
        k: keys.
        v: values.
        window: tokens that each token sees, half of them on either side, besides itself.
        global_idx: places of the tokens that all see, −1 where a row has fewer; padding among them is ignored.
        attention_mask: 1 for tokens, 0 for padding; padding attends to nothing and gives zeros.
        dropout: of the attention weights.

    Returns:
        Attention of all rows by the ordinary projections; rows of global tokens are for `global_attention`.
    """
    require_window(window)
    batch, _, length, _ = q.shape
    half = min(window // 2, length)
    block = _block_size(half)
    blocks = -(-length // block)
    real = q.new_ones(batch, length, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    places, known = _places(real, global_idx)
    visible = _visible(real, places, known, half, block)
    queries = pad(q.transpose(1, 2), (0, 0, 0, 0, 0, blocks * block - length))
    attended = scaled_dot_product_attention(
        queries.unflatten(1, (blocks, block)).flatten(0, 1).transpose(1, 2),
        _around(k, places, half, block, blocks),
        _around(v, places, half, block, blocks),
        attn_mask=visible.flatten(0, 1)[:, None],
        dropout_p=dropout,
    )
    attended = (
        attended.transpose(1, 2).unflatten(0, (batch, blocks)).flatten(1, 2)[:, :length].transpose(1, 2)
    )
    return attended if attention_mask is None else attended.masked_fill(~real[:, None, :, None], 0.0)


def global_attention(
    q: Float[Tensor, "batch heads globals dim"],
    k: Float[Tensor, "batch heads seq dim"],
    v: Float[Tensor, "batch heads seq dim"],
    attention_mask: Int[Tensor, "batch seq"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads globals dim"]:
    """Attend from the global tokens to all tokens; the queries, keys and values are of projections of their own."""
    mask = None
    if attention_mask is not None:
        real = attention_mask.bool()
        real = real | ~real.any(1, keepdim=True)  # a row of padding alone: its output is not read
        mask = real[:, None, None, :]
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


def global_places(is_global: Bool[Tensor, "batch seq"]) -> Int[Tensor, "batch globals"]:
    """The places of the global tokens of each row, −1 where it has fewer than others."""
    most = int(is_global.sum(1).max()) if is_global.numel() else 0
    places = is_global.long().argsort(dim=1, descending=True, stable=True)[:, :most]
    return places.masked_fill(~is_global.gather(1, places), -1)


def _block_size(half: int) -> int:
    """Queries of a block: few see fewer keys in vain, and below 16 the kernels waste more than that."""
    return max(16, half // 2 if half >= 128 else half)


def _places(
    real: Bool[Tensor, "batch seq"], global_idx: Int[Tensor, "batch globals"] | None
) -> tuple[Int[Tensor, "batch globals"], Bool[Tensor, "batch globals"]]:
    """The places of the global tokens, and which of these slots hold one that is no padding."""
    if global_idx is None:
        global_idx = real.new_zeros(len(real), 0, dtype=torch.long)
    places = global_idx.clamp(min=0)
    return places, (global_idx >= 0) & real.gather(1, places)


def _around(
    states: Float[Tensor, "batch heads seq dim"],
    places: Int[Tensor, "batch globals"],
    half: int,
    block: int,
    blocks: int,
) -> Float[Tensor, "batch_blocks heads keys dim"]:
    """The keys or values of each block and to either side of it, and those of the global tokens behind them.

    The rows of a batch follow each other, so that all blocks are one view of their keys: what a block meets of other rows is never visible.
    """
    whole = states.transpose(1, 2)
    stream = pad(whole, (0, 0, 0, 0, 0, blocks * block - whole.shape[1])).flatten(0, 1)
    near = pad(stream, (0, 0, 0, 0, half, half)).unfold(0, block + 2 * half, block).transpose(2, 3)
    if not places.shape[1]:
        return near
    seen = whole.gather(1, places[:, :, None, None].expand(-1, -1, *whole.shape[2:])).transpose(1, 2)
    return torch.cat([near, seen.repeat_interleave(blocks, dim=0)], dim=2)


def _visible(
    real: Bool[Tensor, "batch seq"],
    places: Int[Tensor, "batch globals"],
    known: Bool[Tensor, "batch globals"],
    half: int,
    block: int,
) -> Bool[Tensor, "batch blocks block keys"]:
    """Which of the keys of its block each query sees."""
    blocks = -(-real.shape[1] // block)

    def near(tokens: Bool[Tensor, "batch seq"]) -> Bool[Tensor, "batch blocks 1 near"]:
        rest = blocks * block - tokens.shape[1]
        return pad(tokens, (half, half + rest)).unfold(1, block + 2 * half, block)[:, :, None]

    rows, slots = known.nonzero(as_tuple=True)
    seen_near = real.clone()
    seen_near[rows, places[rows, slots]] = False  # once, among the global ones
    row = torch.arange(block, device=real.device)[:, None] + half
    column = torch.arange(block + 2 * half, device=real.device)
    own = column == row  # padding sees itself: no row of scores is empty
    visible = (near(seen_near) & ((column - row).abs() <= half)) | (near(~real) & own)
    seen = known[:, None, None, :].expand(-1, blocks, block, -1)
    return torch.cat([visible, seen], dim=-1)


def has_sliding_windows(model: nn.Module) -> bool:
    """Whether a model has layers that `SlidingWindow` makes faster."""
    return any(type(module) in _FAST for module in model.modules())


class SlidingWindow(Handle):
    """The fast attention on a model, until `remove()`; its weights and its outputs stay what they are.

    Args:
        model: a Longformer or an LED, with any head.

    Raises:
        UserError: the model has no sliding-window attention.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        if not has_sliding_windows(model):
            raise UserError(
                f"{type(model).__name__} has no sliding-window attention that is to be made faster: Longformer and LED have."
            )
        self._layers = [module for module in model.modules() if type(module) in _FAST]
        self._on_removal(self._restore)
        for layer in self._layers:
            layer.__class__ = _FAST[type(layer)]

    def _restore(self) -> None:
        for layer in self._layers:
            layer.__class__ = type(layer).__mro__[2]

    def _method(self) -> str:
        return f"sliding windows in {len(self._layers)} layers"


class _InBlocks:
    """The forward of a layer of sliding-window attention, by `sliding_window_attention`."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        is_index_masked: Tensor | None = None,
        is_index_global_attn: Tensor | None = None,
        is_global_attn: bool | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, ...]:
        """Attend; where the weights are asked for, in transformers' own form."""
        if output_attentions:
            given = (
                hidden_states,
                attention_mask,
                is_index_masked,
                is_index_global_attn,
                is_global_attn,
                True,
            )
            plain: tuple[Tensor, ...] = super().forward(*given)  # type: ignore[misc]
            return plain
        real = None if is_index_masked is None or not is_index_masked.any() else (~is_index_masked).long()
        places = None
        if is_global_attn and is_index_global_attn is not None:
            places = global_places(
                is_index_global_attn if real is None else is_index_global_attn & (real > 0)
            )
        dropout = self.dropout if self.training else 0.0
        q, k, v = (self._heads(project(hidden_states)) for project in (self.query, self.key, self.value))
        attended = sliding_window_attention(
            q, k, v, 2 * self.one_sided_attn_window_size, places, real, dropout
        )
        joined = attended.transpose(1, 2).flatten(2)
        if places is not None and places.shape[1]:
            rows, slots = (places >= 0).nonzero(as_tuple=True)
            own = hidden_states.gather(
                1, places.clamp(min=0)[..., None].expand(-1, -1, hidden_states.shape[2])
            )
            key, value = self.key_global(hidden_states), self.value_global(hidden_states)
            q, k, v = (self._heads(states) for states in (self.query_global(own), key, value))
            seen = global_attention(q, k, v, real, dropout).transpose(1, 2).flatten(2)
            joined = joined.index_put((rows, places[rows, slots]), seen[rows, slots].to(joined.dtype))
        return (joined,)

    def _heads(self: Any, states: Tensor) -> Float[Tensor, "batch heads seq dim"]:
        return states.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)


class _LongformerInBlocks(_InBlocks, LongformerSelfAttention):
    pass


class _LedInBlocks(_InBlocks, LEDEncoderSelfAttention):
    pass


_FAST: dict[type, type[nn.Module]] = {
    LongformerSelfAttention: _LongformerInBlocks,
    LEDEncoderSelfAttention: _LedInBlocks,
}
