"""HAPO (arXiv 2509.16591): does a policy keep more entropy where the entropy of each token steers what is learned?

A small policy learns sums, with several optimiser steps per generation, in four ways:

    DAPO              advantages of GRPO, clip range [0.8, 1.28]
    HAPO              all four parts, clip range [0.8, 1.2] before it is adapted
    HAPO, |h|         the same with the absolute value that the released code has in the place of the signed entropy
    DAPO + bonus      DAPO with an entropy bonus, which must be seen to keep entropy if the comparison can tell anything

Headline: entropy *at equal reward*. A policy loses entropy as it learns, so a method that learns more slowly has more entropy after
equally many steps, and has kept nothing. The paper compares at equal steps; that is a claim of its own.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure

from tokenry.alignment import GroupCredit, HeterogeneousCredit, Rollouts, TokenCredit
from tokenry.core.io.progress import Progress
from tokenry.core.stats import FEWEST_SEEDS, exactly
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.many_styles import StyleSetting
from tokenry.recipes.testbeds.math_policy import MathSetting
from tokenry.recipes.testbeds.policy_trial import Arm, Curve, at_equal_reward, at_the_end, entropy_at

DAPO, HAPO, RELEASED, BONUS = "DAPO", "HAPO", "HAPO, |h|", "DAPO + bonus"
ARMS: Mapping[str, Arm] = {
    DAPO: Arm(GroupCredit(), high=0.28),
    HAPO: Arm(HeterogeneousCredit()),
    RELEASED: Arm(HeterogeneousCredit(entropy_sign="released")),
    BONUS: Arm(GroupCredit(), high=0.28, entropy_bonus=0.05),
}
AVERAGES: Mapping[str, TokenCredit] = {DAPO: GroupCredit(), HAPO: HeterogeneousCredit(cap=math.inf)}
"""Rules without the exception for extreme groups, whose token sums are checked."""
TOLERANCE = 1e-6

Runs = Mapping[str, Sequence[Curve]]
"""By arm, one curve per seed."""


@dataclass(frozen=True)
class HapoSizes:
    """Size of the experiment at one scale.

    Attributes:
        seeds: one run of each arm per seed.
        setting: what is trained.
        rewards: rewards at which entropies are compared.
        groups: random groups whose token sums are checked.
    """

    seeds: tuple[int, ...]
    setting: StyleSetting | MathSetting
    rewards: tuple[float, ...]
    groups: int = 500


@recipe(
    "hapo",
    laptop=HapoSizes(tuple(range(6)), StyleSetting(), rewards=(0.6, 0.7, 0.8, 0.9)),
    paper=HapoSizes((0, 1, 2), MathSetting(), rewards=(0.3, 0.4, 0.5, 0.6)),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Train every arm with every seed, and judge each claim."""
    sizes: HapoSizes = run.sizes
    runs = learn_all(sizes, run.progress)
    sums = {name: token_sum(credit, sizes.groups) for name, credit in AVERAGES.items()}
    run.settings |= {
        "seeds": list(sizes.seeds),
        "setting": vars(sizes.setting),
        "rewards": list(sizes.rewards),
        "entropy_at_reward": {name: [_at(curve, sizes) for curve in curves] for name, curves in runs.items()},
        "end": {name: [at_the_end(curve)._asdict() for curve in curves] for name, curves in runs.items()},
        "token_sums": sums,
    }
    with run.figure(6.4, 3.6) as figure:
        draw(figure, runs)
    yield from claims(runs, sizes.rewards, sums)


def _at(curve: Curve, sizes: HapoSizes) -> list[float | None]:
    """The entropies at the rewards of comparison; None where one is not reached."""
    found = (entropy_at(curve, reward) for reward in sizes.rewards)
    return [None if math.isnan(entropy) else round(entropy, 4) for entropy in found]


def learn_all(sizes: HapoSizes, progress: Progress) -> Runs:
    """One curve per arm and seed; all arms of a seed begin with the same policy."""
    runs: dict[str, list[Curve]] = {name: [] for name in ARMS}
    parts = len(ARMS) + 1
    for number, seed in enumerate(sizes.seeds):
        progress(f"policy, seed {seed}", number / len(sizes.seeds))
        learn = sizes.setting.prepared(seed)
        for place, (name, arm) in enumerate(ARMS.items(), start=1):
            progress(f"{name}, seed {seed}", (number + place / parts) / len(sizes.seeds))
            runs[name].append(learn(arm))
    return runs


def token_sum(credit: TokenCredit, groups: int, samples: int = 16, longest: int = 40) -> float:
    """The sum of the advantages of a group's tokens, per token and without its sign, averaged over random groups.

    Responses are 1 to `longest` tokens long, rewards are 0 or 1.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, longest + 1, (groups * samples,), generator=generator)
    mask = torch.arange(longest) < lengths[:, None]
    rewards = torch.randint(2, (groups * samples,), generator=generator).double()
    of_group = torch.arange(groups).repeat_interleave(samples)
    advantages = credit.advantages(Rollouts(mask.long(), mask, rewards, of_group))
    sums = advantages.view(groups, -1).sum(-1) / mask.view(groups, -1).sum(-1)
    return float(sums.abs().mean())


def claims(runs: Runs, rewards: Sequence[float], sums: Mapping[str, float]) -> Iterator[Claim]:
    """Put each claim beside its measurement; the units are the seeds."""
    ends = {name: [at_the_end(curve) for curve in curves] for name, curves in runs.items()}
    yield _more_entropy(
        "at equal reward, HAPO keeps more entropy than DAPO", runs, HAPO, DAPO, rewards,
        paper="clearly higher entropy during training, at equal steps",
    )  # fmt: skip
    yield Claim.above(
        "after equally many steps, HAPO has more entropy than DAPO",
        [end.entropy for end in ends[HAPO]], [end.entropy for end in ends[DAPO]], DAPO,
        fewest=FEWEST_SEEDS, spec=".3f", unit=" nats", paper="clearly higher entropy during training",
    )  # fmt: skip
    yield Claim.above(
        "after equally many steps, HAPO has earned more reward than DAPO",
        [100 * end.reward for end in ends[HAPO]], [100 * end.reward for end in ends[DAPO]], DAPO,
        fewest=FEWEST_SEEDS, unit=" %", paper="40.6 % against 38.3 % (Qwen2.5-Math-1.5B, mean of six benchmarks)",
    )  # fmt: skip
    yield _more_entropy(
        "at equal reward, the signed entropy keeps more entropy than its absolute value",
        runs,
        HAPO,
        RELEASED,
        rewards,
    )
    yield _more_entropy(
        "the comparison can tell: at equal reward, an entropy bonus keeps more entropy",
        runs,
        BONUS,
        DAPO,
        rewards,
    )
    yield Claim(
        "the advantages of a group's tokens sum to 0 with the group average over tokens",
        paper="unbiased with a loss that is a mean over tokens",
        measured=f"{sums[HAPO]:.1e} per token",
        control=f"{sums[DAPO]:.3f} per token (GRPO)",
        verdict=exactly(sums[HAPO] <= TOLERANCE),
    )


def _more_entropy(
    claim: str, runs: Runs, ours: str, theirs: str, rewards: Sequence[float], paper: str | None = None
) -> Claim:
    """Judged by the seeds in which both reach one of the rewards."""
    pairs = np.array(
        [at_equal_reward(*curves, rewards) for curves in zip(runs[ours], runs[theirs], strict=True)]
    )
    found = pairs[~np.isnan(pairs).any(axis=1)]
    return Claim.above(
        claim, found[:, 0], found[:, 1], theirs, fewest=FEWEST_SEEDS, spec=".3f", unit=" nats", paper=paper
    )


def draw(figure: Figure, runs: Runs) -> None:
    """Entropy against reward, one line per seed: the way that each run took."""
    axes = figure.subplots()
    for number, (name, curves) in enumerate(runs.items()):
        for place, curve in enumerate(curves):
            axes.plot(
                [100 * point.reward for point in curve], [point.entropy for point in curve],
                color=f"C{number}", linewidth=0.8, alpha=0.7, label=name if place == 0 else None,
            )  # fmt: skip
    axes.set_xlabel("right answers (%)")
    axes.set_ylabel("entropy (nats per token)")
    axes.legend(fontsize=8)
