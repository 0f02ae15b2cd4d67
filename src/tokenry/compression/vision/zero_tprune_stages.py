"""The two stages of a pruning layer: drop tokens that are alike, then keep those with the most votes.

    S-stage     of the less important half, drop the r tokens most similar to one of the more important half
    I-stage     of the others, keep the fraction keep_rate with the highest importance

Source: Zero-TPrune (arXiv 2305.17328); no code was released.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.compression.vision.tome import unit_vectors
from tokenry.core.errors import UserError, require_one_of
from tokenry.core.tensors.choices import top_k_indices

Partition = Literal["sequential-u", "sequential-i", "alternate", "random"]


def partition_by_importance(
    importance: Float[Tensor, "batch tokens"], mode: Partition = "sequential-u", seed: int = 0
) -> tuple[Int[Tensor, "batch group_a"], Int[Tensor, "batch group_b"]]:
    """Divide the tokens into A, whose tokens may be removed (half of all, rounded down), and B, which they are compared with.

    Args:
        importance: importance of the tokens that can be pruned.
        mode: A = the least important half ("sequential-u"), the most important half ("sequential-i"), every second token in the order
            of importance ("alternate"), or any half ("random").
        seed: random seed of the permutation, which is the same for every image.

    Returns:
        Indices of both groups, most important first.

    Source: Zero-TPrune, partition of the S-stage.
    """
    require_one_of(mode, get_args(Partition), "partition")
    order = importance.argsort(dim=1, descending=True, stable=True)
    tokens = order.shape[1]
    half = tokens // 2
    if mode == "sequential-i":
        return order[:, :half], order[:, half:]
    if mode == "alternate":
        return order[:, 1::2], order[:, ::2]
    if mode == "random":
        drawn = torch.randperm(tokens, generator=torch.Generator().manual_seed(seed))
        first, second = (ranks.sort().values.to(order.device) for ranks in (drawn[:half], drawn[half:]))
        return order[:, first], order[:, second]
    return order[:, tokens - half :], order[:, : tokens - half]


def best_similarity(
    metric: Float[Tensor, "batch tokens dim"],
    group_a: Int[Tensor, "batch group_a"],
    group_b: Int[Tensor, "batch group_b"],
) -> tuple[Float[Tensor, "batch group_a"], Int[Tensor, "batch group_a"]]:
    """Find for each token of A the most similar one of B (cosine; 0 where a vector is zero).

    Returns:
        The similarity, and the index of that token among all.
    """
    unit = unit_vectors(metric)
    a, b = (unit.gather(1, group[..., None].expand(-1, -1, unit.shape[2])) for group in (group_a, group_b))
    similarity, partner = (a @ b.transpose(1, 2)).max(dim=2)
    return similarity, group_b.gather(1, partner)


def similarity_prune(
    importance: Float[Tensor, "batch tokens"],
    metric: Float[Tensor, "batch tokens dim"],
    r: int,
    mode: Partition = "sequential-u",
    seed: int = 0,
) -> Int[Tensor, "batch removed"]:
    """The S-stage: the r tokens of group A that are most similar to one of group B, ascending.

    Args:
        importance: importance of the tokens that can be pruned.
        metric: what they are compared by.
        r: number to remove; at most half of the tokens.
        mode: see `partition_by_importance`.

    Source: Zero-TPrune, S-stage.
    """
    return most_similar(importance, metric, r, mode, seed)[0]


def most_similar(
    importance: Tensor, metric: Tensor, r: int, mode: Partition, seed: int
) -> tuple[Tensor, Tensor]:
    """What the S-stage removes, ascending, and for each of these the token that it is similar to."""
    _require_r(r, importance.shape[1])
    group_a, group_b = partition_by_importance(importance, mode, seed)
    # In the order of their indices, so that of equally similar tokens the first goes.
    group_a = group_a.sort(dim=1).values
    if r == 0:
        return group_a[:, :0], group_a[:, :0]
    similarity, partner = best_similarity(metric, group_a, group_b)
    removed = top_k_indices(similarity, r)
    return group_a.gather(1, removed), partner.gather(1, removed)


def _require_r(r: int, tokens: int) -> None:
    if not 0 <= r <= tokens // 2:
        raise UserError(
            f"r must be from 0 to half of the tokens that can be pruned, here {tokens // 2} of {tokens}, got {r}: "
            "the S-stage removes tokens of the less important half."
        )


def importance_prune(importance: Float[Tensor, "batch tokens"], keep: int) -> Int[Tensor, "batch kept"]:
    """The I-stage: the `keep` most important tokens, ascending; of equals the first.

    Source: Zero-TPrune, I-stage.
    """
    if not 1 <= keep <= importance.shape[1]:
        raise UserError(f"keep must be from 1 to {importance.shape[1]}, the number of tokens, got {keep}.")
    return top_k_indices(importance, keep)


def kept_by_both(tokens: int, r: int, keep_rate: float | int) -> int:
    """Number of the tokens that can be pruned which both stages leave."""
    _require_r(r, tokens)
    # 0.7 * 10 is 7.000000000000001 or 6.999999999999999, as the case may be.
    keep = int((tokens - r) * keep_rate + 1e-9)
    if tokens and not keep:
        raise UserError(
            f"keep_rate {keep_rate} and r = {r} leave none of {tokens} tokens: raise keep_rate or prune in fewer layers."
        )
    return keep
