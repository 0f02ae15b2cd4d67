"""Sums that can be written out in several styles: a policy learns right answers by reinforcement, and may forget the other styles.

A prompt is two digits. A response is the last digit of their sum, a style, the digits that this style repeats, and an end token: 3 to 6
tokens. The policy, a small GRU, has read responses in all styles alike, with 46 % right answers. The reward is 1 for a right answer. The
style comes after the answer and earns nothing: what entropy is lost on styles is lost for nothing.

Each generation is learned in several minibatches, so that the policy has moved from the second one on. The objective is TRL's, with its
upper limit `delta` of the ratio and the mean over tokens.

Source: the small-scale check of HAPO (arXiv 2509.16591) that this follows is ours.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_constant_schedule

from tokenry.alignment import Rollouts, TokenCredit
from tokenry.recipes.kit import fit, linear
from tokenry.recipes.testbeds.policy_trial import Arm, Curve, PolicyPoint

DIGITS = 10
REPEATS = ((), (0,), (0, 1), (1, 0, 1))
"""The operands that each style repeats."""
STYLES = len(REPEATS)
END, PADDING = DIGITS + STYLES, DIGITS + STYLES + 1
VOCABULARY = PADDING + 1
LONGEST = 3 + max(map(len, REPEATS))


@dataclass(frozen=True)
class StyleSetting:
    """What is trained how.

    Attributes:
        right: share of answers in what the base policy reads that are right by more than chance.
        base_steps: training steps of the base policy.
        base_batch_size: responses per such step.
        generations: generations of reinforcement learning.
        samples: responses to each.
        minibatches: optimiser steps per generation.
        learning_rate: of reinforcement learning.
        every: generations between two measurements.
        measured: responses per measurement.
    """

    right: float = 0.4
    base_steps: int = 400
    base_batch_size: int = 256
    generations: int = 60
    prompts: int = 32
    samples: int = 16
    minibatches: int = 16
    learning_rate: float = 1e-3
    every: int = 2
    measured: int = 1000

    def prepared(self, seed: int) -> Callable[[Arm], Curve]:
        """Train the base policy; what is returned trains a copy of it in one way."""
        return partial(learn, train_base(self, seed), setting=self, seed=seed)


class Policy(nn.Module):
    """A GRU over prompt and response."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(
        self, ids: Int[Tensor, "rows seq"], state: Tensor | None = None
    ) -> tuple[Float[Tensor, "rows seq vocabulary"], Tensor]:
        """Logits of the next token at each position, and the state after the last."""
        hidden, state = self.gru(self.embedding(ids), state)
        return self.head(hidden), state


class Batch(NamedTuple):
    """A minibatch of a generation.

    Attributes:
        prompts: the two digits.
        mask: where they have a token.
        old: log-probabilities under the policy that sampled them.
        h: the entropy signal of the credit rule, where it has one.
    """

    prompts: Int[Tensor, "rows 2"]
    ids: Int[Tensor, "rows tokens"]
    mask: Bool[Tensor, "rows tokens"]
    old: Float[Tensor, "rows tokens"]
    advantages: Float[Tensor, "rows tokens"]
    h: Float[Tensor, "rows tokens"]


def train_base(setting: StyleSetting, seed: int) -> Policy:
    """Train the policy on responses in all styles."""
    generator = torch.Generator().manual_seed(1000 + seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = Policy()

    def batches() -> tuple[Tensor, Tensor]:
        prompts = torch.randint(DIGITS, (setting.base_batch_size, 2), generator=generator)
        return prompts, _demonstrations(prompts, setting.right, generator)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        logp, _ = score(policy, *batch)
        mask = batch[1] != PADDING
        return -(logp * mask).sum() / mask.sum()

    fit(policy, iter(batches, None), loss, setting.base_steps, 1e-2, linear)
    return policy


def learn(base: Policy, arm: Arm, setting: StyleSetting, seed: int) -> Curve:
    """Train a copy of the base policy by reinforcement and measure it on the way."""
    policy = copy.deepcopy(base)
    curve: list[PolicyPoint] = []

    def loss(batch: Batch) -> Tensor:
        logp, entropies = score(policy, batch.prompts, batch.ids)
        bonus = arm.entropy_bonus * (entropies * batch.mask).sum() / batch.mask.sum()
        return clipped_loss(logp, batch, arm) - bonus

    steps = setting.generations * setting.minibatches
    batches = _generations(policy, arm, setting, seed, curve)
    fit(policy, batches, loss, steps, setting.learning_rate, _constant, clip=1.0)
    return [*curve, measure(policy, setting)]


def _constant(optimizer: Optimizer, steps: int) -> LRScheduler:
    return get_constant_schedule(optimizer)


def _generations(
    policy: Policy, arm: Arm, setting: StyleSetting, seed: int, curve: list[PolicyPoint]
) -> Iterator[Batch]:
    """Sample a generation from the policy as it is now, and hand it out in minibatches."""
    generator = torch.Generator().manual_seed(2000 + seed)
    credit, statistics = arm.credit, None
    for number in range(setting.generations):
        if number % setting.every == 0:
            curve.append(measure(policy, setting))
        prompts = torch.randint(DIGITS, (setting.prompts, 2), generator=generator)
        prompts = prompts.repeat_interleave(setting.samples, 0)
        with torch.no_grad():
            ids = sample(policy, prompts, generator, credit, statistics)
            mask = ids != PADDING
            old, entropies = score(policy, prompts, ids)
        groups = torch.arange(setting.prompts).repeat_interleave(setting.samples)
        advantages = credit.advantages(Rollouts(ids, mask, reward(prompts, ids), groups))
        statistics = credit.entropy_statistics(entropies, mask) if "temperature" in credit.parts else None
        for rows in torch.randperm(len(ids), generator=generator).chunk(setting.minibatches):
            h = credit.entropy_signal(entropies[rows], mask[rows]) if credit.parts else entropies[rows]
            yield Batch(prompts[rows], ids[rows], mask[rows], old[rows], advantages[rows], h)


def clipped_loss(logp: Float[Tensor, "rows tokens"], batch: Batch, arm: Arm) -> Tensor:
    """The clipped objective, a mean over tokens, with the parts of the arm's credit rule."""
    parts = arm.credit.parts
    low: Any = arm.low
    high: Any = arm.high
    if "clip_range" in parts:
        low, high = arm.credit.clip_range(batch.h, low, high)
    ratio, advantages = (logp - batch.old).exp(), batch.advantages
    if "redistribute" in parts:
        advantages = arm.credit.redistribute(advantages, ratio.detach(), batch.h, low, high)
    gain = torch.min(ratio.clamp(max=arm.delta) * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    return -(gain * batch.mask).sum() / batch.mask.sum()


def score(
    policy: Policy, prompts: Int[Tensor, "rows 2"], ids: Int[Tensor, "rows tokens"]
) -> tuple[Float[Tensor, "rows tokens"], Float[Tensor, "rows tokens"]]:
    """Log-probability of each token of the responses, and the entropy of the distribution that it was drawn from."""
    logits, _ = policy(torch.cat([prompts, ids], dim=1)[:, :-1])
    logps = logits[:, 1:].log_softmax(-1)
    return logps.gather(-1, ids[..., None])[..., 0], -(logps.exp() * logps).sum(-1)


def sample(
    policy: Policy,
    prompts: Int[Tensor, "rows 2"],
    generator: Generator,
    credit: TokenCredit | None = None,
    statistics: Any = None,
) -> Int[Tensor, "rows tokens"]:
    """Sample a response to each prompt, at the temperature of the credit rule where there are statistics."""
    logits, state = policy(prompts)
    ids = torch.full((len(prompts), LONGEST), PADDING)
    going = torch.ones(len(prompts), dtype=torch.bool)
    for place in range(LONGEST):
        row = logits[:, -1]
        if credit is not None and statistics is not None:
            row = row / credit.temperature(row, statistics)[:, None]
        token = row.softmax(-1).multinomial(1, generator=generator)[:, 0]
        ids[going, place] = token[going]
        going &= (token != END) & (token != PADDING)
        logits, state = policy(token[:, None], state)
    return ids


@torch.no_grad()
def measure(policy: Policy, setting: StyleSetting) -> PolicyPoint:
    """Sample responses at temperature 1, the draws the same for every policy."""
    generator = torch.Generator().manual_seed(3000)
    prompts = torch.randint(DIGITS, (setting.measured, 2), generator=generator)
    ids = sample(policy, prompts, generator)
    mask = ids != PADDING
    _, entropies = score(policy, prompts, ids)
    return PolicyPoint(float(reward(prompts, ids).mean()), float((entropies * mask).sum() / mask.sum()))


def reward(prompts: Int[Tensor, "rows 2"], ids: Int[Tensor, "rows tokens"]) -> Float[Tensor, "rows"]:
    """1 where the first token is the last digit of the sum."""
    return (ids[:, 0] == prompts.sum(-1) % DIGITS).float()


def _demonstrations(
    prompts: Int[Tensor, "rows 2"], right: float, generator: Generator
) -> Int[Tensor, "rows tokens"]:
    """A response in a random style to each prompt; an answer that is not right is any digit."""
    number = len(prompts)
    style = torch.randint(STYLES, (number,), generator=generator)
    answer = prompts.sum(-1) % DIGITS
    guess = torch.rand(number, generator=generator) >= right
    answer[guess] = torch.randint(DIGITS, (int(guess.sum()),), generator=generator)
    ids = torch.full((number, LONGEST), PADDING)
    ids[:, 0], ids[:, 1] = answer, DIGITS + style
    for which, repeats in enumerate(REPEATS):
        rows = style == which
        ids[rows, 2 : 2 + len(repeats)] = prompts[rows][:, list(repeats)]
        ids[rows, 2 + len(repeats)] = END
    return ids
