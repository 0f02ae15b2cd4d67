"""Methods at the same FLOPs, so that the choice of tokens is compared and not their number.

A method's `at(share, shape)` returns the options whose cost is nearest to a share of the dense FLOPs. Methods that reduce in every layer
keep the same number of tokens in each: those of PiToMe's ratio.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenry.compression.flops import LayerCost, encoder_flops

_STEPS = 1000


@dataclass(frozen=True)
class EncoderShape:
    """What the FLOPs of an encoder depend on.

    Attributes:
        tokens: number of tokens that enter the first layer.
        special: number of these that are no patches.
    """

    costs: Sequence[LayerCost]
    tokens: int
    special: int

    def share(self, entering: Sequence[int], seen_by_mlp: Sequence[int]) -> float:
        """FLOPs with these tokens in each layer, as a share of the dense ones."""
        dense = [self.tokens] * len(self.costs)
        return encoder_flops(self.costs, entering, seen_by_mlp) / encoder_flops(self.costs, dense, dense)


def nearest_strength(share: float, cost: Callable[[float], float]) -> float:
    """Find the strength in [0, 1] whose cost, which falls with it, comes nearest to `share`."""
    first = bisect_left(range(_STEPS + 1), -share, key=lambda step: -cost(step / _STEPS))
    near = (max(first - 1, 0), min(first, _STEPS))
    return min((step / _STEPS for step in near), key=lambda strength: abs(cost(strength) - share))


def counts_at_ratio(tokens: int, layers: int, ratio: float, special: int) -> list[int]:
    """Number of tokens that leave each layer when each keeps this ratio of the tokens that are not special."""
    left = []
    for _ in range(layers):
        free = tokens - special
        tokens -= math.floor(free - free * ratio)
        left.append(tokens)
    return left


def ratio_at(share: float, shape: EncoderShape) -> float:
    """The ratio in [0.5, 1] at which the layers together cost nearest to a share of the dense FLOPs."""

    def cost(strength: float) -> float:
        left = counts_at_ratio(shape.tokens, len(shape.costs), 1 - strength / 2, shape.special)
        return shape.share([shape.tokens, *left[:-1]], left)

    return 1 - nearest_strength(share, cost) / 2


def counts_at(share: float, shape: EncoderShape) -> list[int]:
    """Number of tokens that leave each layer at the ratio of this share."""
    return counts_at_ratio(shape.tokens, len(shape.costs), ratio_at(share, shape), shape.special)
