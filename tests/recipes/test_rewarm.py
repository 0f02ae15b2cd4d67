"""The recipe of re-warming: every arm is trained from the same base, and verdicts follow the measurements in both directions."""

import numpy as np
import pytest
import torch

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tests.tiny.models import llama
from tokenry.pretraining import ContinualConfig, TokenBlocks
from tokenry.recipes.rewarm import (
    CONSTANT,
    HALF,
    INFINITE,
    LONG_WARMUP,
    NEW,
    NO_WARMUP,
    OLD,
    REPLAY,
    REWARMED,
    SAME,
    SCRATCH,
    TWICE,
    ArmLosses,
    judge,
    schedules,
)
from tokenry.recipes.testbeds.two_corpora import TwoCorpora

NEW_LOSS = {
    REWARMED: 2.3,
    NO_WARMUP: 2.301,
    LONG_WARMUP: 2.299,
    HALF: 2.35,
    TWICE: 2.25,
    CONSTANT: 2.4,
    INFINITE: 2.305,
    REPLAY: 2.31,
    SCRATCH: 2.9,
    SAME: 2.4,
}
OLD_LOSS = dict.fromkeys(NEW_LOSS, 2.7) | {HALF: 2.6, TWICE: 2.9, REPLAY: 2.3, SAME: 2.01}
BEFORE = 2.0


def around(loss):
    """Ten blocks, alike but for a little."""
    return loss + 1e-3 * np.arange(10)


def verdicts(**changed):
    new = NEW_LOSS | {globals()[name]: value for name, value in changed.items() if name in globals()}
    old = OLD_LOSS | {
        globals()[name[4:]]: value for name, value in changed.items() if name.startswith("old_")
    }
    arms = {
        name: ArmLosses(
            {OLD: around(BEFORE), NEW: around(2.0)}, {OLD: around(old[name]), NEW: around(new[name])}, [1], {}
        )
        for name in new
    }
    return [claim.verdict for claim in judge(arms)]


def test_each_claim_can_be_shown_and_can_fail():
    check_verdicts(
        verdicts,
        [
            ({}, set()),
            ({"SCRATCH": 2.2}, {0}),
            ({"NO_WARMUP": 2.33}, {1}),
            ({"HALF": 2.3, "TWICE": 2.3}, {1, 2}),
            ({"TWICE": 2.31}, {2}),
            ({"old_TWICE": 2.65}, {2}),
            ({"old_REPLAY": 2.4}, {3}),
            ({"INFINITE": 2.33}, {4}),
            ({"INFINITE": 2.27}, {4}),
            ({"old_SAME": 1.99}, {5}),
        ],
    )


def blocks(step, number=24, length=10):
    first = torch.randint(64, (number, 1), generator=torch.Generator().manual_seed(step))
    return (first + step * torch.arange(length)) % 64


@pytest.fixture(scope="module")
def subject():
    old, new = (TokenBlocks(blocks(step), blocks(step, 9)) for step in (1, 5))
    return TwoCorpora(
        lambda seed: llama(seed),
        None,
        old,
        new,
        seeds=(0, 1),
        base_steps=8,
        steps=4,
        max_lr=0.02,
        config=ContinualConfig(batch_size=4, evaluate_every=2),
        name="tiny",
    )


def test_arms_begin_at_the_same_base_but_for_the_untrained_model(subject, tmp_path):
    result = check_recipe("rewarm", lambda progress: subject, tmp_path)
    assert len(result.claims) == 6
    losses = result.settings["loss"]
    assert set(losses) == set(NEW_LOSS)
    begun = {name: losses[name][OLD]["before"] for name in losses}
    assert len({begun[name] for name in losses if name not in (SCRATCH, SAME)}) == 1
    assert len({begun[name] for name in (REWARMED, SCRATCH, SAME)}) == 3
    assert losses[SAME][NEW] == losses[SAME][OLD]


def test_every_schedule_fits_the_steps(subject):
    assert all(schedule.last <= subject.steps for schedule in schedules(subject.steps, 0.02).values())
