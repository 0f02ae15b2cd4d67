"""Placeholders: rebuild a prompt so that every image has as many placeholders as visual tokens that remain.

A processor writes one `image_token_id` per visual token; the model puts the features there, image after image in row-major
order. A pruner or compressor that leaves fewer features must shorten the prompt to match:

    keep   = kept_columns(input_ids, image_token_id, tokens_per_image, kept)     which columns stay, (batch, seq) bool
    prompt = rebuild_prompt(inputs, keep)                                        every per-token entry, shortened alike

A compressor whose image j has `m` new features keeps the first `m` placeholders: `kept=[torch.arange(m)] * images`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tokenry.core.errors import UserError
from tokenry.core.tensors.alignment import IGNORED

Side = Literal["left", "right"]

# Entries that a processor (or the model's own code) makes per token, with their value at padding.
PER_TOKEN = {
    "input_ids": 0,
    "attention_mask": 0,
    "labels": IGNORED,
    "position_ids": 0,
    "token_type_ids": 0,
    "mm_token_type_ids": 0,
    "inputs_embeds": 0,
}


@dataclass(frozen=True)
class ShortPrompt:
    """A prompt with fewer image tokens.

    Attributes:
        inputs: the given inputs, every per-token entry shortened.
        columns: the column of the unshortened prompt that each token comes from, -1 at padding.
    """

    inputs: dict[str, Any]
    columns: Int[Tensor, "batch short"]


def placeholder_images(
    input_ids: Int[Tensor, "batch seq"], image_token_id: int, tokens_per_image: Sequence[int]
) -> Int[Tensor, "batch seq"]:
    """Number the image that every placeholder belongs to: 0, 1, … in reading order across all rows, -1 for text.

    Args:
        input_ids: the prompt as the processor wrote it.
        image_token_id: the placeholder (`model.config.image_token_id`).
        tokens_per_image: visual tokens of each image, in the order of the images.

    Raises:
        UserError: there are more or fewer placeholders than visual tokens, or an image goes over the end of a row.
    """
    placeholders = input_ids == image_token_id
    found, expected = int(placeholders.sum()), sum(tokens_per_image)
    if found != expected:
        raise UserError(
            f"the prompt has {found} image placeholders (token {image_token_id}) but the {len(tokens_per_image)} images have "
            f"{expected} visual tokens: pass what the processor returned for these images, unchanged."
        )
    images = torch.full_like(input_ids, -1)
    counts = torch.tensor(tokens_per_image, dtype=torch.long, device=input_ids.device)
    numbers = torch.arange(len(tokens_per_image), device=input_ids.device).repeat_interleave(counts)
    images[placeholders] = numbers.to(images.dtype)
    rows = torch.arange(len(input_ids), device=input_ids.device)[:, None].expand_as(input_ids)[placeholders]
    first_of_image = (counts.cumsum(0) - counts)[counts > 0]
    last_of_image = (counts.cumsum(0) - 1)[counts > 0]
    if bool((rows[first_of_image] != rows[last_of_image]).any()):
        raise UserError(
            "the placeholders of one image lie in two rows of the prompt: give every image its placeholders in one row."
        )
    return images


def kept_columns(
    input_ids: Int[Tensor, "batch seq"],
    image_token_id: int,
    tokens_per_image: Sequence[int],
    kept: Sequence[Int[Tensor, "_"]],
) -> Bool[Tensor, "batch seq"]:
    """Mask of the prompt's tokens that stay: all text, and of image j its placeholders number `kept[j]`.

    Args:
        input_ids: the prompt as the processor wrote it.
        tokens_per_image: visual tokens of each image, in the order of the images.
        kept: for each image, its tokens that stay, in any order.

    Raises:
        UserError: see `placeholder_images`; or a kept token that the image does not have.
    """
    if len(kept) != len(tokens_per_image):
        raise UserError(
            f"kept tokens are given for {len(kept)} images but there are {len(tokens_per_image)}: give one entry per image."
        )
    for number, (indices, tokens) in enumerate(zip(kept, tokens_per_image, strict=True)):
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < tokens:
            raise UserError(
                f"image {number} has tokens 0 to {tokens - 1}, so {int(indices.min())} to {int(indices.max())} cannot be kept."
            )
    placeholder_images(input_ids, image_token_id, tokens_per_image)
    stays = torch.zeros(sum(tokens_per_image), dtype=torch.bool, device=input_ids.device)
    start = 0
    for indices, tokens in zip(kept, tokens_per_image, strict=True):
        stays[start + indices.to(stays.device)] = True
        start += tokens
    keep = torch.ones_like(input_ids, dtype=torch.bool)
    keep[input_ids == image_token_id] = stays
    return keep


def rebuild_prompt(
    inputs: Mapping[str, Any],
    keep: Bool[Tensor, "batch seq"],
    padding_side: Side = "left",
    pad_token_id: int | None = None,
) -> ShortPrompt:
    """Shorten every per-token entry of a prompt to the kept tokens, padded again to one length.

    Known per-token entries are `input_ids`, `attention_mask`, `labels`, `position_ids` (also M-RoPE's, with leading axes),
    `token_type_ids`, `mm_token_type_ids` and `inputs_embeds`; everything else passes unchanged. Padding stays on the side it
    is on; columns in which no row has a token any more go away. Where rows come to differ in length and there was no
    attention mask, there is one now.

    Args:
        inputs: what the processor returned.
        keep: tokens that stay, see `kept_columns`.
        padding_side: where to pad if the prompt is not padded yet (generation needs `left`).
        pad_token_id: written at padding where the prompt has none yet; None writes 0.

    Raises:
        UserError: the attention mask is not (batch, seq).
    """
    mask = inputs.get("attention_mask")
    if mask is not None and mask.shape != keep.shape:
        raise UserError(
            f"attention_mask must have the shape of the prompt, {tuple(keep.shape)}, got {tuple(mask.shape)}: pass the "
            "processor's mask."
        )
    real = _without_padding(keep, mask)
    columns = _columns(keep & real, _side(real, padding_side))
    padded = columns < 0
    if mask is None and bool(padded.any()):
        inputs = {**inputs, "attention_mask": torch.ones_like(keep, dtype=torch.long)}
    fills = PER_TOKEN if pad_token_id is None else {**PER_TOKEN, "input_ids": pad_token_id}
    short = {
        name: _gather(name, value, columns, real, fills[name])
        if name in PER_TOKEN and isinstance(value, Tensor)
        else value
        for name, value in inputs.items()
    }
    return ShortPrompt(short, columns)


def _without_padding(keep: Bool[Tensor, "batch seq"], mask: Tensor | None) -> Bool[Tensor, "batch seq"]:
    """Everything between the first and the last attended token of a row: a hole inside is not padding."""
    if mask is None:
        return torch.ones_like(keep)
    attended = mask.bool().long()
    return (attended.cumsum(1) > 0) & (attended.flip(1).cumsum(1).flip(1) > 0)


def _side(real: Bool[Tensor, "batch seq"], otherwise: Side) -> Side:
    """The side on which rows are padded; a batch without padding has none."""
    if not bool(real[:, 0].all()):
        return "left"
    return "right" if not bool(real[:, -1].all()) else otherwise


def _columns(keep: Bool[Tensor, "batch seq"], side: Side) -> Int[Tensor, "batch short"]:
    """The kept columns of every row in order, moved to one side, -1 at padding."""
    counts = keep.sum(1)
    length = int(counts.max()) if len(counts) else 0
    order = (~keep).long().argsort(dim=1, stable=True)[:, :length]  # the kept ones first
    place = torch.arange(length, device=keep.device)
    columns = order.masked_fill(place >= counts[:, None], -1)
    if side == "right":
        return columns
    return columns.gather(1, (place - (length - counts)[:, None]) % max(length, 1))


def _gather(
    name: str, value: Tensor, columns: Int[Tensor, "batch short"], real: Bool[Tensor, "batch seq"], fill: int
) -> Tensor:
    """Shorten one entry; the sequence is its last axis, the one before the last for embeddings.

    At padding stands what the prompt has at its padding, or `fill` if it has none.
    """
    padded, source = columns < 0, columns.clamp(min=0)
    if name == "inputs_embeds":
        rows = torch.arange(len(source), device=source.device)[:, None]
        kept, padding, padded = value[rows, source], value[~real], padded[..., None]
        return torch.where(padded, padding[0] if len(padding) else fill, kept)
    spread = value.expand(*value.shape[:-2], *real.shape)  # one row of positions may stand for all
    kept, padding = spread.gather(-1, source.expand(*value.shape[:-2], *source.shape)), spread[..., ~real]
    return (
        torch.where(padded, padding[..., 0, None, None], kept)
        if padding.numel()
        else kept.masked_fill(padded, fill)
    )
