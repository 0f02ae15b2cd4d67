"""One-token rollout (arXiv 2509.26313): does a policy-gradient step per token generalise better than supervised fine-tuning?

Prompts have many valid answers, and 30 % of the demonstrations are wrong. Fine-tuned on the same demonstrations in the same order:

    SFT          plain cross-entropy
    OTR          the exact rollout, and with 256 draws as published
    DFT          dynamic fine-tuning, OTR without sampling and without a reward for misses

Headline: answers sampled to prompts that were not tuned on are valid more often. The gain may be no more than a sharper distribution, so
SFT is also sampled at the temperature at which its answers have OTR's entropy. The paper's tables could not be read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from tokenry.core.io.progress import Progress
from tokenry.core.stats import FEWEST_SEEDS
from tokenry.finetuning import AllTokens, DynamicFineTuning, OneTokenRollout, TokenWeighing
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.many_answers import (
    AnswerSetting,
    Measured,
    fine_tune,
    measure,
    temperature_of_entropy,
    train_base,
)

SFT, EXACT, SAMPLED, DFT, COOLED = "SFT", "OTR", "OTR, 256 draws", "DFT", "SFT at OTR's entropy"
WEIGHINGS: Mapping[str, TokenWeighing] = {
    SFT: AllTokens(),
    EXACT: OneTokenRollout(),
    SAMPLED: OneTokenRollout(samples=256),
    DFT: DynamicFineTuning(),
}

Runs = Mapping[str, Sequence[Measured]]
"""By method, one measurement per seed."""


@dataclass(frozen=True)
class RolloutSizes:
    """Size of the experiment at one scale."""

    seeds: tuple[int, ...]
    setting: AnswerSetting = field(default_factory=AnswerSetting)


@recipe(
    "otr",
    laptop=RolloutSizes(seeds=(0, 1, 2, 3)),
    paper=RolloutSizes(seeds=tuple(range(10)), setting=AnswerSetting(base_steps=6000, steps=2000)),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Fine-tune with every method and seed, and judge each claim."""
    sizes: RolloutSizes = run.sizes
    runs = measure_all(sizes, run.progress)
    run.settings |= {
        "seeds": list(sizes.seeds),
        "setting": vars(sizes.setting),
        "measured": {name: [row._asdict() for row in rows] for name, rows in runs.items()},
    }
    with run.figure(6.4, 3.6) as figure:
        draw(figure, runs)
    yield from claims(runs)


def measure_all(sizes: RolloutSizes, progress: Progress) -> Runs:
    """Measure every method at every seed, and SFT cooled to the entropy of OTR."""
    runs: dict[str, list[Measured]] = {name: [] for name in (*WEIGHINGS, COOLED)}
    for number, seed in enumerate(sizes.seeds):
        progress(f"base model, seed {seed}", number / len(sizes.seeds))
        base = train_base(sizes.setting, seed)
        tuned = {}
        for place, (name, weighing) in enumerate(WEIGHINGS.items(), start=1):
            progress(f"{name}, seed {seed}", (number + place / (len(WEIGHINGS) + 1)) / len(sizes.seeds))
            tuned[name] = fine_tune(base, weighing, sizes.setting, seed)
            runs[name].append(measure(tuned[name], base, sizes.setting))
        entropy = runs[EXACT][-1].entropy
        temperature = temperature_of_entropy(tuned[SFT], base, sizes.setting, entropy)
        runs[COOLED].append(measure(tuned[SFT], base, sizes.setting, temperature))
    return runs


def claims(runs: Runs) -> Iterator[Claim]:
    """Put each claim beside its measurement; the units are the seeds."""
    valid = {name: [100 * row.valid for row in rows] for name, rows in runs.items()}
    drift = {name: [row.drift for row in rows] for name, rows in runs.items()}
    yield Claim.above(
        "sampled answers to prompts that were not tuned on are valid more often with OTR than with SFT",
        valid[EXACT], valid[SFT], SFT, fewest=FEWEST_SEEDS, unit=" %",
        paper="better than SFT in domain and out of domain, averaged over Qwen2.5 and Qwen3 models (tables not accessible)",
    )  # fmt: skip
    yield Claim.above(
        "they are so at the temperature at which SFT's answers have OTR's entropy",
        valid[EXACT], valid[COOLED], COOLED, fewest=FEWEST_SEEDS, unit=" %",
    )  # fmt: skip
    yield Claim.above(
        "256 draws end within 2 points of the exact rollout",
        [-abs(one - other) for one, other in zip(valid[SAMPLED], valid[EXACT], strict=True)], [-2.0] * len(valid[EXACT]),
        "2 points", fewest=FEWEST_SEEDS, unit=" points",
    )  # fmt: skip
    yield Claim.above(
        "OTR drifts less from the base model than SFT on a kind of prompt that was not tuned on",
        drift[EXACT], drift[SFT], SFT, lower=True, fewest=FEWEST_SEEDS, spec=".3f", unit=" nats",
        paper="fewer benchmarks fall below the base model",
    )  # fmt: skip
    yield Claim.above(
        "DFT's sampled answers are valid more often than SFT's",
        valid[DFT], valid[SFT], SFT, fewest=FEWEST_SEEDS, unit=" %",
    )  # fmt: skip


def draw(figure: Figure, runs: Runs) -> None:
    """One point per seed: entropy of the answers against the share that is valid."""
    axes = figure.subplots()
    for name, rows in runs.items():
        axes.scatter([row.entropy for row in rows], [100 * row.valid for row in rows], label=name, s=24)
    axes.set_xlabel("entropy of the answers (nats per token)")
    axes.set_ylabel("valid answers (%)")
    axes.legend(fontsize=8)
