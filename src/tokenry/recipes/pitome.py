"""PiToMe (arXiv 2405.16148): at equal token counts, does merging the crowded lose less than ToMe's merging and than dropping?

A frozen vision transformer, no training; every method leaves the same number of tokens in every layer:

    PiToMe       matching of the released code and proportional attention; also its core matching alone, and without that attention
    ToMe         even/odd matching
    controls     random drop, and drop of what the class token attends to least

Accuracies are compared image by image, so differences have standard errors. The paper's tables could not be read: its figures are
those of the abstract.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch

from tokenry.compression.vision.controls import ClassAttentionDrop, RandomDrop
from tokenry.compression.vision.pitome import PiToMe, ratio_schedule
from tokenry.compression.vision.reducer import TokenReducer
from tokenry.compression.vision.tome import ToMe
from tokenry.recipes.recipe import Claim, Progress, Reproduction, Scale, verdict
from tokenry.recipes.toys.reduction_trial import (
    NO_FIGURE,
    RANDOM_SEEDS,
    Classifier,
    Difference,
    Measured,
    deit_on_imagenet,
    difference,
    digits_classifier,
    measure,
)

ABSTRACT = "drop of 0.5 % against 2.6 % for baselines at 40-60 % fewer FLOPs (ViT-MAE-H, off the shelf)"
PITOME, CORE, OFFICIAL = "PiToMe", "PiToMe, core everywhere", "PiToMe without proportional attention"
TOME, RANDOM, CLASS = "ToMe", "random drop", "class-attention drop"


@dataclass(frozen=True)
class Strengths:
    """How much is reduced.

    Attributes:
        ratios: shares kept per layer, mild to strong.
        r: ToMe's number for the comparison with random drop.
    """

    ratios: tuple[float, ...]
    r: int


Curves = Mapping[str, Sequence[Measured]]
"""Of each method one measurement per ratio."""


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


@dataclass(frozen=True)
class _PiToMeRecipe:
    slug: str = "pitome"
    title: str = "Accelerating Transformers with Spectrum-Preserving Token Merging"

    def run(self, scale: Scale, output: Path, progress: Progress) -> Reproduction:
        """Run every method at every ratio and judge each claim."""
        started = time.perf_counter()
        load, strengths = _SUBJECTS[scale]
        subject = load(lambda what, share: progress(what, 0.5 * share))
        dense, curves = sweep(
            subject, strengths.ratios, lambda what, share: progress(what, 0.5 + 0.4 * share)
        )
        progress(f"ToMe and random drop at r = {strengths.r}", 0.9)
        tome = measure(subject, ToMe(r=strengths.r))
        random = measure(subject, RandomDrop(r=strengths.r), RANDOM_SEEDS)
        return Reproduction(
            slug=self.slug,
            claims=judge(strengths, dense, curves, tome, random),
            settings={
                "scale": scale,
                "model": subject.model.config.to_diff_dict(),
                "images": len(subject.images),
                "ratios": strengths.ratios,
                "random_seeds": RANDOM_SEEDS,
                "dense_accuracy": dense.accuracy,
                "counts": [point.counts for point in curves[PITOME]],
                "flops": [point.flops for point in curves[PITOME]],
                "accuracy": {name: [point.accuracy for point in curve] for name, curve in curves.items()},
                f"accuracy_at_r_{strengths.r}": {TOME: tome.accuracy, RANDOM: random.accuracy},
            },
            seconds=time.perf_counter() - started,
            plots=(_plot(dense, curves, output),),
        )


def sweep(subject: Classifier, ratios: Sequence[float], progress: Progress) -> tuple[Measured, Curves]:
    """Measure the unreduced model and all methods at all ratios."""
    dense = measure(subject, PiToMe(1.0))
    tokens, layers = dense.counts[0], len(dense.counts) - 1
    curves: dict[str, list[Measured]] = {}
    for number, ratio in enumerate(ratios):
        for name, method in methods(tokens, layers, ratio).items():
            progress(f"{name}, ratio {ratio}", number / len(ratios))
            seeds = RANDOM_SEEDS if name == RANDOM else 1
            curves.setdefault(name, []).append(measure(subject, method, seeds))
    return dense, curves


def judge(
    strengths: Strengths, dense: Measured, curves: Curves, tome: Measured, random: Measured
) -> tuple[Claim, ...]:
    """Put each claim beside its measurement; thresholds in points were set on another training of such a model."""
    strong = strengths.ratios[-1]
    against_class = {name: _compare(curves, name, CLASS) for name in (PITOME, CORE, TOME)}
    against_random = difference(tome, random)
    proportional = difference(curves[PITOME][-1], curves[OFFICIAL][-1])
    return (
        _against_tome(strengths, curves, PITOME, "PiToMe, matched as in the released code,"),
        _against_tome(strengths, curves, CORE, "PiToMe, matched as in the paper (core everywhere),"),
        _within_the_papers_range(dense, curves, PITOME),
        _within_the_papers_range(dense, curves, CORE),
        Claim(
            claim=f"merging keeps at least 10 points more than random drop (ToMe, r = {strengths.r} per layer)",
            paper=NO_FIGURE,
            measured=f"{tome.accuracy:.1f} % ({against_random})",
            control=f"{random.accuracy:.1f} % (random drop, {RANDOM_SEEDS} seeds)",
            verdict=verdict(against_random.points >= 10.0),
        ),
        Claim(
            claim=f"merging, PiToMe's and ToMe's, is above class-attention drop at every ratio ({_listed(strengths.ratios)})",
            paper=NO_FIGURE,
            measured="; ".join(f"{name}: {_listed(each)}" for name, each in against_class.items()),
            control=_accuracies(curves, CLASS),
            verdict=verdict(all(each.points > 0 for of_one in against_class.values() for each in of_one)),
        ),
        Claim(
            claim=f"proportional attention, which the released ViT code leaves out, helps off the shelf (ratio {strong})",
            paper="in the paper's equation, not in its code",
            measured=f"{curves[PITOME][-1].accuracy:.1f} % ({proportional})",
            control=f"{curves[OFFICIAL][-1].accuracy:.1f} % (without)",
            verdict=verdict(proportional.clear),
        ),
    )


def _against_tome(strengths: Strengths, curves: Curves, name: str, words: str) -> Claim:
    differences = _compare(curves, name, TOME)
    return Claim(
        claim=f"{words} is nowhere more than 0.5 points below ToMe at equal token counts, and 1 point above at the strongest "
        f"reduction (accuracy at ratios {_listed(strengths.ratios)})",
        paper=f"better than ToMe off the shelf; {ABSTRACT}",
        measured=f"{_accuracies(curves, name)}; differences {_listed(differences)}",
        control=_accuracies(curves, TOME),
        verdict=verdict(min(each.points for each in differences) >= -0.5 and differences[-1].points >= 1.0),
    )


def _within_the_papers_range(dense: Measured, curves: Curves, name: str) -> Claim:
    """The abstract's sentence, averaged over the ratios that save 40 to 60 % here (or the strongest)."""
    saved = [1 - point.flops for point in curves[name]]
    there = [number for number, share in enumerate(saved) if 0.4 <= share <= 0.6] or [len(saved) - 1]
    ours, theirs = (
        Measured((), 0.0, torch.stack([curves[each][number].right for number in there]).mean(dim=0))
        for each in (name, TOME)
    )
    gain = difference(ours, theirs)
    least, most = (round(100 * extreme(saved[number] for number in there)) for extreme in (min, max))
    return Claim(
        claim=f"with {least} to {most} % fewer FLOPs {name} loses less than ToMe (mean drop in points)",
        paper=ABSTRACT,
        measured=f"{dense.accuracy - ours.accuracy:.1f} (accuracy {gain} against ToMe)",
        control=f"{dense.accuracy - theirs.accuracy:.1f} (ToMe)",
        verdict=verdict(gain.clear),
    )


def _compare(curves: Curves, one: str, other: str) -> list[Difference]:
    return [difference(*pair) for pair in zip(curves[one], curves[other], strict=True)]


def _accuracies(curves: Curves, name: str) -> str:
    return ", ".join(f"{point.accuracy:.1f}" for point in curves[name]) + f" % ({name})"


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


_SUBJECTS: dict[Scale, tuple[Callable[[Progress], Classifier], Strengths]] = {
    "laptop": (digits_classifier, Strengths(ratios=(0.9, 0.85, 0.8, 0.75), r=5)),
    "paper": (deit_on_imagenet, Strengths(ratios=(0.975, 0.95, 0.925, 0.9), r=13)),
}


def _plot(dense: Measured, curves: Curves, output: Path) -> Path:
    """Draw accuracy against FLOPs."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    styles = {
        PITOME: ("o-", "C0"),
        CORE: ("^:", "C0"),
        OFFICIAL: ("o--", "C9"),
        TOME: ("s-", "C1"),
        CLASS: ("D-", "0.45"),
        RANDOM: ("x-", "0.45"),
    }
    figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
    for name, curve in curves.items():
        style, color = styles[name]
        flops = [100 * point.flops for point in curve]
        axes.plot(
            flops,
            [point.accuracy for point in curve],
            style,
            color=color,
            markersize=5,
            label=name,
            alpha=0.9,
        )
    axes.axhline(dense.accuracy, color="black", linewidth=0.8, linestyle=":")
    axes.annotate(
        f"unreduced {dense.accuracy:.1f} %",
        (0.01, dense.accuracy),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=8,
    )
    axes.set(
        xlabel="FLOPs, % of the unreduced encoder",
        ylabel="accuracy, %",
        title="Equal token counts in every layer",
    )
    axes.legend(fontsize=8)
    path = output / "pitome.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return Path(path.name)


RECIPE = _PiToMeRecipe()
