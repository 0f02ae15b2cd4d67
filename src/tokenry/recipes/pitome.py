"""PiToMe (arXiv 2405.16148): at equal token counts, does merging the crowded lose less than ToMe's merging and than dropping?

A frozen vision transformer, no training; every method leaves the same number of tokens in every layer:

    PiToMe       matching of the released code and proportional attention; also its core matching alone, and without that attention
    ToMe         even/odd matching
    controls     random drop, and drop of what the class token attends to least

Headline: the abstract's, with 40 to 60 % fewer FLOPs, off the shelf, by the released matching. The paper's tables could not be read: its
figures are those of the abstract. Thresholds in points were set on another training of such a model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure

from tokenry.compression.reducer import TokenReducer
from tokenry.compression.vision.controls import ClassAttentionDrop, RandomDrop
from tokenry.compression.vision.pitome import PiToMe, ratio_schedule
from tokenry.compression.vision.tome import ToMe
from tokenry.core.io.progress import Progress, part
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.reduction_trial import (
    RANDOM_SEEDS,
    Classifier,
    ReductionTrial,
    deit_on_imagenet,
    digits_classifier,
    measure,
)

ABSTRACT = "drop of 0.5 % against 2.6 % for baselines at 40-60 % fewer FLOPs (ViT-MAE-H, off the shelf)"
PITOME, CORE, OFFICIAL = "PiToMe", "PiToMe, core everywhere", "PiToMe without proportional attention"
TOME, RANDOM, CLASS = "ToMe", "random drop", "class-attention drop"

Curves = Mapping[str, Sequence[ReductionTrial]]
"""By method, one measurement per ratio."""


@dataclass(frozen=True)
class Strengths:
    """The model and the strengths of reduction.

    Attributes:
        ratios: shares kept per layer, mild to strong.
        r: ToMe's number for the comparison with random drop.
    """

    load: Callable[[Progress], Classifier]
    ratios: tuple[float, ...]
    r: int


@recipe(
    "pitome",
    laptop=Strengths(digits_classifier, ratios=(0.9, 0.85, 0.8, 0.75), r=5),
    paper=Strengths(deit_on_imagenet, ratios=(0.975, 0.95, 0.925, 0.9), r=13),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Run every method at every ratio and judge each claim."""
    strengths: Strengths = run.sizes
    subject = strengths.load(part(run.progress, 0.0, 0.5))
    dense, curves = sweep(subject, strengths.ratios, part(run.progress, 0.5, 0.9))
    run.progress(f"ToMe and random drop at r = {strengths.r}", 0.9)
    tome = measure(subject, ToMe(r=strengths.r))
    random = measure(subject, RandomDrop(r=strengths.r), RANDOM_SEEDS)
    run.settings |= {
        "model": subject.model.config.to_diff_dict(),
        "images": len(subject.images),
        "ratios": strengths.ratios,
        "random_seeds": RANDOM_SEEDS,
        "dense_accuracy": dense.accuracy,
        "counts": [point.counts for point in curves[PITOME]],
        "flops": [point.flops for point in curves[PITOME]],
        "accuracy": {name: [point.accuracy for point in curve] for name, curve in curves.items()},
        f"accuracy_at_r_{strengths.r}": {TOME: tome.accuracy, RANDOM: random.accuracy},
    }
    with run.figure(7, 4.4) as figure:
        draw(figure, dense, curves)
    yield from judge(strengths, dense, curves, tome, random)


def methods(tokens: int, layers: int, ratio: float) -> dict[str, TokenReducer]:
    """All methods at the token counts of a ratio."""
    counts = ratio_schedule(tokens, layers, ratio)
    removed = [before - after for before, after in zip([tokens, *counts[:-1]], counts, strict=True)]
    return {
        PITOME: PiToMe(ratio),
        CORE: PiToMe(ratio, variants="core"),
        OFFICIAL: PiToMe(ratio, proportional_attention=False),
        TOME: ToMe(removed),
        CLASS: ClassAttentionDrop(counts=counts),
        RANDOM: RandomDrop(counts=counts),
    }


def sweep(subject: Classifier, ratios: Sequence[float], progress: Progress) -> tuple[ReductionTrial, Curves]:
    """Measure the unreduced model and all methods at all ratios."""
    dense = measure(subject, PiToMe(1.0))
    tokens, layers = dense.counts[0], len(dense.counts) - 1
    curves: dict[str, list[ReductionTrial]] = {}
    for number, ratio in enumerate(ratios):
        for name, method in methods(tokens, layers, ratio).items():
            progress(f"{name}, ratio {ratio}", number / len(ratios))
            seeds = RANDOM_SEEDS if name == RANDOM else 1
            curves.setdefault(name, []).append(measure(subject, method, seeds))
    return dense, curves


def judge(
    strengths: Strengths, dense: ReductionTrial, curves: Curves, tome: ReductionTrial, random: ReductionTrial
) -> Iterator[Claim]:
    """Put each claim beside its measurement."""
    strong, ratios = strengths.ratios[-1], ", ".join(map(str, strengths.ratios))
    yield loses_less_than_tome(dense, curves, PITOME)
    yield loses_less_than_tome(dense, curves, CORE)
    yield Claim.above(
        f"merging keeps at least 10 points more than random drop (ToMe, r = {strengths.r} per layer; accuracy)",
        tome.right,
        random.right,
        f"random drop, {RANDOM_SEEDS} seeds",
        least=10.0,
        unit=" %",
    )
    for name in (PITOME, TOME):
        ours, theirs = ([point.right for point in curves[of]] for of in (name, CLASS))
        words = f"merging ({name}) is above class-attention drop at every ratio ({ratios}; accuracy)"
        yield Claim.above_everywhere(words, ours, theirs, CLASS)
    yield Claim.above(
        f"proportional attention, which the released ViT code leaves out, helps off the shelf (accuracy at ratio {strong})",
        curves[PITOME][-1].right,
        curves[OFFICIAL][-1].right,
        "without",
        unit=" %",
        paper="in the paper's equation, not in its code",
    )


def loses_less_than_tome(dense: ReductionTrial, curves: Curves, name: str) -> Claim:
    """The abstract's sentence, averaged over the ratios that save 40 to 60 % here (or the strongest)."""
    saved = [1 - point.flops for point in curves[name]]
    there = [number for number, share in enumerate(saved) if 0.4 <= share <= 0.6] or [len(saved) - 1]
    ours, theirs = (
        dense.right - torch.stack([curves[of][number].right for number in there]).mean(dim=0)
        for of in (name, TOME)
    )
    least, most = (round(100 * extreme(saved[number] for number in there)) for extreme in (min, max))
    return Claim.above(
        f"with {least} to {most} % fewer FLOPs {name} loses less than ToMe (mean drop in points)",
        ours,
        theirs,
        TOME,
        lower=True,
        paper=ABSTRACT,
    )


def draw(figure: Figure, dense: ReductionTrial, curves: Curves) -> None:
    """Accuracy against FLOPs."""
    styles = {
        PITOME: ("o-", "C0"),
        CORE: ("^:", "C0"),
        OFFICIAL: ("o--", "C9"),
        TOME: ("s-", "C1"),
        CLASS: ("D-", "0.45"),
        RANDOM: ("x-", "0.45"),
    }
    axes = figure.subplots()
    for name, curve in curves.items():
        style, color = styles[name]
        flops, accuracy = [100 * point.flops for point in curve], [point.accuracy for point in curve]
        axes.plot(flops, accuracy, style, color=color, markersize=5, label=name, alpha=0.9)
    axes.axhline(
        dense.accuracy, color="black", linewidth=0.8, linestyle=":", label=f"unreduced {dense.accuracy:.1f} %"
    )
    axes.set(
        xlabel="FLOPs, % of the unreduced encoder",
        ylabel="accuracy, %",
        title="Equal token counts in every layer",
    )
    axes.legend(fontsize=8)
