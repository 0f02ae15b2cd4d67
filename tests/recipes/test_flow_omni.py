"""The recipe of Flow-Omni runs small, and its verdicts follow the measurements in both directions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tokenry.core.stats import FEWEST_ITEMS
from tokenry.generation import write_wave
from tokenry.recipes import load_recipe
from tokenry.recipes.flow_omni import CODED, claims
from tokenry.recipes.testbeds.spoken_digits import DISTURBANCES
from tokenry.recipes.testbeds.spoken_trial import SpeechDistances, SpokenSizes

SMALL = SpokenSizes(
    voices=1, takes=1, test_takes=1, codes=4, width=8, head_width=8, steps=2, batch=4, draws=10
)


def test_it_runs_small(tmp_path):
    pytest.importorskip("espeakng_loader")
    result = check_recipe("flow-omni", SMALL, tmp_path)
    assert len(result.claims) == 4
    assert set(result.settings["frame_distance"]) == {
        "real",
        "real, through the codebook",
        "flow",
        "codebook",
        "regression",
    }


def test_it_runs_on_recordings(tmp_path):
    draw, folder = torch.Generator().manual_seed(0), tmp_path / "recordings"
    folder.mkdir()
    for digit in range(10):
        for take in (0, 7):
            write_wave(folder / f"{digit}_anna_{take}.wav", 0.1 * torch.randn(1600, generator=draw), 8000)
    recipe = replace(load_recipe("flow-omni"), scales={"laptop": SMALL})
    result = recipe.run("laptop", tmp_path, lambda what, share: None, data=folder)
    assert result.settings["clips"] == [10, 10]
    assert result.settings["data"] == f"the Free Spoken Digit Dataset, {folder}"


def sums(apart, clips=24, seed=0):
    """Number, sum and sum of products of the frames of clips, whose mean lies `apart`."""
    frames = np.random.default_rng(seed).normal(apart, 1.0, (clips, 30, 2))
    products = np.einsum("cfi,cfj->cij", frames, frames).reshape(clips, 4)
    return np.concatenate([np.full((clips, 1), 30.0), frames.sum(1), products], axis=1)


def judged(flow=0.1, codebook=0.8, regression=0.9, coded=0.5, rough_flow=0.2, rough=0.8, lossy=0.3, clips=24):
    frames = {"flow": flow, "codebook": codebook, "regression": regression, CODED: coded}
    deltas = {"flow": rough_flow, "codebook": rough, "regression": rough}
    losses = np.random.default_rng(1).normal(0.0, 0.01, (1 + len(DISTURBANCES), clips))
    measured = SpeechDistances(
        {arm: sums(apart, clips, seed) for seed, (arm, apart) in enumerate(frames.items(), 2)},
        {arm: sums(apart, clips, seed) for seed, (arm, apart) in enumerate(deltas.items(), 6)},
        sums(0.0, clips),
        sums(0.0, clips),
        {"clean": 0.1 + losses[0]} | {how: lossy + losses[1 + n] for n, how in enumerate(DISTURBANCES)},
        60,
    )
    return [claim.verdict for claim in claims(measured)]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        judged,
        [
            ({}, set()),
            ({"codebook": 0.12}, {0}),
            ({"regression": 0.12}, {0}),
            ({"coded": 0.05}, {1}),
            ({"rough": 0.21}, {2}),
            ({"lossy": 0.15}, {3}),
        ],
    )
    assert judged(flow=1.0, codebook=0.1, regression=0.1)[0] == "opposite"
    assert set(judged(clips=FEWEST_ITEMS - 1)) == {"too few"}
