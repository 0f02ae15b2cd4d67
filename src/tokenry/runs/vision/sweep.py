"""All reduction methods at the same FLOPs, so that what is compared is the choice of tokens and not their number.

    every method at a share of the dense FLOPs; those that thin out every layer keep the same number of tokens in each

ToMe and the controls take over the token counts of PiToMe's ratio. DiffRate gets a uniform schedule (not a searched one), Zero-TPrune the
paper's schedule for DeiT-S, stretched to the depth of the model and scaled.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenry.compression.vision.diffrate import uniform_schedule
from tokenry.compression.vision.flops import LayerCost, encoder_flops
from tokenry.compression.vision.pitome import removed_tokens
from tokenry.compression.vision.zero_tprune import ZeroTPruneConfig, token_trace

SHARES = (0.8, 0.65, 0.5, 0.35)
"""Of the dense FLOPs, at which the methods are compared."""

_PAPER = ZeroTPruneConfig()
_PAPER_LAYERS, _PAPER_PATCHES = 12, 196
_STEPS = 1000


@dataclass(frozen=True)
class Shape:
    """What the FLOPs of a model depend on.

    Attributes:
        costs: of each layer.
        tokens: tokens that enter the first layer.
        special: how many of them are no patches.
    """

    costs: Sequence[LayerCost]
    tokens: int
    special: int

    def share(self, entering: Sequence[int], seen_by_mlp: Sequence[int]) -> float:
        """FLOPs with these tokens in each layer, as a share of the dense ones."""
        dense = [self.tokens] * len(self.costs)
        return encoder_flops(self.costs, entering, seen_by_mlp) / encoder_flops(self.costs, dense, dense)


def options_at(method: str, share: float, shape: Shape) -> dict[str, Any]:
    """Tell with which options a method costs nearest to a share of the dense FLOPs."""
    return _OPTIONS[method](share, shape)


def _nearest(share: float, cost: Callable[[float], float]) -> float:
    """Find the number in [0, 1] whose cost, which falls in it, comes nearest to `share`."""
    first = bisect_left(range(_STEPS + 1), -share, key=lambda step: -cost(step / _STEPS))
    near = (max(first - 1, 0), min(first, _STEPS))
    return min((step / _STEPS for step in near), key=lambda number: abs(cost(number) - share))


def _ratio(share: float, shape: Shape) -> float:
    def cost(strength: float) -> float:
        left = _counts(1 - strength / 2, shape)
        return shape.share([shape.tokens, *left[:-1]], left)

    return 1 - _nearest(share, cost) / 2


def _counts(ratio: float, shape: Shape) -> list[int]:
    """Tokens that leave each layer when it keeps this ratio of its patches."""
    tokens, left = shape.tokens, []
    for _ in shape.costs:
        tokens -= removed_tokens(tokens - shape.special, ratio)
        left.append(tokens)
    return left


def _pitome(share: float, shape: Shape) -> dict[str, Any]:
    return {"ratio": _ratio(share, shape)}


def _tome(share: float, shape: Shape) -> dict[str, Any]:
    left = _counts(_ratio(share, shape), shape)
    return {"r": [before - after for before, after in zip([shape.tokens, *left[:-1]], left, strict=True)]}


def _control(share: float, shape: Shape) -> dict[str, Any]:
    return {"counts": _counts(_ratio(share, shape), shape)}


def _diffrate(share: float, shape: Shape) -> dict[str, Any]:
    return {"schedule": uniform_schedule(shape.costs, shape.tokens, shape.special, share)}


def _zero_tprune(share: float, shape: Shape) -> dict[str, Any]:
    def cost(strength: float) -> float:
        counts = token_trace(
            ZeroTPruneConfig(**_scaled(strength, shape)), shape.tokens, len(shape.costs), shape.special
        )
        return shape.share(counts[:-1], counts[:-1])

    return _scaled(_nearest(share, cost), shape)


def _scaled(strength: float, shape: Shape) -> dict[str, Any]:
    """The paper's schedule with 6 · strength times its losses, its layers at the same depth of this model."""
    depth, patches, factor = len(shape.costs), shape.tokens - shape.special, 6 * strength
    at_depth: dict[int, tuple[float, int, int]] = {}
    for layer, paper_keep, paper_r, iterations in zip(
        _PAPER.layers, _PAPER.keep_rates, _PAPER.r, _PAPER.iterations, strict=True
    ):
        similar = min(round(factor * paper_r * patches / _PAPER_PATCHES), (patches - 1) // 2)
        keep = max(1 - factor * (1 - paper_keep), 1 / max(1, patches - similar))
        place = max(1, math.floor(layer * depth / _PAPER_LAYERS))
        # In a shallow model several of the paper's layers fall on one, which prunes once.
        if place not in at_depth:
            patches = max(1, math.floor((patches - similar) * keep + 1e-9))
            at_depth[place] = (keep, similar, iterations)
    keep_rates, r, rounds = zip(*at_depth.values(), strict=True)
    return {"layers": tuple(at_depth), "keep_rates": keep_rates, "r": r, "iterations": rounds}


_OPTIONS: dict[str, Callable[[float, Shape], dict[str, Any]]] = {
    "tome": _tome,
    "pitome": _pitome,
    "diffrate": _diffrate,
    "zero-tprune": _zero_tprune,
    "random": _control,
    "norm": _control,
    "class-attention": _control,
}
