"""Random tokens: learn from a random share of the response tokens, drawn once.

The control that every token selection must beat (ssToken, arXiv 2510.18250; the draw follows the released code of
TokenCleaning, arXiv 2502.01968): list all response tokens of the data set in order and sample int(share · N) of them.
"""

import math
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenry.core.errors import require_share
from tokenry.core.tensors.choices import Rounding
from tokenry.core.tensors.signals import Signals
from tokenry.finetuning.weighing import WEIGHINGS, Scope, TokenWeighing


def random_sample(count: int, share: float, seed: int) -> list[int]:
    """Draw int(share · count) positions out of `count`, without replacement, as the released code does."""
    return random.Random(seed).sample(range(count), int(count * share))


def random_choice(count: int, share: float, seed: int) -> Bool[Tensor, "count"]:
    """Which positions `random_sample` draws.

    This is the draw of Python's `random.sample` on packed integers: a list of positions would take 40 bytes per token.
    """
    kept = int(count * share)
    chosen = np.zeros(count, dtype=bool)
    # Python draws few positions out of many with another algorithm.
    if count > 21 + (4 ** math.ceil(math.log(kept * 3, 4)) if kept > 5 else 0):
        chosen[random_sample(count, share, seed)] = True
        return torch.from_numpy(chosen)
    draw, pool = random.Random(seed).getrandbits, array("q", range(count))
    for last in range(count - 1, count - 1 - kept, -1):
        bits = (last + 1).bit_length()
        position = draw(bits)
        while position > last:
            position = draw(bits)
        chosen[pool[position]] = True
        pool[position] = pool[last]
    return torch.from_numpy(chosen)


def random_token_labels(labels: Sequence[Sequence[int]], share: float, seed: int = 42) -> list[list[int]]:
    """Keep the labels of a random share of the response tokens of a data set; the others become -100.

    Source: TokenCleaning (arXiv 2502.01968), random baseline.
    """
    require_share(share)
    places = [(row, t) for row, ids in enumerate(labels) for t, label in enumerate(ids) if label != -100]
    kept = {places[position] for position in random_sample(len(places), share, seed)}
    return [
        [label if (row, t) in kept else -100 for t, label in enumerate(ids)] for row, ids in enumerate(labels)
    ]


@WEIGHINGS.register("random")
@dataclass(frozen=True, kw_only=True)
class RandomTokens(TokenWeighing):
    """Learn from a random share of the tokens, the same in every epoch.

    Args:
        scope: `dataset` draws from all tokens at once; `sample` keeps the same share of each sample.
    """

    scope: Scope = "dataset"
    rounding: Rounding = "floor"
    seed: int = 42

    @property
    def needs(self) -> frozenset[str]:
        """One uniform number per token."""
        return frozenset({"uniform"})

    def score(self, signals: Signals) -> Float[Tensor, "batch seq"]:
        """A uniform random number, independent of the token."""
        return signals["uniform"]

    def choose(self, signals: Signals) -> Bool[Tensor, "batch seq"]:
        """Sample over the whole data set, or rank uniform numbers within samples."""
        if self.scope != "dataset":
            return super().choose(signals)
        learnable = signals.learnable
        kept = torch.zeros_like(learnable)
        kept[learnable] = random_choice(int(learnable.sum()), self.share, self.seed).to(learnable.device)
        return kept
