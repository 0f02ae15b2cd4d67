"""How to (re)warm a model (arXiv 2308.04014): what do warm-up, highest rate and replay do to new and to old text?

A language model of three layers is pretrained on docstrings of scikit-learn, then goes on with docstrings of sympy. All arms see the same
batches for the same number of steps; two seeds each. Measured in nats per token on held-out blocks of both texts:

    re-warmed              1 % warm-up to the rate of the pretraining, cosine to a tenth of it
    no / 2 % warm-up       half / twice the rate       constant minimum, as the pretraining ended       5 % replay
    infinite               cool-down, constant rate, annealing at the end
    from scratch           the re-warmed schedule on an untrained model
    the same text          the re-warmed schedule on the old text, from a base that was trained on until its rate was a thousandth

Headline: continued beats from scratch, however large the new text. Two seeds are too few to be the units: the
units are held-out blocks, each with its mean over the seeds. The paper shows curves only, of Pythia-410M on 300 billion tokens.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray
from transformers import PreTrainedModel

from tokenry.core.io.progress import Progress, in_turn, part
from tokenry.core.stats import absent, all_of, bootstrap, paired_difference, shown
from tokenry.pretraining import (
    ContinualReport,
    InfiniteSchedule,
    RateSchedule,
    RewarmSchedule,
    compare_schedules,
)
from tokenry.pretraining.continual import DOWNSTREAM as NEW
from tokenry.pretraining.continual import UPSTREAM as OLD
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.two_corpora import TwoCorpora, pythia, two_packages

CURVES = "curves only"
REWARMED, NO_WARMUP, LONG_WARMUP = "re-warmed", "no warm-up", "2 % warm-up"
HALF, TWICE, CONSTANT = "half the rate", "twice the rate", "constant minimum"
INFINITE, REPLAY, SCRATCH, SAME = "infinite", "5 % replay", "from scratch", "the same text"

CLOSE, SHARE = 0.02, 0.2
"""Nats per token within which schedules are equal; largest spread over warm-up lengths, as a share of that over highest rates."""


@dataclass(frozen=True)
class ArmLosses:
    """What one arm came to, the mean over the seeds.

    Attributes:
        before: loss of each held-out block of each side before.
        final: the same at the end.
        steps: steps of the points of the curves.
        curves: loss of each side at these points.
    """

    before: Mapping[str, Float[ndarray, "blocks"]]
    final: Mapping[str, Float[ndarray, "blocks"]]
    steps: Sequence[int]
    curves: Mapping[str, Float[ndarray, "points"]]

    @property
    def forgetting(self) -> Float[ndarray, "blocks"]:
        """By how much the loss of each block of the old text has risen."""
        return self.final[OLD] - self.before[OLD]


Arms = Mapping[str, ArmLosses]


@recipe("rewarm", laptop=two_packages, paper=pythia)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Pretrain, go on by every schedule, and judge each claim."""
    load: Callable[[Progress], TwoCorpora] = run.sizes
    subject = load(run.progress)
    arms = measure(subject, part(run.progress, 0.02, 1.0))
    run.settings |= {
        "subject": subject.name,
        "seeds": list(subject.seeds),
        "steps": {"pretraining": subject.base_steps, "continued": subject.steps},
        "blocks": {"per step": subject.config.batch_size, "held out": len(subject.new.held_out)},
        "max_lr": subject.max_lr,
        "loss": {
            name: {
                side: {"before": float(arm.before[side].mean()), "final": float(arm.final[side].mean())}
                for side in (OLD, NEW)
            }
            for name, arm in arms.items()
        },
    }
    with run.figure(11, 3.6) as figure:
        draw(figure, arms, schedules(subject.steps, subject.max_lr))
    yield from judge(arms)


def schedules(steps: int, max_lr: float) -> dict[str, RateSchedule]:
    """The schedules that are compared on the same batches."""

    def rewarmed(warmup: float = 0.01, factor: float = 1.0) -> RewarmSchedule:
        return RewarmSchedule(steps, int(warmup * steps), factor * max_lr)

    return {
        REWARMED: rewarmed(),
        NO_WARMUP: rewarmed(warmup=0.0),
        LONG_WARMUP: rewarmed(warmup=0.02),
        HALF: rewarmed(factor=0.5),
        TWICE: rewarmed(factor=2.0),
        CONSTANT: RewarmSchedule(steps, 0, 0.1 * max_lr, 0.1 * max_lr),
        INFINITE: InfiniteSchedule.over(steps, int(0.01 * steps), max_lr),
    }


def measure(subject: TwoCorpora, progress: Progress) -> Arms:
    """Train every arm with every seed."""
    found = [_of_seed(subject, seed, told) for seed, told in in_turn(subject.seeds, progress)]
    return {name: _mean([reports[name] for reports in found]) for name in found[0]}


def _of_seed(subject: TwoCorpora, seed: int, progress: Progress) -> dict[str, ContinualReport]:
    old, new, steps = subject.old, subject.new, subject.steps
    grid = schedules(steps, subject.max_lr)
    config = replace(subject.config, seed=seed, steps=steps)
    done, whole = 0, subject.base_steps + (len(grid) + 4) * steps

    def next_part(count: int) -> Progress:
        nonlocal done
        begun, done = done, done + count
        return part(progress, begun / whole, done / whole)

    base = _pretrained(subject, seed, next_part(subject.base_steps))

    def go_on(
        model: PreTrainedModel, name: str, schedule: RateSchedule = grid[REWARMED], **changed: Any
    ) -> ContinualReport:
        given: dict[str, Any] = {"old": old, "new": new, "config": config} | changed
        return compare_schedules(lambda: model, grid={name: schedule}, progress=next_part(steps), **given)[
            name
        ]

    found = compare_schedules(
        lambda: copy.deepcopy(base), old, new, grid, config, progress=next_part(len(grid) * steps)
    )
    found[REPLAY] = go_on(copy.deepcopy(base), REPLAY, config=replace(config, replay=0.05))
    found[SCRATCH] = go_on(subject.fresh(seed), SCRATCH)
    lowered = RewarmSchedule(steps, 0, 0.1 * subject.max_lr, 0.001 * subject.max_lr)
    go_on(base, "training the base on", lowered, new=old)
    found[SAME] = go_on(base, SAME, new=old, config=replace(config, seed=seed + 1000))
    return found


def _pretrained(subject: TwoCorpora, seed: int, progress: Progress) -> PreTrainedModel:
    if subject.pretrained is not None:
        return subject.pretrained()
    model, steps = subject.fresh(seed), subject.base_steps
    config = replace(subject.config, seed=seed, steps=steps, evaluate_every=steps)
    schedule = {"pretraining": RewarmSchedule(steps, int(0.01 * steps), subject.max_lr)}
    compare_schedules(lambda: model, None, subject.old, schedule, config, progress=progress)
    return model


def _mean(reports: Sequence[ContinualReport]) -> ArmLosses:
    sides = (OLD, NEW)
    return ArmLosses(
        {side: np.mean([report.before_by_block(side) for report in reports], axis=0) for side in sides},
        {side: np.mean([report.final_by_block(side) for report in reports], axis=0) for side in sides},
        reports[0].steps,
        {side: np.mean([report.curve(side) for report in reports], axis=0) for side in sides},
    )


def judge(arms: Arms) -> Iterator[Claim]:
    """Put each claim beside its measurement, block by block."""
    final = {side: {name: arm.final[side] for name, arm in arms.items()} for side in (OLD, NEW)}
    yield Claim.above(
        "continued is better on the new text than from scratch in as many steps (nats per token)",
        final[NEW][REWARMED],
        final[NEW][SCRATCH],
        SCRATCH,
        lower=True,
        spec=".3f",
        paper=f"for every re-warmed run ({CURVES})",
    )
    yield _spreads(final[NEW])
    yield _higher_rates(final)
    yield _replay(arms)
    infinite = paired_difference(final[NEW][INFINITE], final[NEW][REWARMED])
    yield Claim(
        f"annealed from the constant phase, the loss on the new text is that of the cosine within {CLOSE} nats per token",
        "equal (arXiv 2403.08763; repository notes)",
        measured=f"{final[NEW][INFINITE].mean():.3f} (difference {infinite:+.3f}, n = {infinite.samples})",
        control=f"{final[NEW][REWARMED].mean():.3f} ({REWARMED})",
        verdict=absent(infinite, CLOSE),
    )
    yield Claim.above(
        "re-warmed on the same text, the loss ends above where it began (nats per token)",
        arms[SAME].final[OLD],
        arms[SAME].before[OLD],
        "before",
        spec=".3f",
        paper=f"not recovered within 50 B tokens ({CURVES})",
    )


def _spreads(final: Mapping[str, Float[ndarray, "blocks"]]) -> Claim:
    warmups, rates = (NO_WARMUP, REWARMED, LONG_WARMUP), (HALF, REWARMED, TWICE)

    def spread(*arms: Float[ndarray, "blocks"]) -> float:
        return float(np.ptp([arm.mean() for arm in arms]))

    margin = bootstrap(
        lambda *blocks: SHARE * spread(*blocks[3:]) - spread(*blocks[:3]),
        *(final[name] for name in (*warmups, *rates)),
    )
    of_warmups, of_rates = (spread(*(final[name] for name in names)) for names in (warmups, rates))
    return Claim(
        f"the loss on the new text depends on the length of the warm-up less than {SHARE:g} times as much as on the highest rate (spread, nats)",
        f"no visible effect of 0 to 2 % ({CURVES})",
        measured=f"{of_warmups:.4f} over {', '.join(warmups)} (margin {margin:.4f})",
        control=f"{of_rates:.4f} over half, once and twice the rate",
        verdict=shown(margin),
    )


def _higher_rates(final: Mapping[str, Mapping[str, Float[ndarray, "blocks"]]]) -> Claim:
    steps = [
        paired_difference(final[side][after], final[side][before]).scaled(sign)
        for side, sign in ((NEW, -1), (OLD, 1))
        for before, after in ((HALF, REWARMED), (REWARMED, TWICE))
    ]
    new, old = (
        ", ".join(f"{final[side][name].mean():.3f}" for name in (HALF, REWARMED, TWICE))
        for side in (NEW, OLD)
    )
    return Claim(
        "a higher rate is better on the new text and worse on the old (nats per token at half, once and twice the rate)",
        f"so at the end of training ({CURVES})",
        measured=f"new {new}; old {old}",
        control=f"differences in the direction of the claim {', '.join(f'{step:+.3f}' for step in steps)}",
        verdict=all_of(map(shown, steps)),
    )


def _replay(arms: Arms) -> Claim:
    without, replayed = arms[REWARMED].forgetting, arms[REPLAY].forgetting
    saved = paired_difference(0.5 * without, replayed)
    return Claim(
        "5 % replay halves forgetting at the same compute (rise of the loss on the old text, nats per token)",
        "most of it with 25 % for German: 1.39 to 0.16 (arXiv 2403.08763; repository notes)",
        measured=f"{replayed.mean():.3f} (below half by {saved:+.3f}, n = {saved.samples})",
        control=f"{without.mean():.3f} (without replay)",
        verdict=shown(saved),
    )


def draw(figure: Figure, arms: Arms, grid: Mapping[str, RateSchedule]) -> None:
    """The schedules, and both losses through the training."""
    rates, new, old = figure.subplots(1, 3)
    steps = np.arange(max(arms[REWARMED].steps) + 1)
    for place, name in enumerate((REWARMED, HALF, TWICE, CONSTANT, INFINITE, REPLAY, SCRATCH)):
        color, dashed = f"C{place}", "--" if name in (REPLAY, SCRATCH) else "-"
        if name in grid:
            rates.plot(steps, grid[name](steps), color=color, label=name)
        for axes, side in ((new, NEW), (old, OLD)):
            arm, first = arms[name], name != SCRATCH
            losses = [*[arm.before[side].mean()] * first, *arm.curves[side]]
            axes.plot([*[0] * first, *arm.steps], losses, dashed, color=color, marker=".", label=name)
    titles = ("learning rate", "loss on the new text (nats per token)", "loss on the old text")
    for axes, title in zip((rates, new, old), titles, strict=True):
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
    new.legend(fontsize=7)
    figure.suptitle("A model goes on with other text (means over seeds; held-out blocks)", fontsize=10)
