"""Flow-Omni (arXiv 2412.04917): speech as continuous tokens from a flow head, beside a codebook and a regression.

One causal transformer of two layers is told digit, voice and length and says the digit, four log-mel frames a token, with three heads:

    flow         a flow head, 16 Euler steps
    codebook     a softmax over 512 codes (k-means), which are fed back
    regression   the mean of what may come

The digits are spoken by a synthetic voice with a pitch that the model is not told, or by people (`--data`). Clips are cut to whole tokens,
so that no head is taught what fills up a token, and every arm says the digits of all test clips at their length. Clips are the units, and
the intervals are the bootstrap's over them.

Headline: the frames of the flow head are at most a third as far from those of the test clips as the codebook's and the regression's
(Fréchet distance).
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from tokenry.core.io.progress import part
from tokenry.core.stats import all_of, estimate_of_mean, shown
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.spoken_digits import WORDS, trained_recogniser
from tokenry.recipes.testbeds.spoken_trial import (
    ARMS,
    CODEBOOK,
    FLOW,
    REGRESSION,
    Frames,
    SpeechDistances,
    SpokenSizes,
    SpokenTrial,
    spoken_clips,
)

REAL, CODED = "real", "real, through the codebook"
_AS_FAR, _AS_ROUGH, _AS_LOSSY = 3.0, 2.0, 2.0


@recipe(
    "flow-omni",
    laptop=SpokenSizes(),
    paper=SpokenSizes(codes=4096, width=896, head_width=1024, steps=20_000),
    takes="the Free Spoken Digit Dataset",
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Train the three heads, let them speak, and judge each claim."""
    sizes: SpokenSizes = run.sizes
    clips = spoken_clips(sizes, run.data, part(run.progress, 0.0, 0.12))
    spoken = SpokenTrial(clips, sizes)
    run.progress("a network that hears digits", 0.12)
    recogniser = trained_recogniser(
        spoken.train,
        spoken.digits(spoken.train_clips),
        spoken.mean,
        spoken.deviation,
        epochs=12,
        seed=sizes.seed,
    )
    said: dict[str, Frames] = {REAL: spoken.train[: len(spoken.test)], CODED: spoken.coded_test()}
    for number, arm in enumerate(ARMS):
        begin = 0.18 + 0.26 * number
        said[arm] = spoken.said_by(arm, part(run.progress, begin, begin + 0.26))
    run.progress("measuring", 0.96)
    measured = SpeechDistances(
        {name: spoken.frame_sums(frames) for name, frames in said.items()},
        {name: spoken.frame_sums(frames, deltas=True) for name, frames in said.items()},
        spoken.frame_sums(spoken.test),
        spoken.frame_sums(spoken.test, deltas=True),
        spoken.distortions(),
        sizes.draws,
    )
    right = {
        name: float((recogniser.heard(frames) == spoken.digits(spoken.test_clips)).float().mean())
        for name, frames in ((arm, said[arm]) for arm in ARMS)
    }
    run.settings |= {
        **asdict(sizes),
        "clips": [len(spoken.train), len(spoken.test)],
        "frame_distance": {name: measured.distance(name) for name in said},
        "delta_distance": {name: measured.distance(name, deltas=True) for name in said},
        "distortion": {name: float(np.mean(values)) for name, values in measured.distortions.items()},
        "digits_right": right
        | {REAL: float((recogniser.heard(spoken.test) == spoken.digits(spoken.test_clips)).float().mean())},
    }
    with run.figure(11, 5.5) as figure:
        draw(figure, spoken, said)
    yield from claims(measured)


def claims(measured: SpeechDistances) -> Iterator[Claim]:
    """Put each claim beside its measurement."""
    flow = measured.distance(FLOW)
    controls = {arm: measured.distance(arm) for arm in (CODEBOOK, REGRESSION)}
    margins = {arm: measured.margin(FLOW, arm, _AS_FAR) for arm in controls}
    yield Claim(
        "the frames of the flow head are at most a third as far from real ones as the codebook's and the regression's (Fréchet distance; "
        "clips are the units)",
        None,
        measured=f"{flow:.3f} (three times that is below by "
        + ", ".join(f"{margin.with_interval('.3f')}" for margin in margins.values())
        + f", n = {len(measured.real):,})",
        control=", ".join(f"{value:.3f} ({arm})" for arm, value in controls.items()),
        verdict=all_of(shown(margin) for margin in margins.values()),
    )
    nearer = measured.margin(FLOW, CODED, 1.0)
    yield Claim(
        "the frames of the flow head are nearer to real ones than real speech is once it has gone through the codebook",
        None,
        measured=f"{flow:.3f} (nearer by {nearer.with_interval('.3f')})",
        control=f"{measured.distance(CODED):.3f} (the test clips through the codebook)",
        verdict=shown(nearer),
    )
    rough = measured.margin(FLOW, REGRESSION, _AS_ROUGH, deltas=True)
    yield Claim(
        "the regression's changes from frame to frame are at least twice as far from real ones as the flow head's",
        None,
        measured=f"{measured.distance(FLOW, deltas=True):.3f} (twice that is below by {rough.with_interval('.3f')})",
        control=f"{measured.distance(REGRESSION, deltas=True):.3f} (regression)",
        verdict=shown(rough),
    )
    clean = measured.distortions["clean"]
    more = {
        how: estimate_of_mean(values - _AS_LOSSY * clean)
        for how, values in measured.distortions.items()
        if how != "clean"
    }
    yield Claim(
        "a codebook of clean speech loses at least twice as much of speech that is higher, noisy or clipped, each",
        None,
        measured=", ".join(f"{np.mean(measured.distortions[how]):.3f} ({how})" for how in more),
        control=f"{clean.mean():.3f} (clean); continuous tokens lose nothing",
        verdict=all_of(map(shown, more.values())),
    )


def draw(figure: Figure, spoken: SpokenTrial, said: Mapping[str, Frames]) -> None:
    """Draw log-mel frames of the same digits: real, and as each arm says them."""
    rows = (REAL, *ARMS)
    digits = [clip.digit for clip in spoken.test_clips]
    chosen = [digits.index(digit) for digit in (0, 3, 7)]
    axes: Any = figure.subplots(len(rows), len(chosen), squeeze=False, sharey=True)
    low, high = (float(torch.cat(list(spoken.test)).quantile(share)) for share in (0.02, 0.995))
    for row, name in enumerate(rows):
        for column, number in enumerate(chosen):
            frames = spoken.test[number] if name == REAL else said[name][number]
            axis = axes[row, column]
            axis.imshow(frames.T.numpy(), origin="lower", aspect="auto", vmin=low, vmax=high, cmap="magma")
            axis.set_xticks([])
            axis.set_yticks([])
            if not column:
                axis.set_ylabel(name)
            if not row:
                axis.set_title(f"“{WORDS[spoken.test_clips[number].digit]}”")
