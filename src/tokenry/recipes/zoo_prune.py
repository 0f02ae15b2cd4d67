"""ZOO-Prune (arXiv 2509.24837): is the projector's sensitivity well estimated, does choosing by it help, and is it relevance?

    accuracy    from k visual tokens, against DivPrune (the same choice without sensitivity) and random tokens; and the premise,
                that sensitive tokens are the relevant ones
    estimate    rank correlation of sampled sensitivity with the exact norm of the Jacobian; control: one direction

Headline: above DivPrune at every budget, as in the paper. Laptop: the digits ViT with a projector and a reader, trained with several
seeds. Paper: LLaVA-1.5-7B on POPE. Accuracies are compared digit by digit (question by question). The speed-up is measured by
benchmarks/zoo_prune.py. The paper's average performances are those of its project page.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from tokenry.core.io.progress import Progress, part
from tokenry.core.stats import estimate_of_mean, shown
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.llava_pope import pope
from tokenry.recipes.testbeds.reader_trial import digits
from tokenry.recipes.testbeds.token_choices import DIVPRUNE, LEAST, RANDOM, SENSITIVE, ZOO, ChoiceTrial

PAPER = "98.6 / 97.8 / 95.5 % of the unpruned average with 192 / 128 / 64 tokens (LLaVA-1.5-7B), above DivPrune at every budget"
LEAST_CORRELATION = 0.95


@recipe("zoo-prune", laptop=digits, paper=pope)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Measure every choice of tokens and judge each claim."""
    testbed: Callable[[Progress], ChoiceTrial] = run.sizes
    measured = testbed(part(run.progress, 0.0, 1.0))
    run.settings |= {
        **measured.settings,
        "accuracy": {
            method: {k: f"{estimate_of_mean(choice.right):.1f} %" for k, choice in by_k.items()}
            for method, by_k in measured.choices.items()
        },
        "sensitivity_and_spacing": {
            method: [
                round(float(torch.stack([getattr(choice, what) for choice in by_k.values()]).mean()), 3)
                for what in ("sensitivity", "spacing")
            ]
            for method, by_k in measured.choices.items()
        },
        "unpruned_accuracy": f"{estimate_of_mean(measured.unpruned):.1f} %",
        "estimate": {m: f"{estimate_of_mean(values):.3f}" for m, values in measured.estimates.items()},
    }
    with run.figure(11, 6.4) as figure:
        draw(figure, measured)
    yield from judge(measured)


def judge(measured: ChoiceTrial) -> Iterator[Claim]:
    """Put each claim beside its measurement."""
    yield _more_accurate(measured, DIVPRUNE, PAPER)
    yield _more_accurate(measured, RANDOM, None)
    known = estimate_of_mean(measured.relevance[~measured.relevance.isnan()])
    yield Claim(
        "the premise: sensitive tokens are those that the answer depends on (rank correlation of sensitivity with |gradient · token|)",
        None,
        measured=f"{known:+.3f}",
        control="0 (chance)",
        verdict=shown(known),
    )
    few, many = (
        estimate_of_mean(measured.estimates[m]) for m in (min(measured.estimates), max(measured.estimates))
    )
    yield Claim(
        f"{max(measured.estimates)} directions rank the tokens of an image as the exact norm of the Jacobian does "
        f"(Spearman >= {LEAST_CORRELATION})",
        None,
        measured=f"{many:.3f}",
        control=f"{few:.3f} ({min(measured.estimates)} direction)",
        verdict=shown(many, least=LEAST_CORRELATION),
    )


def _more_accurate(measured: ChoiceTrial, control: str, paper: str | None) -> Claim:
    budgets = measured.choices[ZOO]
    ours, theirs = ([measured.choices[name][k].right for k in budgets] for name in (ZOO, control))
    words = f"from {', '.join(map(str, budgets))} tokens each, ZOO-Prune is more accurate than {control} (%)"
    return Claim.above_everywhere(words, ours, theirs, control, paper=paper)


def draw(figure: Figure, measured: ChoiceTrial) -> None:
    """Accuracy over kept tokens, the estimate over directions, and one image with its kept tokens."""
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.5, 1))
    top, bottom = parts
    left, right = top.subplots(1, 2, width_ratios=(2, 1))
    marks = {
        RANDOM: ("x", "--"),
        DIVPRUNE: ("o", "-"),
        SENSITIVE: ("^", ":"),
        ZOO: ("s", "-"),
        LEAST: ("v", ":"),
    }
    for number, (method, by_k) in enumerate(measured.choices.items()):
        marker, line = marks[method]
        estimates = [estimate_of_mean(choice.right) for choice in by_k.values()]
        left.errorbar(
            list(by_k),
            [estimate.value for estimate in estimates],
            yerr=[estimate.high - estimate.value for estimate in estimates],
            marker=marker,
            linestyle=line,
            capsize=2,
            color=f"C{number}",
            label=method,
        )
    left.axhline(
        float(measured.unpruned.mean()), color="black", linewidth=0.8, linestyle="--", label="all tokens"
    )
    left.set(xlabel="visual tokens kept", ylabel="accuracy, % (95 %)", title="Accuracy")
    left.legend(fontsize=8)
    right.plot(
        list(measured.estimates), [float(v.mean()) for v in measured.estimates.values()], "o-", color="C3"
    )
    right.axhline(0.95, color="black", linewidth=0.8, linestyle="--")
    right.set(
        xscale="log",
        xlabel="directions",
        ylabel="Spearman with the exact norm",
        title="Sampled sensitivity",
        ylim=(None, 1),
    )
    right.set_xticks(list(measured.estimates), [str(m) for m in measured.estimates])
    right.minorticks_off()
    _draw_pictures(bottom, measured.pictures)


def _draw_pictures(figure: SubFigure, pictures: Mapping[str, Tensor]) -> None:
    """One image, the sensitivity of its tokens, and the tokens that each method keeps."""
    if not pictures:
        return
    image, sensitivity = pictures["image"], pictures["sensitivity"]
    side = int(len(sensitivity) ** 0.5)
    shown = [name for name in pictures if name not in ("image", "sensitivity")]
    for axes, name in zip(figure.subplots(1, 2 + len(shown)), ["image", "sensitivity", *shown], strict=True):
        axes.set_axis_off()
        axes.set_title(name if name in ("image", "sensitivity") else f"{name}: kept", fontsize=9)
        if name == "sensitivity":
            axes.imshow(sensitivity.view(side, side), cmap="viridis")
            continue
        axes.imshow(image, cmap="gray_r")
        if name == "image":
            continue
        patch = image.shape[0] // side
        kept = torch.zeros(side * side).index_fill(0, pictures[name], 1.0).view(side, side)
        shade = kept.repeat_interleave(patch, 0).repeat_interleave(patch, 1)
        axes.imshow(torch.ones(*shade.shape, 3), alpha=0.8 * (1 - shade).numpy())
