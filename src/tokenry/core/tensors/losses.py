"""Per-token NLL, entropy and weighted losses from hidden states, never holding logits beyond a chunk of rows.

Two passes: score without a graph (`row_statistics`), choose, then form loss and gradients of the chosen rows only (`weighted_loss`):

    nll[t]  = logsumexp(logits[t - 1]) − logits[t - 1, labels[t]]
    loss    = Σ weights[t] · nll[t]

With another row loss (`tokenry.core.tensors.row_losses`) the sum is over that loss instead of the NLL.
"""

from collections.abc import Collection
from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.core.tensors.alignment import at_tokens, predicting_rows
from tokenry.core.tensors.chunked_loss import CHUNK_ELEMENTS, matrix_loss, module_loss
from tokenry.core.tensors.output_head import (
    OutputHead,
    backbone,
    causal_lm,
    check_output_head,
    output_head,
    short_text,
)
from tokenry.core.tensors.row_losses import RowLoss, cross_entropy
from tokenry.core.tensors.row_statistics import RowStatistics, row_entropy, row_nll, row_statistics

__all__ = [
    "CHUNK_ELEMENTS",
    "OutputHead",
    "RowStatistics",
    "WeightedLoss",
    "backbone",
    "causal_lm",
    "check_output_head",
    "output_head",
    "row_entropy",
    "row_nll",
    "row_statistics",
    "short_text",
    "token_entropy",
    "token_nll",
    "token_statistics",
    "weighted_cross_entropy",
    "weighted_loss",
]


def token_statistics(
    hidden_states: Float[Tensor, "batch seq dim"],
    labels: Int[Tensor, "batch seq"],
    head: OutputHead,
    tokens: Bool[Tensor, "batch seq"],
    wanted: Collection[str],
    reference: tuple[Float[Tensor, "batch seq reference_dim"], OutputHead] | None = None,
) -> dict[str, Float[Tensor, "batch seq"]]:
    """Compute statistics of the distributions that predict `tokens` (all but `top`) in one pass, aligned to them; nan elsewhere.

    Only the rows that predict them meet the head. `reference` holds the hidden states and the head of a second model, for the cross statistics.
    """
    if not wanted:
        return {}
    rows, of_reference = predicting_rows(hidden_states, tokens), None
    if reference is not None:
        of_reference = predicting_rows(reference[0], tokens), reference[1]
    found = row_statistics(rows, labels[tokens], head, wanted, reference=of_reference)
    # As floats, ranks too: nan stands at all other tokens.
    return {name: at_tokens(getattr(found, name) * 1.0, tokens) for name in wanted}


def token_nll(
    hidden_states: Float[Tensor, "batch seq dim"],
    labels: Int[Tensor, "batch seq"],
    head: OutputHead,
    tokens: Bool[Tensor, "batch seq"],
) -> Float[Tensor, "batch seq"]:
    """Compute the NLL of `tokens` in nats, aligned to them; nan elsewhere. Only the rows that predict them meet the head."""
    return at_tokens(row_nll(predicting_rows(hidden_states, tokens), labels[tokens], head), tokens)


def token_entropy(
    hidden_states: Float[Tensor, "batch seq dim"], head: OutputHead, tokens: Bool[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq"]:
    """Compute the entropy in nats of the distributions that predict `tokens`, aligned to them; nan elsewhere."""
    return at_tokens(row_entropy(predicting_rows(hidden_states, tokens), head), tokens)


class WeightedLoss(NamedTuple):
    """A weighted loss, and what the logits behind it say: nan where the weight is zero.

    Attributes:
        total: Σ weights[t] · loss[t], with gradients (0 with a graph when every weight is zero).
        nll: of the weighted tokens, in nats.
        entropy: of the distributions that predict them, in nats.
        accuracy: 1 where no token has a higher logit than the label, 0 elsewhere.
        weight: of the label's own NLL in the row loss: 1 in cross-entropy.
    """

    total: Float[Tensor, ""]
    nll: Float[Tensor, "batch seq"]
    entropy: Float[Tensor, "batch seq"]
    accuracy: Float[Tensor, "batch seq"]
    weight: Float[Tensor, "batch seq"]


def weighted_cross_entropy(
    hidden_states: Float[Tensor, "batch seq dim"],
    labels: Int[Tensor, "batch seq"],
    weights: Float[Tensor, "batch seq"],
    head: OutputHead,
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch seq"]]:
    """Sum weights[t] · nll[t] over the tokens with a non-zero weight, with gradients; the others never meet the head.

    Returns:
        The sum (0 with a graph when every weight is zero), and the NLL of the weighted tokens in nats (nan elsewhere).
    """
    loss = weighted_loss(hidden_states, labels, weights, head, chunk_elements=chunk_elements)
    return loss.total, loss.nll


def weighted_loss(
    hidden_states: Float[Tensor, "batch seq dim"],
    labels: Int[Tensor, "batch seq"],
    weights: Float[Tensor, "batch seq"],
    head: OutputHead,
    *,
    row_loss: RowLoss = cross_entropy,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> WeightedLoss:
    """Sum weights[t] · loss[t] over the tokens with a non-zero weight, with NLL, entropy and accuracy at little further cost."""
    tokens = weights != 0
    rows, targets, row_weights = predicting_rows(hidden_states, tokens), labels[tokens], weights[tokens]
    form = module_loss if head.linear is None else matrix_loss
    total, *values = form(rows, targets, row_weights, head, row_loss, chunk_elements)
    if not targets.numel():
        total = total + hidden_states.sum() * 0.0
    return WeightedLoss(total, *(at_tokens(value.detach(), tokens) for value in values))
