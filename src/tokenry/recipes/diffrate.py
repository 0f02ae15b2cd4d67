"""DiffRate (arXiv 2305.17997): at equal FLOPs, does a learned schedule beat a uniform one, and class attention chance?

A frozen vision transformer; counts of kept tokens are learned on its training images, everything is measured on test images:

    learned      counts from `search_rates`, pruning and merging in the order of class attention
    uniform      the same rate in every layer but the first: half pruned and half merged, all pruned, all merged
    controls     the learned counts in random order, and as many tokens dropped at random in every layer

Headline: 40 % fewer FLOPs, as in the abstract. The milder the budget, the less there is to win: where a uniform schedule loses a point,
no other can be a point above it. One budget is searched with the official gradient too, as the control of meeting the target. Accuracies
are compared image by image. The paper's tables could not be read: its figures are those of the authors' repository.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from matplotlib.figure import Figure
from torch.utils.data import DataLoader, TensorDataset

from tokenry.compression.flops import layer_costs
from tokenry.compression.reducer import TokenReducer
from tokenry.compression.vision.controls import RandomDrop
from tokenry.compression.vision.diffrate import By, DiffRate, Schedule, uniform_schedule
from tokenry.compression.vision.rate_search import Batches, SearchStep, search_rates
from tokenry.core.io.progress import Progress, part
from tokenry.core.stats import exactly
from tokenry.core.tensors.patching import find_encoder
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.digits_vit import load_digits_vit
from tokenry.recipes.testbeds.random_order import RandomOrder
from tokenry.recipes.testbeds.reduction_trial import (
    RANDOM_SEEDS,
    Classifier,
    ReductionTrial,
    deit_on_imagenet,
    digits_classifier,
    imagenet_training,
    measure,
)

PAPER = "79.54 % at 2.905 GFLOPs, 79.8 % at 4.6 dense (DeiT-S, off the shelf)"
# Points above uniform that a claim asks for; set on another training of such a model.
MARGIN = 1.0

LEARNED, WEIGHTED = "learned", "learned, weighted mean"
HALF, PRUNE, MERGE = "uniform, half and half", "uniform, prune only", "uniform, merge only"
RANDOM_ORDER, RANDOM_DROP = "learned, random order", "random drop"
UNIFORM: dict[str, By] = {HALF: "both", PRUNE: "prune", MERGE: "merge"}


@dataclass(frozen=True)
class Testbed:
    """The model, the data and the options of a search.

    Attributes:
        classifier: the model with its test images.
        loader: training images in batches, with labels.
        shares: shares of the dense FLOPs, mild to strong.
        official: the share that is searched with the official gradient too.
        search: options of `search_rates`.
    """

    classifier: Classifier
    loader: Batches
    shares: tuple[float, ...]
    official: float
    search: Mapping[str, Any]


Budget = Mapping[str, ReductionTrial]
"""All methods at one share of the FLOPs."""


def digits(progress: Progress) -> Testbed:
    """The digits ViT, searched on its training images."""
    digits = load_digits_vit(progress)
    data = TensorDataset(digits.train_images, digits.train_labels)
    return Testbed(
        digits_classifier(progress),
        # In order: the training images are shuffled already.
        DataLoader(data, batch_size=64, drop_last=True),
        shares=(0.6, 0.45, 0.35),
        official=0.45,
        search={"granularity": 1, "lr": 0.1, "min_lr": 0.01, "epochs": 2},
    )


def imagenet(progress: Progress) -> Testbed:
    """DeiT-S, searched on the training images of ImageNet-1k."""
    return Testbed(
        deit_on_imagenet(progress),
        imagenet_training(),
        shares=(0.63, 0.5),
        official=0.5,
        search={"granularity": 4, "lr": 1e-2, "min_lr": 1e-3, "epochs": 3},
    )


@recipe("diffrate", laptop=digits, paper=imagenet)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Learn a schedule for every budget, measure it beside its controls and judge each claim."""
    load: Callable[[Progress], Testbed] = run.sizes
    testbed = load(part(run.progress, 0.0, 0.4))
    everything = [2**31] * len(find_encoder(testbed.classifier.model).layers)
    dense = measure(testbed.classifier, DiffRate(Schedule(everything, everything)))
    schedules, budgets = {}, {}
    width = 0.6 / (len(testbed.shares) + 1)
    for number, share in enumerate(testbed.shares):
        begin = 0.4 + width * number
        schedules[share] = learn(testbed, share, part(run.progress, begin, begin + 0.8 * width))
        run.progress(f"measuring at {share:.0%} of the FLOPs", begin + 0.8 * width)
        budgets[share] = compare(testbed, dense.counts[0], schedules[share])
    official = learn(testbed, testbed.official, part(run.progress, 1 - width, 1.0), gradient="official")
    without_bound = measure(testbed.classifier, DiffRate(official))
    run.settings |= {
        "model": testbed.classifier.model.config.to_diff_dict(),
        "images": len(testbed.classifier.images),
        "search": dict(testbed.search) | {"steps": len(testbed.loader) * testbed.search["epochs"]},
        "random_seeds": RANDOM_SEEDS,
        "dense_accuracy": dense.accuracy,
        "official_gradient": {
            "share": testbed.official,
            "flops": without_bound.flops,
            "accuracy": without_bound.accuracy,
            "learned": asdict(official),
        },
        "learned": {str(share): asdict(schedule) for share, schedule in schedules.items()},
        "measured": {
            str(share): {
                name: {"flops": point.flops, "accuracy": point.accuracy, "counts": point.counts}
                for name, point in budget.items()
            }
            for share, budget in budgets.items()
        },
    }
    with run.figure(11, 4.2) as figure:
        draw(figure, dense, budgets, schedules)
    yield from judge(budgets, testbed.official, without_bound)


def learn(testbed: Testbed, share: float, progress: Progress, **options: Any) -> Schedule:
    """Search the schedule of one budget."""
    named = ", ".join([f"searching {share:.0%} of the FLOPs", *map(str, options.values())])

    def tell(step: SearchStep) -> None:
        of_target = step.gflops / step.target_gflops
        progress(f"{named}: {of_target:.3f} of the target, loss {step.loss:.3f}", step.step / step.steps)

    with warnings.catch_warnings():
        # A missed target is a claim here.
        warnings.simplefilter("ignore", UserWarning)
        return search_rates(
            testbed.classifier.model,
            testbed.loader,
            target_share=share,
            progress=tell,
            **{**testbed.search, **options},
        )


def compare(testbed: Testbed, tokens: int, learned: Schedule) -> dict[str, ReductionTrial]:
    """Measure the learned schedule and all its controls: at the FLOPs that it has, whether they met the target or not."""
    encoder = find_encoder(testbed.classifier.model)
    costs, special = layer_costs(encoder), encoder.special_tokens
    points = {LEARNED: measure(testbed.classifier, DiffRate(learned))}
    methods: dict[str, TokenReducer] = {
        name: DiffRate(uniform_schedule(costs, tokens, special, points[LEARNED].flops, by))
        for name, by in UNIFORM.items()
    }
    methods |= {
        RANDOM_ORDER: RandomOrder(DiffRate(learned)),
        RANDOM_DROP: RandomDrop(counts=points[LEARNED].counts[1:]),
        WEIGHTED: DiffRate(learned, merge="weighted"),
    }
    drawn = {RANDOM_ORDER: RANDOM_SEEDS, RANDOM_DROP: RANDOM_SEEDS}
    return points | {
        name: measure(testbed.classifier, method, drawn.get(name, 1)) for name, method in methods.items()
    }


def judge(budgets: Mapping[float, Budget], official: float, without_bound: ReductionTrial) -> Iterator[Claim]:
    """Put each claim beside its measurement.

    Args:
        budgets: by share of the dense FLOPs; that of the headline first.
        official: the share that was searched with the official gradient too.
        without_bound: the measurement of that search.
    """
    for share, budget in budgets.items():
        yield Claim.above(
            f"at {share:.2f} of the dense FLOPs a learned schedule is at least {MARGIN:g} point above a uniform one (accuracy)",
            budget[LEARNED].right,
            budget[HALF].right,
            HALF,
            least=MARGIN,
            unit=" %",
            paper=PAPER,
        )
    yield _above(budgets, "it is above every uniform schedule, whether they prune, merge or do both", UNIFORM)
    missed = [budget[LEARNED].flops / share - 1 for share, budget in budgets.items()]
    yield Claim(
        "the search ends within 1.5 % of its FLOPs target",
        "2.905 of 2.9 and 11.517 of 11.5 GFLOPs",
        measured=", ".join(f"{miss:+.2%}" for miss in missed),
        control=f"{without_bound.flops / official - 1:+.2%} (official gradient, at {official:.2f})",
        verdict=exactly(all(abs(miss) < 0.015 for miss in missed)),
    )
    yield _above(
        budgets,
        "class attention finds the tokens to keep: random order loses more with the same schedule",
        [RANDOM_ORDER],
    )


def _above(budgets: Mapping[float, Budget], words: str, controls: Iterable[str]) -> Claim:
    pairs = [(budget[LEARNED].right, budget[name].right) for name in controls for budget in budgets.values()]
    return Claim.above_everywhere(
        f"{words} (accuracy at {', '.join(f'{share:.2f}' for share in budgets)} of the dense FLOPs)",
        [ours for ours, _ in pairs],
        [theirs for _, theirs in pairs],
        "; ".join(controls),
    )


def draw(
    figure: Figure,
    dense: ReductionTrial,
    budgets: Mapping[float, Budget],
    schedules: Mapping[float, Schedule],
) -> None:
    """Accuracy against FLOPs, and the number of tokens that leave each layer."""
    styles = {
        LEARNED: ("o-", "C0"),
        HALF: ("s-", "C1"),
        MERGE: ("^--", "C1"),
        PRUNE: ("v:", "C1"),
        RANDOM_ORDER: ("D-", "0.45"),
        RANDOM_DROP: ("x-", "0.45"),
    }
    left, right = figure.subplots(1, 2)
    for name, (style, color) in styles.items():
        points = [budget[name] for budget in budgets.values()]
        left.plot(
            [100 * point.flops for point in points],
            [point.accuracy for point in points],
            style,
            color=color,
            markersize=5,
            label=name,
        )
    left.axhline(dense.accuracy, color="0", lw=0.8, ls=":", label=f"dense {dense.accuracy:.1f} %")
    left.set(xlabel="FLOPs, % of the dense encoder", ylabel="accuracy, %", title="Equal FLOPs")
    left.legend(fontsize=8)
    left.margins(y=0.08)
    for (share, budget), marker in zip(budgets.items(), "os^", strict=False):
        layers = range(1, len(budget[LEARNED].counts))
        for name, style, color in ((LEARNED, "-", "C0"), (HALF, "--", "C1")):
            counts = budget[name].counts[1:]
            right.plot(
                layers, counts, marker + style, color=color, markersize=5, label=f"{name}, {share:.0%}"
            )
        entering, kept = budget[LEARNED].counts[:-1], schedules[share].prune_kept
        pruned = [min(pair) for pair in zip(entering, kept, strict=True)]
        right.plot(layers, pruned, marker, color="C0", fillstyle="none", label=f"after pruning, {share:.0%}")
        right.set_xticks(list(layers))
    right.set(xlabel="layer", ylabel="tokens that leave it", title="Schedules")
    right.set_ylim(bottom=0)
    right.legend(fontsize=8)
