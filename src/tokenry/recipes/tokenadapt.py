"""TokenAdapt (arXiv 2505.09738): which rows for new tokens lose least without training, on the new tokenizer's own text and on other text?

SmolLM2-135M gets a byte-level BPE tokenizer of 8,192 tokens, trained on docstrings of scikit-learn and scipy. Measured in bits per
byte, which is fair between tokenizers, paired text by text:

    docstrings   of files the tokenizer has not seen
    prose        "In the Year 2889" (Michel and Jules Verne, 1889; public domain), unlike the tokenizer's training text

    random, mean, ReTok, TokenAdapt local (pieces), global (neighbours), hybrid (both), FOCUS-like, OMP

The auxiliary space is that of character n-grams, a weak stand-in for the paper's sentence encoder; the hybrid in the model's own hidden
states is measured beside it, and so is the hybrid with the released code's random row for tokens that cannot be composed. Headline: half
of ReTok's perplexity (abstract). Of the paper only a summary could be read: its figures are those of the repository's notes.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from matplotlib.figure import Figure
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.io.progress import Progress, part
from tokenry.core.stats import Estimate, all_of, ratio_estimate, shown
from tokenry.core.text.bits_per_byte import TextLoss, bits_difference, text_loss
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.tokenizer_swap import DOCSTRINGS, PROSE, TokenizerSwap, embedded_swap, qwen_swap
from tokenry.tokenization.transfer.transplant.apply import transplant_tokenizer
from tokenry.tokenization.transfer.transplant.report import TransplantReport

NOTES = "Qwen2.5-3B to an 81k vocabulary (repository notes, not checked against the paper)"
ORIGINAL, RANDOM, MEAN, RETOK = "original tokenizer", "random rows", "mean row", "ReTok (mean of pieces)"
LOCAL, GLOBAL, HYBRID = "TokenAdapt local", "TokenAdapt global", "TokenAdapt hybrid"
HIDDEN, FALLBACK = "hybrid, hidden states", "hybrid, random fallback"
FOCUS, OMP = "FOCUS-like", "OMP"

METHODS: Mapping[str, dict[str, Any]] = {
    RANDOM: {"method": "random"},
    MEAN: {"method": "mean"},
    RETOK: {"method": "retok"},
    LOCAL: {"global_weight": 0.0},
    GLOBAL: {"global_weight": 1.0},
    HYBRID: {},
    HIDDEN: {"auxiliary": "hidden"},
    FALLBACK: {"fallback": "random"},
    FOCUS: {"method": "focus"},
    OMP: {"method": "omp", "auxiliary": "embeddings"},
}

_LEFT_OUT = 300


Losses = Mapping[str, Mapping[str, TextLoss]]
"""Losses by method and kind of text."""


@recipe("tokenadapt", laptop=embedded_swap, paper=qwen_swap)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Transplant by every method and judge each claim."""
    load: Callable[[Progress], TokenizerSwap] = run.sizes
    subject = load(run.progress)
    losses, reports = measure(subject, part(run.progress, 0.1, 1.0))
    run.settings |= {
        "subject": subject.name,
        "texts": {
            kind: {"texts": len(texts), "bytes": sum(len(text.encode()) for text in texts)}
            for kind, texts in subject.texts.items()
        },
        "bits_per_byte": {
            name: {kind: loss.bits_per_byte.value for kind, loss in of_kind.items()}
            for name, of_kind in losses.items()
        },
        "perplexity": {
            name: {kind: loss.perplexity for kind, loss in of_kind.items()}
            for name, of_kind in losses.items()
        },
        "transplants": {name: _record(report) for name, report in reports.items()},
    }
    with run.figure(9, 4.2) as figure:
        draw(figure, losses)
    yield from judge(losses)


def measure(subject: TokenizerSwap, progress: Progress) -> tuple[Losses, dict[str, TransplantReport]]:
    """Measure the original model and every transplant of it."""
    losses: dict[str, dict[str, TextLoss]] = {}
    reports = {}
    progress(ORIGINAL, 0.0)
    losses[ORIGINAL] = _losses(subject.model, subject.old, subject)
    for number, (name, settings) in enumerate(METHODS.items(), start=1):
        progress(name, number / (len(METHODS) + 1))
        model, reports[name] = transplant_tokenizer(
            copy.deepcopy(subject.model),
            subject.old,
            subject.new,
            **{"auxiliary": subject.auxiliary, "leave_one_out": _LEFT_OUT, **settings},
        )
        losses[name] = _losses(model, subject.new, subject)
    return losses, reports


def _losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, subject: TokenizerSwap
) -> dict[str, TextLoss]:
    return {kind: text_loss(model, tokenizer, texts, batch_size=4) for kind, texts in subject.texts.items()}


def _record(report: TransplantReport) -> dict[str, Any]:
    left_out = report.leave_one_out
    return {
        "counts": dict(report.counts),
        "estimates": dict(report.estimates),
        "leave_one_out": left_out.summary() if left_out else None,
    }


def judge(losses: Losses) -> Iterator[Claim]:
    """Put each claim beside its measurement, text by text."""

    def bits(name: str, kind: str) -> str:
        return f"{losses[name][kind].bits_per_byte.value:.3f}"

    def gain(name: str, control: str, kind: str) -> Estimate:
        return bits_difference(losses[control][kind], losses[name][kind])

    def better(words: str, name: str, control: str, kind: str, paper: str) -> Claim:
        found = gain(name, control, kind)
        return Claim(
            f"{words} (bits per byte)",
            paper,
            measured=f"{bits(name, kind)} (difference {found.scaled(-1):+.3f}, n = {found.samples})",
            control=f"{bits(control, kind)} ({control})",
            verdict=shown(found),
        )

    yield _half_the_perplexity(losses)
    steps = [gain(better, worse, DOCSTRINGS) for worse, better in pairwise((RANDOM, MEAN, RETOK))]
    yield Claim(
        "on docstrings every step of knowledge pays: random rows > mean row > ReTok (bits per byte)",
        None,
        measured=f"{bits(RETOK, DOCSTRINGS)} (ReTok; against the mean row {steps[1].scaled(-1):+.3f})",
        control=f"{bits(MEAN, DOCSTRINGS)} (mean row), {bits(RANDOM, DOCSTRINGS)} (random rows)",
        verdict=all_of(map(shown, steps)),
    )
    yield better(
        "on docstrings TokenAdapt's local estimate is better than ReTok",
        LOCAL,
        RETOK,
        DOCSTRINGS,
        f"perplexity 3.49 against 3.48 on English, 10.14 against 10.19 on code; {NOTES}",
    )
    yield better(
        "on prose, which the vocabulary was not made for, the hybrid is better than ReTok",
        HYBRID,
        RETOK,
        PROSE,
        f"median perplexity 5.98 against 6.43; {NOTES}",
    )


def _half_the_perplexity(losses: Losses) -> Claim:
    """Both models read the same tokens, so that half the perplexity is one bit per token less."""
    saved = {
        kind: ratio_estimate((losses[RETOK][kind].nll - loss.nll) / math.log(2), loss.tokens)
        for kind, loss in losses[HYBRID].items()
    }
    kind = max(saved, key=lambda kind: saved[kind].value)
    low, value, high = (2**bits for bits in (saved[kind].low, saved[kind].value, saved[kind].high))
    return Claim(
        "the hybrid has half the perplexity of ReTok or less (ReTok / hybrid on the text where it gains most)",
        f"at least 2-fold (abstract); 4780 / 2947 = 1.6 for means over texts; {NOTES}",
        measured=f"{value:.2f} (95 %: {low:.2f} to {high:.2f}; {kind})",
        control="1 (ReTok itself)",
        verdict=shown(saved[kind], least=1.0),
    )


def draw(figure: Figure, losses: Losses) -> None:
    """Bits per byte of every method, one panel per kind of text."""
    panels = figure.subplots(1, 2, sharey=True)
    names = list(losses)[::-1]
    for axes, kind in zip(panels, (DOCSTRINGS, PROSE), strict=True):
        estimates = [losses[name][kind].bits_per_byte for name in names]
        values, errors = (
            [getattr(estimate, what) for estimate in estimates] for what in ("value", "standard_error")
        )
        axes.errorbar(values, range(len(names)), xerr=errors, fmt="none", ecolor="0.75", elinewidth=1)
        colors = ["C0" if name.startswith(("TokenAdapt", "hybrid")) else "0.35" for name in names]
        axes.scatter(values, range(len(names)), c=colors, zorder=3)
        for row, value in enumerate(values):
            axes.annotate(
                f"{value:.3f}",
                (value, row),
                xytext=(0, 5),
                textcoords="offset points",
                fontsize=7,
                ha="center",
            )
        axes.axvline(losses[RETOK][kind].bits_per_byte.value, color="0.35", linewidth=0.8, linestyle=":")
        axes.set(title=f"held-out {kind}" if kind == DOCSTRINGS else kind, xlabel="bits per byte")
        axes.set_ylim(-0.6, len(names) - 0.3)
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(names)), names)
    figure.suptitle(
        "A new tokenizer without training (dotted: ReTok; bars: standard error over texts)", fontsize=10
    )
