"""A row loss on whole logits, for custom training loops and tests; `losses` never holds more than a chunk of them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.core.errors import UserError, require_one_of
from tokenry.core.tensors.alignment import check_labels, learnable_tokens, predicting_rows
from tokenry.core.tensors.chunked_loss import WithGradient
from tokenry.core.tensors.row_losses import RowLosses

REDUCTIONS = ("token", "sequence")


class LogitLoss(NamedTuple):
    """The mean of a row loss over a batch of logits.

    Attributes:
        mean: over tokens, or over sequences of the mean over their tokens; 0 with a graph where there is none.
        rows: the losses of single tokens and what their logits say, without a graph.
        tokens: where these stand.
    """

    mean: Float[Tensor, ""]
    rows: RowLosses
    tokens: Bool[Tensor, "batch seq"]


def loss_of_logits(
    logits: Float[Tensor, "batch seq vocabulary"],
    labels: Int[Tensor, "batch seq"],
    row_loss: Callable[[Tensor, Tensor], RowLosses],
    reduction: str = "token",
) -> LogitLoss:
    """Average a row loss over the tokens of a batch; the logits at t − 1 are those of the token `labels[:, t]`.

    Args:
        logits: of the model, one sequence per row; columns may be −inf.
        labels: the tokens of the data, −100 where nothing is learned.
        row_loss: returns the loss of each row and overwrites its logits with the gradient.
        reduction: `token` or `sequence`.

    Raises:
        UserError: shapes that do not fit, labels outside the vocabulary, logits that are NaN or +inf.
    """
    require_one_of(reduction, REDUCTIONS, "reduction")
    check_labels(logits[..., 0].long(), labels, logits.shape[-1])
    tokens = learnable_tokens(
        labels, torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)
    )
    rows = predicting_rows(logits, tokens)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if bool((rows.isnan() | (rows == torch.inf)).any()):
        raise UserError(
            "the logits hold NaN or +inf: the model has diverged, or computes in too low a precision."
        )
    with torch.no_grad():
        gradient = rows.clone()
        values = row_loss(gradient, labels[tokens])
    loss = WithGradient.apply(rows, values.loss, gradient)
    counts = tokens.sum(-1)
    if reduction == "token":
        mean = loss.sum() / counts.sum().clamp(min=1)
    else:
        per_token = (1 / counts.clamp(min=1).to(loss.dtype))[:, None].expand_as(tokens)[tokens]
        mean = (loss * per_token).sum() / (counts > 0).sum().clamp(min=1)
    return LogitLoss(mean, values, tokens)
