"""Policies that are tables, whose exact advantages are known or whose learning takes seconds.

TreePolicy          a distribution for every prefix, drawn at random; V(prefix) by enumeration, and exactly
A(prefix, token) = V(prefix + token) − V(prefix)
steps_to_learn      a distribution for every position, trained by policy gradient until it is right 9 times in 10
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.alignment import Rollouts

CreditRule = Callable[[Rollouts], Float[Tensor, "rows tokens"]]


def as_rollouts(ids: Int[Tensor, "rows tokens"], rewards: Float[Tensor, "rows"], group_size: int) -> Rollouts:
    """Whole responses in groups of `group_size` rows that follow each other."""
    return Rollouts(ids, torch.ones_like(ids), rewards, torch.arange(len(ids)) // group_size)


@dataclass(frozen=True)
class TreePolicy:
    """A random policy over all sequences of a few tokens; a response earns 1 if it has most of its first tokens right.

    Attributes:
        length: tokens of a response.
        tokens: size of the vocabulary.
        concentration: of the Dirichlet distribution of every prefix; small numbers make decided policies.
        decisive: how many tokens at the beginning are judged; token 0 is right, and all but one of them must be.
    """

    seed: int
    length: int = 6
    tokens: int = 3
    concentration: float = 1.0
    decisive: int = 3

    @cached_property
    def probabilities(self) -> list[Float[Tensor, "prefixes tokens"]]:
        """The distribution after each prefix, by the length of the prefix; prefixes are numbers in base `tokens`."""
        generator = torch.Generator().manual_seed(self.seed)
        tables = []
        for length in range(self.length):
            alpha = torch.full((self.tokens**length, self.tokens), self.concentration, dtype=torch.float64)
            drawn = torch._standard_gamma(alpha, generator).clamp(min=1e-300)
            tables.append(drawn / drawn.sum(1, keepdim=True))
        return tables

    @cached_property
    def values(self) -> list[Float[Tensor, "prefixes"]]:
        """The expected reward after each prefix, by the length of the prefix."""
        last = torch.arange(self.tokens**self.length)
        places = self.tokens ** torch.arange(self.length - 1, self.length - 1 - self.decisive, -1)
        right = (last[:, None] // places % self.tokens == 0).sum(1)
        values = [(right >= self.decisive - 1).double()]
        for table in reversed(self.probabilities):
            values.insert(0, (table * values[0].view(-1, self.tokens)).sum(1))
        return values

    def sample(
        self, rows: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "rows tokens"], Float[Tensor, "rows"], Float[Tensor, "rows tokens"]]:
        """Draw responses; their tokens, their rewards and the exact advantage of every token."""
        prefix, ids, advantages = torch.zeros(rows, dtype=torch.long), [], []
        for length, table in enumerate(self.probabilities):
            token = torch.multinomial(table[prefix], 1, generator=generator)[:, 0]
            longer = prefix * self.tokens + token
            advantages.append(self.values[length + 1][longer] - self.values[length][prefix])
            ids.append(token)
            prefix = longer
        return torch.stack(ids, 1), self.values[-1][prefix], torch.stack(advantages, 1)


@dataclass(frozen=True)
class LearningSetting:
    """Responses of independent positions, of which a few decide the reward.

    Attributes:
        decisive: positions that must hold token 0 for a reward of 1.
        length: tokens of a response.
        tokens: size of the vocabulary.
        group_size: responses of a group.
        learning_rate: of plain gradient ascent on the mean over responses of Σ A log π.
        right: probability of a reward at which learning is over.
        most_steps: where learning is given up.
    """

    decisive: tuple[int, ...] = (0, 1, 2)
    length: int = 8
    tokens: int = 4
    groups: int = 8
    group_size: int = 8
    learning_rate: float = 0.5
    right: float = 0.9
    most_steps: int = 1000


def steps_to_learn(rule: CreditRule, setting: LearningSetting, seed: int) -> int:
    """Train a table of logits with the advantages of a rule, and count the steps until responses are right."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.zeros(setting.length, setting.tokens, dtype=torch.float64)
    decisive = list(setting.decisive)
    rows = setting.groups * setting.group_size
    for step in range(setting.most_steps):
        policy = logits.softmax(-1)
        if float(policy[decisive, 0].prod()) >= setting.right:
            return step
        ids = torch.multinomial(policy, rows, replacement=True, generator=generator).T
        rewards = (ids[:, decisive] == 0).all(1).double()
        advantages = rule(as_rollouts(ids, rewards, setting.group_size)).double()
        # The gradient of the mean over responses of Σ A log π, in closed form.
        chosen = torch.nn.functional.one_hot(ids, setting.tokens).double() - policy
        logits += setting.learning_rate * (advantages[..., None] * chosen).mean(0)
    return setting.most_steps
