"""Where every number about a token belongs: the one place in the library that shifts.

A signal at index `t` is about token `input_ids[:, t]`; the model predicts that token from the hidden state at `t - 1`.
The first token of a sample, and of every sample inside a packed row, is never predicted and can never be a target.
Segments number the samples of a batch: 0, 1, … in reading order across all rows, -1 for padding.
"""

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from tokenry.core.errors import UserError

IGNORED = -100


def segment_ids(
    input_ids: Int[Tensor, "batch seq"],
    attention_mask: Num[Tensor, "batch seq"] | Bool[Tensor, "batch seq"] | None = None,
    position_ids: Int[Tensor, "#batch seq"] | None = None,
) -> Int[Tensor, "batch seq"]:
    """Number the samples of a batch; padding on either side is -1.

    A sample starts at the first real token of a row and, where `position_ids` are given (packed or padding-free rows),
    wherever positions do not go on by one.
    """
    real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    goes_on = torch.zeros_like(real)
    goes_on[:, 1:] = real[:, 1:] & real[:, :-1]
    if position_ids is not None:
        goes_on[:, 1:] &= (position_ids[:, 1:] == position_ids[:, :-1] + 1).expand_as(goes_on[:, 1:])
    starts = real & ~goes_on
    numbers = starts.flatten().cumsum(0).view_as(input_ids) - 1
    return numbers.masked_fill(~real, -1)


def first_tokens(segments: Int[Tensor, "batch seq"]) -> Bool[Tensor, "batch seq"]:
    """The tokens that begin a sample."""
    first = segments >= 0
    first[:, 1:] &= segments[:, 1:] != segments[:, :-1]
    return first


def learnable_tokens(
    labels: Int[Tensor, "batch seq"], segments: Int[Tensor, "batch seq"]
) -> Bool[Tensor, "batch seq"]:
    """The tokens that may be targets: labelled, not padding, and not the first of their sample."""
    return (labels != IGNORED) & (segments >= 0) & ~first_tokens(segments)


def predicting_rows(
    hidden_states: Float[Tensor, "batch seq dim"], tokens: Bool[Tensor, "batch seq"]
) -> Float[Tensor, "rows dim"]:
    """Gather the hidden states from which `tokens` are predicted: the one shift of the library.

    The rows come in the row-major order of `tokens`, as `labels[tokens]` does.
    """
    return hidden_states[:, :-1][tokens[:, 1:]]


def at_tokens(
    values: Num[Tensor, "rows"], tokens: Bool[Tensor, "batch seq"], fill: float = float("nan")
) -> Num[Tensor, "batch seq"]:
    """Put one value per row back at its token; everything else is `fill`."""
    placed = torch.full(tokens.shape, fill, dtype=values.dtype, device=values.device)
    placed[tokens] = values
    return placed


def prompt_tokens(
    labels: Int[Tensor, "batch seq"], segments: Int[Tensor, "batch seq"]
) -> Bool[Tensor, "batch seq"]:
    """The real tokens without a label.

    Causality makes the prompt of a token every such token before it, in its own sample. A sample that is labelled from its
    first token on has none.
    """
    return (segments >= 0) & (labels == IGNORED)


def check_labels(
    input_ids: Int[Tensor, "batch seq"], labels: Int[Tensor, "labels_batch labels_seq"], vocabulary: int
) -> None:
    """Refuse labels that cannot belong to `input_ids`.

    Raises:
        UserError: another shape than `input_ids`, or a label outside the vocabulary.
    """
    if labels.shape != input_ids.shape:
        raise UserError(
            f"labels have shape {tuple(labels.shape)} but input_ids {tuple(input_ids.shape)}: give one label per token, "
            f"{IGNORED} where nothing is to be learned."
        )
    highest = int(labels.max()) if labels.numel() else 0
    lowest = int(labels.masked_fill(labels == IGNORED, 0).min()) if labels.numel() else 0
    if highest >= vocabulary or lowest < 0:
        wrong = highest if highest >= vocabulary else lowest
        raise UserError(
            f"label {wrong} is not in the vocabulary of {vocabulary} tokens: were the data made with another tokenizer?"
        )
