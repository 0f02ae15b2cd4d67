"""Ways to learn a policy by reinforcement, and what a policy does on the way: the terms of recipes that compare credit rules."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tokenry.alignment import TokenCredit


@dataclass(frozen=True)
class Arm:
    """One way to learn from rewards.

    Attributes:
        credit: the credit rule.
        low: how far below 1 a ratio is clipped, before the rule adapts it.
        high: how far above 1.
        delta: the largest ratio where the advantage is negative.
        entropy_bonus: factor of the mean entropy that the objective is raised by.
    """

    credit: TokenCredit
    low: float = 0.2
    high: float = 0.2
    delta: float = 10.0
    entropy_bonus: float = 0.0


class PolicyPoint(NamedTuple):
    """What a policy does at one time.

    Attributes:
        reward: mean reward of its responses.
        entropy: of their tokens, in nats per token.
    """

    reward: float
    entropy: float


Curve = Sequence[PolicyPoint]
"""A run of reinforcement learning: the same policy after more and more steps."""


def entropy_at(curve: Curve, reward: float | int) -> float:
    """The entropy when the reward is first reached, interpolated; nan where it is never reached, or from the start."""
    for before, after in itertools.pairwise(curve):
        if before.reward < reward <= after.reward:
            share = (reward - before.reward) / (after.reward - before.reward)
            return before.entropy + share * (after.entropy - before.entropy)
    return math.nan


def at_equal_reward(ours: Curve, theirs: Curve, rewards: Sequence[float]) -> tuple[float, float]:
    """The mean entropies of two runs over those of the rewards that both reach; nan where there is none."""
    pairs = np.array([(entropy_at(ours, reward), entropy_at(theirs, reward)) for reward in rewards])
    both = pairs[~np.isnan(pairs).any(axis=1)]
    if not len(both):
        return math.nan, math.nan
    mine, control = both.mean(axis=0).tolist()
    return mine, control


def at_the_end(curve: Curve, share: float = 0.2) -> PolicyPoint:
    """The mean over the last `share` of a run."""
    last = curve[-max(1, round(share * len(curve))) :]
    return PolicyPoint(*np.mean(last, axis=0).tolist())
