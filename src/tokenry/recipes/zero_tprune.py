"""Zero-TPrune (arXiv 2305.17328): at equal token counts, do votes on the attention graph beat chance, and similarity votes alone?

A frozen vision transformer, pruned after the same layers to the same numbers of tokens by

    random drop      the control; also what the class token attends to
    votes            weighted page rank: mean over heads, root mean square (EIR), with the paper's window for heads (EIR + VHF)
    votes and S      the schedule as it is: the S-stage drops r similar tokens first, the I-stage the rest; also merging them instead

Without the S-stage the I-stage keeps fewer, so that the counts are equal. Accuracies are compared image by image.

The third schedule of the small model, pruning from layer 2 on, was added after the others had failed: the votes of this model's first
layer go to the empty canvas, which the correlation with the ink shows.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, cosine_similarity
from transformers import PreTrainedModel

from tokenry.compression.vision.controls import ClassAttentionDrop, RandomDrop
from tokenry.compression.vision.page_rank import aggregate_heads, weighted_page_rank
from tokenry.compression.vision.reducer import TokenReducer
from tokenry.compression.vision.zero_tprune import ZeroTPrune, ZeroTPruneConfig, token_trace
from tokenry.core.patching import find_encoder
from tokenry.recipes.recipe import Claim, Progress, Reproduction, Scale, verdict
from tokenry.recipes.toys.digits_vit import PATCH
from tokenry.recipes.toys.reduction_trial import (
    NO_FIGURE,
    RANDOM_SEEDS,
    Classifier,
    Measured,
    deit_on_imagenet,
    difference,
    digits_classifier,
    measure,
)

RANDOM, CLASS = "random drop", "class-attention drop"
WPR, EIR, VHF = "votes, mean (WPR)", "votes, EIR", "votes, EIR + VHF"
MEAN_S, EIR_S, MERGED = "votes, mean + S", "votes, EIR + S", "votes, EIR + S, merged"
# ImageNet top-1 of DeiT-S at 3.08 of 4.55 GFLOPs, from the tables of the project page. Which aggregation the row with the S-stage has
# is not said there.
PAPER = {RANDOM: 76.8, WPR: 78.6, EIR: 78.8, VHF: 78.9, EIR_S: 79.4}
PAPER_UNPRUNED = 79.8
WINDOW = (0.01, 0.7)


@dataclass(frozen=True)
class Schedule:
    """One strength of pruning, and what a claim asks for at it, in points.

    Attributes:
        config: pruning layers, keep rates, r and rounds of votes.
        over_random: least gain of the votes over random drop.
        by_similarity: least gain of the S-stage.
    """

    config: ZeroTPruneConfig
    over_random: float = 0.0
    by_similarity: float = 0.0


@dataclass(frozen=True)
class Subject:
    """What is pruned how.

    Attributes:
        classifier: the model with its test images.
        schedules: by name.
        ink: how much of the object each patch holds, where that is known.
    """

    classifier: Classifier
    schedules: Mapping[str, Schedule]
    ink: Float[Tensor, "n patches"] | None = None


Table = Mapping[str, Mapping[str, Measured]]
"""By schedule and method."""


def without_s_stage(config: ZeroTPruneConfig, counts: tuple[int, ...], special: int) -> ZeroTPruneConfig:
    """The same numbers of tokens by the I-stage alone."""
    free = [(counts[layer - 1] - special, counts[layer] - special) for layer in config.layers]
    return replace(config, r=(0,) * len(free), keep_rates=tuple(after / before for before, after in free))


def methods(config: ZeroTPruneConfig, tokens: int, layers: int, special: int) -> dict[str, TokenReducer]:
    """All methods at the token counts of a schedule."""
    counts = token_trace(config, tokens, layers, special)
    votes = without_s_stage(config, counts, special)
    pruned = {
        WPR: replace(votes, aggregation="mean"),
        EIR: votes,
        VHF: replace(votes, v_min=WINDOW[0], v_max=WINDOW[1]),
        MEAN_S: replace(config, aggregation="mean"),
        EIR_S: config,
        MERGED: replace(config, merge_similar=True),
    }
    return {
        RANDOM: RandomDrop(counts=counts[1:], after="layer"),
        CLASS: ClassAttentionDrop(counts=counts[1:], after="layer"),
        **{name: ZeroTPrune(each) for name, each in pruned.items()},
    }


@dataclass(frozen=True)
class _ZeroTPruneRecipe:
    slug: str = "zero-tprune"
    title: str = "Zero-TPrune: Zero-Shot Token Pruning through Leveraging of the Attention Graph in Pre-Trained Transformers"

    def run(self, scale: Scale, output: Path, progress: Progress) -> Reproduction:
        """Run every method at every schedule and judge each claim."""
        started = time.perf_counter()
        subject = _SUBJECTS[scale](lambda what, share: progress(what, 0.5 * share))
        classifier = subject.classifier
        dense, table = compare(subject, lambda what, share: progress(what, 0.5 + 0.5 * share))
        found = () if subject.ink is None else votes_and_ink(classifier.model, classifier.images, subject.ink)
        return Reproduction(
            slug=self.slug,
            claims=(*judge(subject, table), *_where_votes_go(found)),
            settings={
                "scale": scale,
                "model": classifier.model.config.to_diff_dict(),
                "images": len(classifier.images),
                "random_seeds": RANDOM_SEEDS,
                "window": WINDOW,
                "unpruned_accuracy": dense.accuracy,
                "votes_and_ink": found,
                "schedules": {name: asdict(each.config) for name, each in subject.schedules.items()},
                "counts": {name: row[EIR_S].counts for name, row in table.items()},
                "flops": {name: row[EIR_S].flops for name, row in table.items()},
                "accuracy": {
                    name: {method: [each.accuracy, each.error] for method, each in row.items()}
                    for name, row in table.items()
                },
            },
            seconds=time.perf_counter() - started,
            plots=(_plot(dense, table, output),),
        )


def compare(subject: Subject, progress: Progress) -> tuple[Measured, Table]:
    """Measure the unpruned model, and all methods at all schedules."""
    encoder = find_encoder(subject.classifier.model)
    dense = measure(subject.classifier, ZeroTPrune(ZeroTPruneConfig((), (), (), ())))
    table: dict[str, dict[str, Measured]] = {}
    for number, (name, schedule) in enumerate(subject.schedules.items()):
        all_methods = methods(schedule.config, dense.counts[0], len(encoder.layers), encoder.special_tokens)
        for place, (method, reducer) in enumerate(all_methods.items()):
            progress(f"{name}: {method}", (number + place / len(all_methods)) / len(subject.schedules))
            seeds = RANDOM_SEEDS if method == RANDOM else 1
            table.setdefault(name, {})[method] = measure(subject.classifier, reducer, seeds)
    return dense, table


def judge(subject: Subject, table: Table) -> tuple[Claim, ...]:
    """Put each claim beside its measurement; it is shown if the gain reaches its threshold and two standard errors."""
    claims = []
    for name, row in table.items():
        schedule = subject.schedules[name]
        left = f"{name}: {row[EIR_S].counts[-1]} of {row[EIR_S].counts[0]} tokens left"
        claims += [
            _gain(row, f"{left}: votes beat random drop", WPR, RANDOM, schedule.over_random),
            _gain(row, f"{name}: the S-stage adds to the votes", EIR_S, EIR, schedule.by_similarity, VHF),
            _gain(row, f"{name}: root mean square over heads (EIR) beats their mean", EIR, WPR),
            _gain(row, f"{name}: the paper's window for heads (VHF) helps", VHF, EIR),
        ]
    return tuple(claims)


def _gain(
    row: Mapping[str, Measured],
    claim: str,
    method: str,
    control: str,
    least: float = 0.0,
    control_in_paper: str | None = None,
) -> Claim:
    ours, theirs = row[method], row[control]
    gain = difference(ours, theirs)
    asked = f" by at least {least:g} points" if least else ""
    return Claim(
        claim=f"{claim}{asked} (accuracy at equal token counts)",
        paper=f"{PAPER[method]} % against {PAPER[control_in_paper or control]} % (ImageNet top-1, DeiT-S)",
        measured=f"{ours.accuracy:.1f} % ({gain})",
        control=f"{theirs.accuracy:.1f} % ({control})",
        verdict=verdict(gain.points >= least and gain.clear),
    )


def votes_and_ink(
    model: PreTrainedModel,
    images: Float[Tensor, "n channels height width"],
    ink: Float[Tensor, "n patches"],
    iterations: int = 20,
) -> tuple[float, ...]:
    """Of each layer of the unpruned model: the correlation, within an image, of the votes for a patch with the ink in it."""
    special = find_encoder(model).special_tokens
    with torch.inference_mode():
        attentions = model(pixel_values=images, output_attentions=True).attentions
    found = []
    for attention in attentions:
        votes, _ = weighted_page_rank(attention, iterations)
        importance, _ = aggregate_heads(votes[:, :, special:], None, None)
        found.append(cosine_similarity(_centred(importance), _centred(ink), dim=1).mean().item())
    return tuple(found)


def _centred(values: Float[Tensor, "n patches"]) -> Float[Tensor, "n patches"]:
    return values - values.mean(dim=1, keepdim=True)


def _where_votes_go(found: Sequence[float]) -> tuple[Claim, ...]:
    if not found:
        return ()
    return (
        Claim(
            claim="votes go to the object in every layer (correlation of a patch's votes with the ink in it, unpruned model)",
            paper=NO_FIGURE,
            measured=", ".join(f"{each:+.2f}" for each in found),
            control="0 (votes that know nothing of the object)",
            verdict=verdict(min(found) > 0),
        ),
    )


def _digits(progress: Progress) -> Subject:
    classifier = digits_classifier(progress)
    layers, rounds = (1, 3, 5), (20, 5, 1)
    mild = ZeroTPruneConfig(layers, (0.9, 0.8, 0.8), (3, 3, 2), rounds)
    hard = ZeroTPruneConfig(layers, (0.7, 0.6, 0.8), (5, 4, 2), rounds)
    schedules = {
        "mild": Schedule(mild, over_random=10.0),
        "hard": Schedule(hard, over_random=10.0, by_similarity=1.0),
        "hard, from layer 2": Schedule(replace(hard, layers=(2, 3, 5)), over_random=10.0),
    }
    return Subject(classifier, schedules, avg_pool2d(classifier.images, PATCH).flatten(1))


def _imagenet(progress: Progress) -> Subject:
    return Subject(deit_on_imagenet(progress), {"ablation": Schedule(ZeroTPruneConfig())})


_SUBJECTS: dict[Scale, Callable[[Progress], Subject]] = {"laptop": _digits, "paper": _imagenet}


def _plot(dense: Measured, table: Table, output: Path) -> Path:
    """Draw the accuracy of every method, schedule by schedule, and the paper's ladder beside."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(next(iter(table.values())))
    places = dict(zip(names, range(len(names)), strict=True))
    figure, panels = plt.subplots(
        1, len(table) + 1, figsize=(4 + 3.2 * len(table), 3.8), sharey=True, layout="constrained"
    )
    for panel, (schedule, row) in zip(panels, table.items(), strict=False):
        panel.errorbar(
            [each.accuracy for each in row.values()],
            list(places.values()),
            xerr=[2 * each.error for each in row.values()],
            fmt="o",
            color="C0",
            markersize=5,
            capsize=2,
        )
        _unpruned(panel, dense.accuracy)
        counts, flops = row[EIR_S].counts, row[EIR_S].flops
        panel.set(
            title=f"{schedule}\n{counts[-1]} of {counts[0]} tokens, {100 * flops:.0f} % of FLOPs",
            xlabel="accuracy, %, ± 2 standard errors",
        )
    panels[-1].plot(list(PAPER.values()), [places[name] for name in PAPER], "o", color="0.4", markersize=5)
    _unpruned(panels[-1], PAPER_UNPRUNED)
    panels[-1].set(title="the paper: DeiT-S\n66 of 197 tokens, 68 % of FLOPs", xlabel="ImageNet top-1, %")
    for panel in panels:
        panel.grid(axis="y", color="0.9", linewidth=0.8)
        panel.title.set_fontsize(10)
    panels[0].set_yticks(np.arange(len(names)), names)
    # One row more than there are methods: the vertical line is named there.
    panels[0].set_ylim(len(names) + 0.2, -0.6)
    lowest = min(each.accuracy - 2 * each.error for row in table.values() for each in row.values())
    for panel in panels[:-1]:
        panel.set_xlim(lowest - 3, 100)
    path = output / "zero_tprune.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return Path(path.name)


def _unpruned(panel: "matplotlib.axes.Axes", accuracy: float) -> None:
    panel.axvline(accuracy, color="black", linewidth=0.8, linestyle=":")
    panel.annotate(
        f"unpruned {accuracy:.1f}",
        (accuracy, 0.04),
        xycoords=("data", "axes fraction"),
        xytext=(-3, 0),
        textcoords="offset points",
        fontsize=8,
        ha="right",
    )


RECIPE = _ZeroTPruneRecipe()
