"""Weighted page rank on attention: tokens vote for tokens, and the heads' votes make the importance of each.

    votes       s_j <- sum_i s_i A_ij, from s = 1/N, per head
    importance  sqrt(mean over heads of s_j^2), heads whose votes vary too little or too much left out

Source: Zero-TPrune (arXiv 2305.17328); no code was released.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenry.compression.precision import precise
from tokenry.core.errors import UserError, require_at_least, require_one_of

Aggregation = Literal["rms", "mean"]

# A graph whose votes run in circles (a permutation) never comes to rest.
_MOST_ITERATIONS = 1000
_SHARPENING = 0.1


def weighted_page_rank(
    attn: Tensor,
    iterations: int | None = None,
    tol: float | None = None,
    initial: Float[Tensor, "batch heads tokens"] | None = None,
) -> tuple[Float[Tensor, "batch heads tokens"], int]:
    """Let tokens vote: a token is important if important tokens attend to it. The votes of a head sum to 1.

    Args:
        attn: (batch, heads, tokens, tokens), attention weights after softmax, row = query.
        iterations: number of rounds; None continues until `tol` is reached (at most 1000 rounds).
        tol: stop when the sum of absolute changes is at most this in every head; None means 1e-6 if `iterations` is None too, and else never.
        initial: votes to begin with; None for 1 / tokens.

    Returns:
        The votes (float32 or better), and the number of rounds.

    Raises:
        UserError: `attn` is no stack of square matrices of weights whose rows sum to 1, or there is no round to make.

    Source: Zero-TPrune (arXiv 2305.17328), weighted page rank, s^{t+1} = A^T s^t.
    """
    require_graph(attn)
    require_at_least(1, iterations=iterations)
    if iterations is None and tol is None:
        tol = 1e-6
    return page_rank(attn, iterations or _MOST_ITERATIONS, tol, initial)


def require_graph(attn: Tensor) -> None:
    """Raise `UserError` unless `attn` is attention after softmax."""
    if attn.ndim != 4 or attn.shape[2] != attn.shape[3]:
        raise UserError(
            f"attention must have the shape (batch, heads, tokens, tokens), got {tuple(attn.shape)}."
        )
    if not bool(torch.isfinite(attn).all()):
        raise UserError("attention has entries that are not finite: give the weights after softmax.")
    if bool((attn < 0).any()):
        raise UserError("attention has negative entries: give the weights after softmax, not the logits.")
    off = float((precise(attn).sum(dim=-1) - 1).abs().amax()) if attn.numel() else 0.0
    # A weight in half precision is off by up to eps / 2 of itself.
    if off > max(1e-3, torch.finfo(attn.dtype).eps):
        raise UserError(
            f"the rows of attention must sum to 1, one is off by {off:.3g}: give the post-softmax weights, without dropout."
        )


def page_rank(attn: Tensor, iterations: int, tol: float | None, initial: Tensor | None) -> tuple[Tensor, int]:
    """`weighted_page_rank` of attention that has been checked."""
    attn = precise(attn)
    votes = torch.full_like(attn[:, :, 0], 1 / attn.shape[-1]) if initial is None else initial.to(attn.dtype)
    # A row vector times A walks through memory in order; A^T times a column is several times slower.
    votes = votes[:, :, None, :]
    made, moving = 0, True
    while moving and made < iterations:
        before, votes = votes, votes @ attn
        made += 1
        moving = tol is None or float((votes - before).abs().sum(dim=-1).amax()) > tol
    return votes[:, :, 0], made


def head_variance(scores: Float[Tensor, "batch heads tokens"]) -> Float[Tensor, "batch heads"]:
    """Variance of each head's votes among the tokens that can be pruned, rescaled to mean 1.

    Votes that sum to 1 would have variances below 1 / tokens, and no head would reach the paper's bounds.
    """
    mean = scores.mean(dim=-1, keepdim=True)
    rescaled = scores / mean.where(mean > 0, torch.ones_like(mean))
    return rescaled.var(dim=-1, correction=0)


def aggregate_heads(
    scores: Float[Tensor, "batch heads tokens"],
    v_min: float | None = 0.01,
    v_max: float | None = 0.7,
    mode: Aggregation = "rms",
) -> tuple[Float[Tensor, "batch tokens"], Bool[Tensor, "batch heads"]]:
    """Aggregate the votes of the heads to the importance of each token.

    Args:
        scores: votes of the tokens that can be pruned.
        v_min: a head takes part if its `head_variance` is at least this; None for no bound.
        v_max: and at most this. If no head of an image qualifies, all take part.
        mode: root mean square (the paper's EIR), or mean.

    Returns:
        The importance, and which heads took part.

    Raises:
        UserError: `v_min` is above `v_max`, or the mode is unknown.

    Source: Zero-TPrune, emphasising informative regions (EIR) and variance-based head filter (VHF).
    """
    require_window(v_min, v_max)
    require_one_of(mode, get_args(Aggregation), "mode")
    kept = torch.ones(scores.shape[:2], dtype=torch.bool, device=scores.device)
    if v_min is not None or v_max is not None:
        variance = head_variance(scores)
        inside = kept if v_min is None else variance >= v_min
        inside = inside if v_max is None else inside & (variance <= v_max)
        kept = inside | ~inside.any(dim=1, keepdim=True)
    taking_part = kept.to(scores.dtype)
    weight = (taking_part / taking_part.sum(dim=1, keepdim=True))[:, :, None]
    if mode == "mean":
        return (scores * weight).sum(dim=1), kept
    return (scores.square() * weight).sum(dim=1).sqrt(), kept


def one_step_vote(attn: Tensor) -> Tensor:
    """One round of votes on sharpened attention, mean over heads and queries."""
    return torch.softmax(precise(attn) / _SHARPENING, dim=-1).mean(dim=(1, 2))


def require_window(v_min: float | None, v_max: float | None) -> None:
    """Raise `UserError` if no variance is in the window."""
    if v_min is not None and v_max is not None and not v_min <= v_max:
        raise UserError(f"v_min must not be above v_max, got {v_min} and {v_max}: no head could take part.")
