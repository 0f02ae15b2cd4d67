"""The recipe of equal-info windows runs small, and its verdicts follow the measurements in both directions."""

import numpy as np

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tokenry.recipes.equal_info import learning_claims, window_claims
from tokenry.recipes.testbeds.coded_text import (
    AC,
    BPE,
    BYTES,
    CODER_ONLY,
    WINDOWS,
    CodedTextSizes,
    StreamLoss,
    WindowSizeTrial,
)

SMALL = CodedTextSizes(
    packages=("tokenry",),
    counted=8_000,
    text=8_000,
    held_out=4_000,
    example_bytes=800,
    ratio_bytes=400,
    ratio_examples=2,
    windows=(16, 32),
    bpe=270,
    layers=1,
    width=8,
    heads=2,
    length=16,
    batch_size=4,
    steps=4,
)


def test_it_runs_small(tmp_path):
    result = check_recipe("equal-info", SMALL, tmp_path)
    assert len(result.claims) == 6
    assert result.settings["steps"] == 4


NOISE = np.linspace(-0.001, 0.001, 10)


def judged(
    ac=8.0, windows=7.2, unigram=7.9, reset=7.43, bpe=6.5, free=2.7, lossless=True, wrong=0.2, large=3.5
):
    def loss(bits, unigram, by_place, per_byte):
        return StreamLoss(bits + NOISE, unigram + NOISE[::-1], by_place + NOISE[::-1], per_byte + 0 * NOISE)

    losses = {
        AC: loss(ac, 8.0, 8.0, 0.25),
        WINDOWS: loss(windows, unigram, 7.8, 0.43),
        CODER_ONLY: loss(reset, 7.6, 7.45, 0.32),
        BYTES: loss(3.9, 4.9, 4.9, 1.0),
        BPE: loss(bpe, 8.5, 8.5, 0.42),
    }
    trials = {
        16: WindowSizeTrial(2.75 + NOISE, free + NOISE, wrong + NOISE, lossless),
        32: WindowSizeTrial(large + NOISE, large + NOISE, 0.2 + NOISE, True),
    }
    found = [*learning_claims(losses), *window_claims(trials, 4.5 + NOISE)]
    return [claim.verdict for claim in found]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        judged,
        [
            ({}, set()),
            ({"ac": 7.9}, {0}),
            ({"unigram": 7.3}, {0}),
            ({"reset": 7.3}, {1}),
            ({"bpe": 7.9}, {2}),
            ({"free": 2.5}, {3}),
            ({"lossless": False}, {3}),
            ({"wrong": 0.05}, {4}),
            ({"large": 2.0}, {5}),
        ],
    )
