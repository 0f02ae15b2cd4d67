"""FOCUS-like rows: each new token is a sparse mean of the shared tokens nearest to it in an auxiliary space.

    weights = sparsemax(cos(token, every shared token))        row = Σ weights · rows of the shared tokens

The original (FOCUS) takes its auxiliary space from fastText, trained on text cut by the *new* tokenizer, and gives a random row to
tokens that are rare in it. Here the auxiliary space is given, nothing is trained, and no token counts as rare; the weights are the same.

Source: FOCUS (arXiv 2305.14481); sparsemax (arXiv 1602.02068).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.core.errors import UserError
from tokenry.tokenization.transfer.transplant.embedding_heuristics import (
    NO_SHARED,
    Mixture,
    has_vector,
    nearest,
)

_CANDIDATES = 64


def sparsemax(scores: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Project scores onto the simplex: like softmax, but most weights are exactly 0.

    Source: sparsemax, algorithm 1.
    """
    ordered = scores.sort(dim=-1, descending=True).values
    return (scores - _sparsemax_offset(ordered)).clamp(min=0.0)


def focus_mixture(
    vectors: Float[Tensor, "tokens dim"],
    shared_vectors: Float[Tensor, "shared dim"],
    without: Int[Tensor, "tokens"],
) -> Mixture:
    """Compose each token of shared ones; the indices count shared tokens.

    Args:
        vectors: vectors of the wanted tokens; a token with a row of zeros is not composed.
        without: shared token that each token may not use; -1 for none.
    """
    usable = int(has_vector(shared_vectors).sum())
    if not usable:
        raise UserError(NO_SHARED)
    k = min(_CANDIDATES, usable)
    # Only the largest scores have a weight: as soon as the smallest candidate has none, no other can have one.
    while True:
        scores, ids = nearest(vectors, shared_vectors, k, without)
        weights = torch.where(scores.isfinite(), (scores - _sparsemax_offset(scores)).clamp(min=0.0), 0.0)
        if k == usable or not bool((weights[:, -1] > 0).any()):
            return Mixture(ids, weights)
        k = min(2 * k, usable)


def _sparsemax_offset(ordered: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch 1"]:
    """The offset that sparsemax subtracts from every score, computed from the scores in descending order."""
    ranks = torch.arange(1, ordered.shape[-1] + 1, dtype=ordered.dtype, device=ordered.device)
    sums = ordered.cumsum(dim=-1)
    support = (1 + ranks * ordered > sums).sum(dim=-1, keepdim=True).clamp(min=1)
    return (sums.gather(-1, support - 1) - 1) / support
