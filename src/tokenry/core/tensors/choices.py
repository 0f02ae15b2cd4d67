"""Which tokens: the pure functions that turn a signal (higher = more worth keeping) into a choice.

A choice is made within groups: samples (`segments`), or everything at once (`groups=None`: a batch, a data set).
Ties are resolved by position: the earliest token wins, on every device. Nothing loops over samples.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from tokenry.core.errors import UserError, require_share

Rounding = Literal["ceil", "floor", "floor_at_least_one", "half_even"]

# 0.6 * 5 is 3.0000000000000004 in some orders of evaluation: without the margin such artefacts would keep one token more.
_ROUNDING: dict[str, Callable[[Tensor], Tensor]] = {
    "ceil": lambda exact: torch.ceil(exact - 1e-9),
    "floor": torch.floor,
    "floor_at_least_one": lambda exact: torch.floor(exact).clamp(min=1),
    "half_even": lambda exact: torch.round(torch.round(exact, decimals=9)),
}


def kept_counts(
    counts: Int[Tensor, "groups"], share: float, rounding: Rounding = "ceil"
) -> Int[Tensor, "groups"]:
    """Number of the `counts` tokens of each group that a share keeps; a group without tokens keeps none.

    `ceil`: k = ceil(share · R − 1e-9), at least one (ssToken). `floor`: int(share · R), which can be none (TokenCleaning).
    `floor_at_least_one`: max(1, int(share · R)) (RHO-1). `half_even`: the nearest, of two the even one, which can be none (FrugalPrompt).
    """
    require_share(share)
    kept = _ROUNDING[rounding](counts.double() * share).long()
    return torch.minimum(kept, counts)


def group_counts(
    among: Bool[Tensor, "batch seq"], groups: Int[Tensor, "batch seq"] | None = None
) -> Int[Tensor, "groups"]:
    """Number of candidates (`among`) per group; one group when `groups` is None."""
    if groups is None:
        return among.sum().reshape(1)
    number = int(groups.max()) + 1 if groups.numel() else 0
    return torch.bincount(groups[among], minlength=max(number, 0))


def top_share(
    signal: Float[Tensor, "batch seq"],
    among: Bool[Tensor, "batch seq"],
    share: float,
    groups: Int[Tensor, "batch seq"] | None = None,
    rounding: Rounding = "ceil",
) -> Bool[Tensor, "batch seq"]:
    """Choose the `share` of tokens with the highest signal, within each group.

    Args:
        signal: any unit; only its order counts. Values outside `among` are not read.
        among: the tokens that may be chosen.
        share: fraction in (0, 1].
        groups: group of every token, -1 for tokens of no group; None ranks all tokens together.
        rounding: how a share becomes a number of tokens, see `kept_counts`.

    Raises:
        UserError: the signal is not finite at a token that may be chosen.
    """
    candidates = signal[among]
    if not bool(torch.isfinite(candidates).all()):
        broken = int((~torch.isfinite(candidates)).sum())
        raise UserError(
            f"the signal is not finite at {broken} of {candidates.numel()} tokens, so they cannot be ranked: "
            "look for overflow or a too high learning rate."
        )
    group = torch.zeros_like(candidates, dtype=torch.long) if groups is None else groups[among].long()
    counts = group_counts(among, groups)
    kept = kept_counts(counts, share, rounding)
    best_first = torch.sort(candidates, descending=True, stable=True).indices
    by_group = best_first[torch.sort(group[best_first], stable=True).indices]
    first_of_group = counts.cumsum(0) - counts
    grouped = group[by_group]
    rank = torch.arange(by_group.numel(), device=signal.device) - first_of_group[grouped]
    chosen = torch.empty_like(group, dtype=torch.bool)
    chosen[by_group] = rank < kept[grouped]
    choice = torch.zeros_like(among)
    choice[among] = chosen
    return choice


def top_k_indices(signal: Shaped[Tensor, "*batch tokens"], k: int) -> Int[Tensor, "*batch chosen"]:
    """Indices of the `k` highest of each row, ascending; of equals the first."""
    return signal.argsort(dim=-1, descending=True, stable=True)[..., :k].sort(dim=-1).values


def above(
    signal: Float[Tensor, "batch seq"], among: Bool[Tensor, "batch seq"], threshold: float
) -> Bool[Tensor, "batch seq"]:
    """Choose the tokens whose signal is higher than `threshold`."""
    return among & (signal > threshold)


def minmax_within(
    signal: Float[Tensor, "batch seq"],
    among: Bool[Tensor, "batch seq"],
    groups: Int[Tensor, "batch seq"],
    epsilon: float = 1e-8,
) -> Float[Tensor, "batch seq"]:
    """Normalise a signal to [0, 1] within each group: (x − min) / (max − min + epsilon); nan outside `among`.

    Equal values become 0: the epsilon decides, so that another signal ranks them.

    Source: ssToken (arXiv 2510.18250), normalisation of the retrospective excess loss.
    """
    values = signal[among]
    group = groups[among].long()
    number = int(groups.max()) + 1 if groups.numel() else 0
    lowest = values.new_full((max(number, 0),), float("inf")).scatter_reduce(0, group, values, "amin")
    highest = values.new_full((max(number, 0),), float("-inf")).scatter_reduce(0, group, values, "amax")
    normalised = torch.full_like(signal, float("nan"))
    normalised[among] = (values - lowest[group]) / (highest[group] - lowest[group] + epsilon)
    return normalised


def require_window(window: int) -> None:
    """Raise `UserError` unless `window` is a positive odd number of tokens."""
    if window < 1 or window % 2 == 0:
        raise UserError(f"window must be a positive odd number of tokens, got {window}.")


def window_mean(
    signal: Float[Tensor, "batch seq"],
    among: Bool[Tensor, "batch seq"],
    groups: Int[Tensor, "batch seq"],
    window: int,
) -> Float[Tensor, "batch seq"]:
    """Average a signal over the tokens `among` in a window of `window` (odd) positions around each, within its group."""
    require_window(window)
    total = torch.zeros_like(signal)
    count = torch.zeros_like(signal)
    values = torch.where(among, signal, 0.0)
    length = signal.shape[1]
    half = min(window // 2, max(length - 1, 0))
    for offset in range(-half, half + 1):
        here = slice(max(0, -offset), length - max(0, offset))
        there = slice(max(0, offset), length - max(0, -offset))
        same = among[:, there] & (groups[:, here] == groups[:, there])
        total[:, here] += torch.where(same, values[:, there], 0.0)
        count[:, here] += same
    return torch.where(among, total / count.clamp(min=1), float("nan"))
