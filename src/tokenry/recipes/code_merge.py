"""Token merging for code models (arXiv 2507.14423): can an encoder carry one token per identifier from its middle on, at the same accuracy?

Functions of the standard library, labelled by their package, a RoBERTa of four layers trained from nothing; every arm sees the same
functions in the same order, from three seeds, and is compared with the arm without merging function by function (means over the seeds).

    arms       no merging; the mean after layer 0, 2 and 3; a learned combination after layer 2
    control    put into the model that was trained without merging: identifiers, and as many random neighbours in groups of the same sizes
    time       CPU time of a wider encoder at 256 and 512 tokens, by turns, the merging after the embeddings

Headline: merged after the middle layer, at least 8 % fewer FLOPs and an accuracy not worse by more than 2 points. The paper's tables could
not be read: its figures are those of the abstract.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray

from tokenry.compression import apply_token_reduction, layer_costs
from tokenry.compression.text import SubwordMerging, flops_saved
from tokenry.core.io.progress import Progress, part
from tokenry.core.stats import (
    FEWEST_SEEDS,
    Estimate,
    all_of,
    estimate_of_mean,
    exactly,
    paired_difference,
    shown,
)
from tokenry.core.tensors.patching import find_encoder
from tokenry.core.train.classifier import ClassifierConfig
from tokenry.evaluation.encoders import throughput
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.code_functions import (
    CodeTask,
    code_classifier,
    library_task,
    shuffled_groups,
    vulnerability_task,
)
from tokenry.recipes.testbeds.tiny_encoder import EncoderSizes

LEAST_SAVED, MARGIN, FOLLOWS = 0.08, 0.02, 0.75
NONE, EARLY, MIDDLE, LATE, LEARNED = "no merging", "early", "middle", "late", "middle, learned"
IDENTIFIERS, NEIGHBOURS = "untrained identifiers", "random neighbours"
ABSTRACT = "1 to 19 % fewer FLOPs; at worst F1 −1.82 points"

Right = Float[ndarray, "functions"]
"""By function, the share of the seeds that classify it right."""


@dataclass(frozen=True)
class MergeSizes:
    """Size of the experiment at one scale.

    Attributes:
        task: loads data and classifiers.
        seeds: trainings of each arm.
        timed: size of the encoder that is timed.
        lengths: tokens of a source that it is timed on.
        timed_texts: sources of each length.
    """

    task: Callable[[], CodeTask] = library_task
    layers: int = 4
    training: ClassifierConfig = field(
        default_factory=lambda: ClassifierConfig(epochs=3, batch_size=16, learning_rate=1e-3)
    )
    seeds: int = 3
    timed: EncoderSizes = field(
        default_factory=lambda: EncoderSizes(width=256, heads=4, feed_forward=1024, positions=512)
    )
    lengths: tuple[int, ...] = (256, 512)
    timed_texts: int = 8
    rounds: int = 5

    def arms(self) -> dict[str, SubwordMerging | None]:
        """The merging of each arm."""
        middle = self.layers // 2
        return {
            NONE: None,
            MIDDLE: SubwordMerging(middle),
            LEARNED: SubwordMerging(middle, "learned"),
            EARLY: SubwordMerging(0),
            LATE: SubwordMerging(self.layers - 1),
        }


@recipe(
    "code-merge",
    laptop=MergeSizes(),
    paper=MergeSizes(
        vulnerability_task,
        layers=12,
        training=ClassifierConfig(epochs=5, batch_size=32, learning_rate=2e-5, bfloat16=True),
        timed=EncoderSizes(layers=12, width=768, heads=12, feed_forward=3072),
        timed_texts=64,
    ),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Train every arm, try what is not trained, time, and judge each claim."""
    sizes: MergeSizes = run.sizes
    run.progress("functions", 0.0)
    task = sizes.task()
    found = measured(sizes, task, run.progress)
    run.settings |= {
        "sizes": {name: value for name, value in asdict(sizes).items() if name != "task"},
        "functions": {"train": len(task.train.sources), "test": len(task.test.sources)},
        "tokens": found.tokens,
        "savings": found.savings,
        "accuracy": {name: 100 * float(right.mean()) for name, right in found.right.items()},
        "timed": [asdict(at) for at in found.timed],
    }
    with run.figure(9, 3.6) as figure:
        draw(figure, found)
    yield from claims(found)


@dataclass(frozen=True)
class TimedMerge:
    """Share of the FLOPs saved for sources of one length, and how many times as fast the encoder is with merging, in CPU time."""

    length: int
    saved: float
    speed: Estimate


@dataclass(frozen=True)
class MergeMeasures:
    """What the claims are judged by.

    Attributes:
        tokens: mean tokens of a test function, without merging and with.
        savings: share of the FLOPs that each merging saves, the mean over the test functions.
        right: by arm, and by what was put into the arm without merging.
        timed: what was timed.
    """

    tokens: Mapping[str, float]
    savings: Mapping[str, float]
    right: Mapping[str, Right]
    timed: Sequence[TimedMerge]


def measured(sizes: MergeSizes, task: CodeTask, progress: Progress) -> MergeMeasures:
    """Run the experiment."""
    collator = SubwordMerging().collator(task.tokenizer, task.language, max_length=task.max_length)
    read, arms = collator.read(task.test.sources), sizes.arms()
    costs = layer_costs(find_encoder(task.classifier(0, None).model))
    right: dict[str, list[Right]] = {name: [] for name in (*arms, IDENTIFIERS, NEIGHBOURS)}
    trained = sizes.seeds * len(arms)
    for number, (seed, name) in enumerate(product(range(sizes.seeds), arms)):
        progress(f"{name}, seed {seed}", 0.05 + 0.8 * number / trained)
        merging = arms[name]
        classifier = task.classifier(seed, collator if merging else None)
        if merging:
            apply_token_reduction(classifier.model, merging, restore_length=True)
        classifier.fine_tune(task.train.sources, task.train.labels, replace(sizes.training, seed=seed))
        right[name].append(classifier.right(classifier.encode(task.test.sources), task.test.labels))
        if name == NONE:
            grouped = replace(classifier, collator=collator)
            with apply_token_reduction(grouped.model, SubwordMerging(), restore_length=True):
                right[IDENTIFIERS].append(grouped.right(read, task.test.labels))
                others = [shuffled_groups(code, seed) for code in read]
                right[NEIGHBOURS].append(grouped.right(others, task.test.labels))
    return MergeMeasures(
        tokens={
            "without merging": float(np.mean([len(code) for code in read])),
            "merged": float(np.mean([code.merged_length for code in read])),
        },
        savings={
            name: float(np.mean([flops_saved(costs, merging.after or 0, code) for code in read]))
            for name, merging in arms.items()
            if merging
        },
        right={name: np.mean(of_seeds, axis=0) for name, of_seeds in right.items()},
        timed=list(timed(sizes, task, part(progress, 0.85, 1.0))),
    )


def timed(sizes: MergeSizes, task: CodeTask, progress: Progress) -> Iterator[TimedMerge]:
    """Time sources of each length with merging after the embeddings, and without, by turns."""
    joined, merging = "\n".join(task.test.sources), SubwordMerging(0)
    for number, length in enumerate(sizes.lengths):
        texts = [
            joined[start : start + 8 * length]
            for start in range(0, 8 * length * sizes.timed_texts, 8 * length)
        ]
        collator = merging.collator(task.tokenizer, task.language, max_length=length)
        plain, merged = (
            replace(code_classifier(task.tokenizer, ("a", "b"), sizes.timed, 0, groups), max_length=length)
            for groups in (None, collator)
        )
        costs = layer_costs(find_encoder(plain.model))
        apply_token_reduction(merged.model, merging, restore_length=True)
        told = part(progress, number / len(sizes.lengths), (number + 1) / len(sizes.lengths))
        seconds = throughput({NONE: plain, EARLY: merged}, texts, sizes.timed_texts // 2, sizes.rounds, told)
        saved = float(np.mean([flops_saved(costs, 0, code) for code in collator.read(texts)]))
        yield TimedMerge(length, saved, seconds[EARLY].times_as_fast_as(seconds[NONE]))


def claims(found: MergeMeasures) -> Iterator[Claim]:
    """Put each claim beside its measurement."""
    saved, percent = found.savings[MIDDLE], {name: 100 * values for name, values in found.right.items()}
    difference = paired_difference(found.right[MIDDLE], found.right[NONE])
    points = difference.scaled(100)
    yield Claim(
        f"identifiers merged after the middle layer: at least {100 * LEAST_SAVED:.0f} % fewer FLOPs, and an accuracy not worse by more than "
        f"{100 * MARGIN:.0f} points",
        paper=ABSTRACT,
        measured=f"{saved:.1%} fewer FLOPs, accuracy {percent[MIDDLE].mean():.1f} %, difference {points.with_interval('+.1f')} points, "
        f"n = {points.samples:,}",
        control=f"{percent[NONE].mean():.1f} % ({NONE})",
        verdict=all_of([exactly(saved >= LEAST_SAVED), shown(difference, -MARGIN)]),
    )
    yield Claim.above(
        "a learned combination classifies more functions right than the mean (after the middle layer)",
        percent[LEARNED],
        percent[MIDDLE],
        "mean",
        unit=" %",
        paper="both are tried; which one wins could not be read",
    )
    yield Claim.above(
        f"merging late classifies more functions right than merging early ({found.savings[LATE]:.1%} against {found.savings[EARLY]:.1%} fewer FLOPs)",
        percent[LATE],
        percent[EARLY],
        EARLY,
        unit=" %",
        paper="late for classification, by a digest of the paper",
    )
    yield Claim.above(
        "put into a model that was trained without merging, identifiers lose less than as many random neighbours",
        percent[IDENTIFIERS],
        percent[NEIGHBOURS],
        NEIGHBOURS,
        unit=" %",
    )
    yield Claim(
        f"from {found.timed[0].length} tokens on, the time falls with the FLOPs: by at least {FOLLOWS:.0%} of the share",
        paper=None,
        measured="; ".join(
            f"{1 - 1 / at.speed.value:.1%} less CPU time at {at.length} tokens ({at.speed:.2f} times as fast)"
            for at in found.timed
        ),
        control="; ".join(f"{at.saved:.1%} fewer FLOPs" for at in found.timed),
        verdict=all_of(shown(at.speed, 1 / (1 - FOLLOWS * at.saved), FEWEST_SEEDS) for at in found.timed),
    )


def draw(figure: Figure, found: MergeMeasures) -> None:
    """Accuracy against FLOPs, and time against FLOPs."""
    accuracy, time = figure.subplots(1, 2, width_ratios=(1.6, 1))
    for name, marker in zip((NONE, EARLY, MIDDLE, LATE, LEARNED), "osD^v", strict=True):
        estimate = estimate_of_mean(100 * found.right[name])
        flops = 100 * (1 - found.savings.get(name, 0.0))
        accuracy.errorbar(
            flops, estimate.value, 2 * estimate.standard_error, fmt=marker, capsize=3, label=name
        )
    accuracy.set(xlabel="FLOPs, % of the encoder without merging", ylabel="accuracy, % (± 2 standard errors)")
    accuracy.legend(fontsize=8)
    lengths = [at.length for at in found.timed]
    time.plot(lengths, [100 * at.saved for at in found.timed], "k:o", label="FLOPs")
    time.plot(lengths, [100 * (1 - 1 / at.speed.value) for at in found.timed], "C0-s", label="CPU time")
    time.set(xlabel="tokens of a source", ylabel="saved, %", xticks=lengths)
    time.set_ylim(bottom=0)
    time.legend(fontsize=8)
