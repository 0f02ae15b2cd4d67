"""Equal-info windows (arXiv 2404.03626): a model can learn text that a smaller model has compressed, if coder and model begin anew.

Docstrings coded by an n-gram of bytes (M1); the same small transformer (M2) learns each stream of 8-bit tokens for the same steps:

    AC                 one arithmetic code of every example
    windows            EqualInfo[16], free ends: lossless
    coder reset only   windows of 16 bits whose M1 reads on
    bytes, BPE         the text itself, at equal FLOPs of M2

Headline: on AC M2 stays at 8 bits per token, on windows it falls at least 0.3 bits below the frequencies of the tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tokenry.core.io.progress import part
from tokenry.core.stats import absent, all_of, estimate_of_mean, exactly, paired_difference, shown
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.coded_text import (
    AC,
    BPE,
    BYTES,
    CODER_ONLY,
    WINDOWS,
    CodedTextSizes,
    StreamLoss,
    TextStreams,
    WindowSizeTrial,
    coded_text,
    learned,
    stream_ratios,
    window_trials,
)

UNIFORM, STAYS, FALLS, RATIO, WRONG, UNLEARNED = 8.0, 0.03, 0.3, 0.05, 0.1, 0.05
STREAMS = (AC, WINDOWS, CODER_ONLY, BYTES, BPE)
PAPER_RATIOS = "2.66, 3.49, 4.16, 4.61, AC 5.49"


@recipe(
    "equal-info",
    laptop=CodedTextSizes(),
    paper=replace(CodedTextSizes(), layers=6, width=512, heads=8, length=512, batch_size=256, steps=200_000),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Code the text, train M2 on every stream, and judge each claim."""
    sizes: CodedTextSizes = run.sizes
    run.progress("reading the text", 0.0)
    text = coded_text(sizes)
    streams = TextStreams(text.counted, sizes.bpe)
    trials = window_trials(streams, text.held_out, sizes, part(run.progress, 0.05, 0.15))
    ratios = stream_ratios(streams, text.held_out, sizes)
    losses = learned(streams, text, STREAMS, sizes, part(run.progress, 0.15, 1.0))
    run.settings |= {
        "seeds": list(sizes.seeds),
        "few_seeds": list(sizes.few_seeds),
        "steps": sizes.steps,
        "bits_per_token": {name: loss.bits.tolist() for name, loss in losses.items()},
        "unigram": {name: loss.unigram.tolist() for name, loss in losses.items()},
        "bits_per_byte": {name: loss.bits_per_byte.tolist() for name, loss in losses.items()},
        "bit_ratios": {str(bits): trial.free.tolist() for bits, trial in trials.items()}
        | {AC: ratios.tolist()},
        "wrong": {str(bits): trial.wrong.tolist() for bits, trial in trials.items()},
    }
    with run.figure(13, 4) as figure:
        draw(figure, losses, trials, ratios)
    yield from learning_claims(losses)
    yield from window_claims(trials, ratios)


def learning_claims(losses: Mapping[str, StreamLoss]) -> Iterator[Claim]:
    """What M2 learns from each stream."""
    stays = estimate_of_mean(losses[AC].bits - UNIFORM)
    windows, control = losses[WINDOWS], losses[CODER_ONLY]
    falls = paired_difference(windows.unigram, windows.bits)
    yield Claim(
        f"M2 stays at {UNIFORM:g} ± {STAYS:g} bits per token on an arithmetic code, and on EqualInfo[16] falls at least {FALLS:g} below the "
        "frequencies of the tokens",
        "AC is not learned, EqualInfo[16] is",
        measured=f"windows {windows.bits.mean():.3f} ({falls:.3f} below, n = {falls.samples} examples)",
        control=f"AC {losses[AC].bits.mean():.4f}, token frequencies {windows.unigram.mean():.3f}",
        verdict=all_of([absent(stays, STAYS), shown(falls, FALLS)]),
    )
    gained = paired_difference(control.by_place, control.bits)
    yield Claim(
        f"resetting the coder but not M1 is not learnable: M2 is less than {UNLEARNED:g} bits below the frequencies of the tokens at their "
        "place in a window",
        "not learned",
        measured=f"{gained:.3f} bits below (n = {gained.samples} examples)",
        control=f"{(windows.by_place - windows.bits).mean():.3f} below (EqualInfo[16])",
        verdict=shown(gained.scaled(-1), -UNLEARNED),
    )
    worse = paired_difference(windows.bits_per_byte, losses[BPE].bits_per_byte)
    yield Claim(
        "at equal FLOPs of M2, EqualInfo[16] needs more bits per byte than BPE",
        "1.47 against 1.12 (25M parameters)",
        measured=f"windows {windows.bits_per_byte.mean():.3f} ({worse:+.3f}, n = {worse.samples} examples)",
        control=f"BPE {losses[BPE].bits_per_byte.mean():.3f}, bytes {losses[BYTES].bits_per_byte.mean():.3f}",
        verdict=shown(worse),
    )


def window_claims(trials: Mapping[int, WindowSizeTrial], ratios: np.ndarray) -> Iterator[Claim]:
    """What windows of each size hold, and whether they give it back."""
    apart = [estimate_of_mean(trial.free / trial.greedy - 1) for trial in trials.values()]
    number = apart[0].samples
    yield Claim(
        f"free windows give every text back, and their ratio is within {RATIO:.0%} of the greedy one at every size",
        None,
        measured=", ".join(f"{100 * found.value:.1f} %" for found in apart) + f" (n = {number} examples)",
        control="0 % (greedy)",
        verdict=all_of(
            [exactly(all(trial.lossless for trial in trials.values()))]
            + [shown(found, -RATIO) for found in apart]
        ),
    )
    wrong = [estimate_of_mean(trial.wrong) for trial in trials.values()]
    yield Claim(
        f"greedy windows do not: at least {WRONG:.0%} decode to another text at every size",
        "99.4 % of sequences decode",
        measured=", ".join(f"{found.value:.1%}" for found in wrong) + f" (n = {number} examples)",
        control="0 % (free)",
        verdict=all_of(shown(found, WRONG) for found in wrong),
    )
    rows = [*(trial.free for trial in trials.values()), ratios]
    yield Claim(
        "the larger the window, the better the ratio, and an arithmetic code without windows is the best",
        PAPER_RATIOS,
        measured=", ".join(f"{row.mean():.2f}" for row in rows[:-1]) + f" (n = {number} examples)",
        control=f"AC {ratios.mean():.2f}",
        verdict=all_of(shown(paired_difference(better, row)) for row, better in pairwise(rows)),
    )


def draw(
    figure: Figure,
    losses: Mapping[str, StreamLoss],
    trials: Mapping[int, WindowSizeTrial],
    ratios: np.ndarray,
) -> None:
    """Bits per token beside what frequencies cost, bits per byte, and ratios by the size of the window."""
    tokens, size, windows = figure.subplots(1, 3)
    coded = (AC, CODER_ONLY, WINDOWS)
    for place, name in enumerate(coded):
        loss = losses[name]
        _dots(tokens, place, loss.bits)
        tokens.plot([place - 0.3, place + 0.3], [loss.unigram.mean()] * 2, color="0.6", linewidth=2)
        tokens.plot([place - 0.3, place + 0.3], [loss.by_place.mean()] * 2, ":", color="0.3", linewidth=1.5)
    tokens.axhline(UNIFORM, color="0.8", linewidth=0.8, zorder=0)
    tokens.set_xticks(range(len(coded)), coded)
    tokens.set(ylabel="bits per token", title="M2 (examples), token frequencies (—), by place (···)")
    for place, name in enumerate(STREAMS):
        _dots(size, place, losses[name].bits_per_byte)
    size.set_xticks(range(len(STREAMS)), [name.replace(" reset", "\nreset") for name in STREAMS])
    size.set(ylabel="bits per byte", title="M2 at equal FLOPs")
    sizes = [*trials]
    for label, marker, values in (
        ("greedy", "s--", [trial.greedy.mean() for trial in trials.values()]),
        ("free", "o-", [trial.free.mean() for trial in trials.values()]),
    ):
        windows.plot(sizes, values, marker, color="black", fillstyle="none", label=label)
    windows.axhline(ratios.mean(), color="0.6", linewidth=1)
    windows.annotate("AC", (0.02, ratios.mean()), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
    windows.set_xscale("log", base=2)
    windows.set_xticks(sizes, [str(bits) for bits in sizes])
    windows.set(xlabel="bits of a window", ylabel="bit ratio", title="what a window holds")
    windows.legend(frameon=False)


def _dots(axis: Any, place: int, values: Sequence[float] | np.ndarray) -> None:
    axis.plot([place] * len(values), values, "o", color="black", fillstyle="none", markersize=4)
