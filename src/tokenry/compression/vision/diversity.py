"""Diverse selection of visual tokens: ZOO-Prune's sensitivity-aware choice and DivPrune's farthest points, one greedy routine.

Sources: ZOO-Prune (arXiv 2509.24837, steps 3 to 5), DivPrune (arXiv 2503.02175). With the cosine distance of projected features:

    D[a, i] = 1 − cos(feature_a, feature_i)                           a token without length is at distance 1 from every other
    next    = argmax_i  weight_i · min over chosen a of D[a, i]       lowest index on ties
    first   = argmax weight (ZOO-Prune); the token farthest from its nearest other, all weights 1 (DivPrune)

Tokens are normalised once and every step is one product with the token just chosen: D is never built.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.compression.precision import precise, require_features, require_finite
from tokenry.core.errors import UserError

NEWLINE = -9999
"""Group of a token that belongs to no frame and is always kept (the newline tokens of AnyRes images)."""

# Products of the same two tokens differ by the order of summation: closer than this, distances are equal (in units of eps).
_TIE = 4
_ZERO = 16
_ROWS_AT_ONCE = 64


def sensitivity_diverse_select(
    features: Float[Tensor, "..."],
    sensitivity: Float[Tensor, "*batch tokens"],
    k: int,
    groups: Int[Tensor, "tokens"] | None = None,
) -> Int[Tensor, "*batch kept"]:
    """Choose k tokens that are influential and mutually different, in the order of choice.

    Args:
        features: projected features, (tokens, dim) or (batch, tokens, dim); halves are computed in float32.
        sensitivity: sensitivity of every token, in any unit; see `zoo_prune`. Not read at newline tokens.
        k: number of tokens to choose; with groups, from every group (all of a smaller one).
        groups: frame of every token of one AnyRes image, `NEWLINE` for tokens of no frame. Weights are relative to the frame;
            the result lists the frames in ascending order, without newline tokens (see `with_newlines`).

    Raises:
        UserError: features or sensitivities are not finite, have the wrong rank or length; k < 1; k > tokens.

    Source: ZOO-Prune, SADS.
    """
    if groups is not None:
        _check_groups(features, groups)
        return select_in_groups(
            groups, k, lambda one, few: sensitivity_diverse_select(features[one], sensitivity[one], few)
        )
    _check(features, k)
    if sensitivity.shape != features.shape[:-1]:
        raise UserError(
            f"sensitivity must have one value per token, {tuple(features.shape[:-1])}, got {tuple(sensitivity.shape)}."
        )
    weight = minmax_weight(sensitivity)
    return _select(features, weight, weight, k)


def farthest_point_select(
    features: Float[Tensor, "..."], k: int, groups: Int[Tensor, "tokens"] | None = None
) -> Int[Tensor, "*batch kept"]:
    """Choose k mutually different tokens, in the order of choice.

    Args:
        features: projected features, (tokens, dim) or (batch, tokens, dim); halves are computed in float32.
        k: number of tokens to choose; with groups, from every group (all of a smaller one).
        groups: see `sensitivity_diverse_select`.

    Raises:
        UserError: features are not finite or have the wrong rank; k < 1; k > tokens.

    Source: DivPrune, max-min diversity.
    """
    if groups is not None:
        _check_groups(features, groups)
        return select_in_groups(groups, k, lambda one, few: farthest_point_select(features[one], few))
    _check(features, k)
    isolation = _nearest_other(_normalised(features))
    return _select(features, torch.ones_like(isolation), isolation, k)


def minmax_weight(sensitivity: Float[Tensor, "*batch tokens"]) -> Float[Tensor, "*batch tokens"]:
    """Scale sensitivities to [0, 1] per image: (s − min) / (max − min + 1e-8); all 1 where they are equal.

    The least sensitive token has weight 0: it is chosen only when everything else is used up.

    Raises:
        UserError: a sensitivity is not finite.

    Source: ZOO-Prune, step 3.
    """
    require_finite(sensitivity, "sensitivity")
    values = precise(sensitivity)
    lowest, highest = values.aminmax(dim=-1, keepdim=True)
    return torch.where(highest > lowest, (values - lowest) / (highest - lowest + 1e-8), 1.0)


def coverage_radius(
    features: Float[Tensor, "*batch tokens dim"], kept: Int[Tensor, "*batch kept"]
) -> Float[Tensor, "*batch"]:
    """Cosine distance of the worst represented token from its nearest kept one: 0 when all are kept.

    To choose k by quality, raise it until the radius is small.
    """
    directions = _normalised(features)
    chosen = directions.gather(-2, kept[..., None].expand(*kept.shape, directions.shape[-1]))
    similarity = (directions @ chosen.mT).amax(-1)
    distance = _distance(similarity).scatter(-1, kept, 0.0)  # a token without length is at 0 from itself
    return distance.amax(-1)


def select_in_groups(
    groups: Int[Tensor, "tokens"], k: int, select: Callable[[Tensor, int], Tensor]
) -> Int[Tensor, "selected"]:
    """Choose k tokens of every frame, independently of the other frames.

    Args:
        groups: frame of every token, `NEWLINE` for tokens of no frame.
        k: tokens to choose from every frame; a smaller frame keeps all of its tokens.
        select: maps the tokens of a frame and the number to choose to the places of the chosen ones among them.

    Returns:
        The chosen tokens, frames in ascending order, each in the order of choice.
    """
    selected = [groups.new_empty(0, dtype=torch.long)]
    for group in groups.unique().tolist():
        if group != NEWLINE:
            members = (groups == group).nonzero()[:, 0]
            selected.append(members[select(members, min(k, len(members)))])
    return torch.cat(selected)


def with_newlines(selected: Int[Tensor, "selected"], groups: Int[Tensor, "tokens"]) -> Int[Tensor, "kept"]:
    """Add the newline tokens to the selected ones, all in their original order."""
    return torch.cat((selected, (groups == NEWLINE).nonzero()[:, 0])).sort().values


def require_kept_fraction(ratio: float) -> None:
    """Raise `UserError` unless the ratio is in (0, 1]."""
    if not 0.0 < ratio <= 1.0:
        raise UserError(
            f"ratio must be in (0, 1], got {ratio}: it is the fraction of visual tokens that is kept."
        )


def token_budget(tokens: int, ratio: float) -> int:
    """Number of an image's tokens that a ratio keeps: int(ratio · tokens).

    Raises:
        UserError: the ratio is not in (0, 1], or keeps none.
    """
    require_kept_fraction(ratio)
    budget = int(ratio * tokens)
    if budget < 1:
        raise UserError(f"ratio {ratio} keeps none of {tokens} visual tokens: use at least {1 / tokens:.4g}.")
    return budget


def frame_budget(frames: int, tokens_per_frame: int, ratio: float) -> int:
    """Number of tokens that a ratio keeps in every frame of an AnyRes image: int(ratio · all tokens) // frames.

    Raises:
        UserError: the ratio is not in (0, 1], or keeps none.
    """
    budget = token_budget(frames * tokens_per_frame, ratio) // frames
    if budget < 1:
        raise UserError(
            f"ratio {ratio} keeps none of the {tokens_per_frame} tokens of a frame ({frames} frames): use at least "
            f"{1 / tokens_per_frame:.4g}."
        )
    return budget


def _select(
    features: Tensor, weight: Float[Tensor, "*batch tokens"], start: Float[Tensor, "*batch tokens"], k: int
) -> Int[Tensor, "*batch kept"]:
    """Run the greedy choice for one image or a batch; it begins where `start` is highest."""
    directions = _normalised(features)
    if features.ndim == 2:
        return _greedy(directions[None], weight[None], start[None], k)[0]
    return _greedy(directions, weight, start, k)


def _greedy(
    directions: Float[Tensor, "batch tokens dim"],
    weight: Float[Tensor, "batch tokens"],
    start: Float[Tensor, "batch tokens"],
    k: int,
) -> Int[Tensor, "batch {k}"]:
    tie = _TIE * torch.finfo(directions.dtype).eps
    tokens, dim = directions.shape[1:]
    rows = directions.reshape(-1, dim)
    first_rows = torch.arange(len(directions), device=directions.device) * tokens
    taken, raised = weight.new_zeros(weight.shape), tie * weight
    nearest = torch.full_like(weight, float("inf"))
    chosen = (start >= start.amax(-1, keepdim=True) - tie).to(torch.uint8).argmax(-1)
    order = [chosen]
    for _ in range(k - 1):
        taken.view(-1).index_fill_(0, first_rows + chosen, float("-inf"))
        similarity = torch.bmm(directions, rows.index_select(0, first_rows + chosen)[..., None])[..., 0]
        nearest = torch.minimum(nearest, _distance(similarity))
        score = torch.addcmul(taken, nearest, weight)
        # Tokens that would be best if they were farther by a rounding error: the lowest index of them.
        chosen = (score + raised >= score.amax(-1, keepdim=True)).to(torch.uint8).argmax(-1)
        order.append(chosen)
    return torch.stack(order, dim=-1)


def _nearest_other(directions: Float[Tensor, "*batch tokens dim"]) -> Float[Tensor, "*batch tokens"]:
    """The distance of every token to its nearest other, some rows at a time; infinite where there is no other."""
    tokens = directions.shape[-2]
    nearest = []
    for start in range(0, tokens, _ROWS_AT_ONCE):
        similarity = directions[..., start : start + _ROWS_AT_ONCE, :] @ directions.mT
        similarity.diagonal(start, -2, -1).fill_(float("-inf"))
        nearest.append(_distance(similarity.amax(-1)))
    return torch.cat(nearest, dim=-1)


def _distance(similarity: Tensor) -> Tensor:
    """1 − cosine, exactly 0 where only rounding is left of it."""
    return torch.nn.functional.threshold(1.0 - similarity, _ZERO * torch.finfo(similarity.dtype).eps, 0.0)


def _normalised(features: Tensor) -> Tensor:
    """Tokens of length 1, in float32 (float64 stays); a token without length stays zero."""
    values = precise(features)
    # Squares of large or tiny values leave the range of float32.
    largest = torch.maximum(values.amax(-1, keepdim=True), -values.amin(-1, keepdim=True))
    scaled = values / torch.where(largest > 0, largest, 1.0)
    length = scaled.norm(dim=-1, keepdim=True)
    return scaled.div_(torch.where(length > 0, length, 1.0))


def _check(features: Tensor, k: int) -> None:
    require_features(features)
    tokens = features.shape[-2]
    if not 1 <= k <= tokens:
        raise UserError(f"k must be from 1 to the number of visual tokens, {tokens}, got {k}.")


def _check_groups(features: Tensor, groups: Tensor) -> None:
    if features.ndim != 2 or groups.shape != features.shape[:1]:
        raise UserError(
            f"groups are the frames of one image, so features must be (tokens, dim) with one group per token, got features "
            f"{tuple(features.shape)} and groups {tuple(groups.shape)}: go through the images one by one."
        )
