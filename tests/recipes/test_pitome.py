"""The recipe of PiToMe: equal counts for every method, and verdicts that follow the measurements in both directions."""

from dataclasses import replace

import pytest
import torch

from tests import tiny
from tests.recipes.check_recipe import check_recipe, check_verdicts
from tokenry.recipes.pitome import (
    CLASS,
    CORE,
    OFFICIAL,
    PITOME,
    RANDOM,
    TOME,
    Strengths,
    judge,
    sweep,
)
from tokenry.recipes.testbeds.reduction_trial import Classifier, ReductionTrial

STRENGTHS = Strengths(lambda progress: None, ratios=(0.9, 0.75), r=3)


@pytest.fixture
def subject():
    model = tiny.vit_classifier(num_labels=3)
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(12, 1, 16, 16, generator=draw)
    return Classifier(model, images, torch.randint(3, (12,), generator=draw), views=3)


def point(accuracy, flops=0.5):
    """Of 1000 objects so many percent are right, the same ones first."""
    return ReductionTrial((37,), flops, 100 * (torch.arange(1000) < 10 * accuracy).float())


def verdicts(tome=80.0, random=60.0, **accuracies):
    curves = {
        PITOME: (90, 85), CORE: (90, 85), OFFICIAL: (88, 80), TOME: (90, 80), CLASS: (70, 60), RANDOM: (60, 50),
        **{globals()[name]: pair for name, pair in accuracies.items()},
    }  # fmt: skip
    curves = {name: [point(value) for value in pair] for name, pair in curves.items()}
    claims = judge(STRENGTHS, point(93), curves, point(tome), point(random))
    return [claim.verdict for claim in claims]


def test_every_method_is_measured_at_the_same_token_counts(subject):
    dense, curves = sweep(subject, STRENGTHS.ratios, lambda what, share: None)
    assert dense.flops == 1
    for number in range(len(STRENGTHS.ratios)):
        assert len({curve[number].counts for curve in curves.values()}) == 1
    assert curves[TOME][0].flops > curves[TOME][1].flops


def test_a_run_leaves_the_random_state_alone(subject, tmp_path):
    state = torch.get_rng_state()
    result = check_recipe("pitome", replace(STRENGTHS, load=lambda progress: subject), tmp_path)
    assert torch.get_rng_state().equal(state)
    assert result.headline.claim.endswith("PiToMe loses less than ToMe (mean drop in points)")
    assert len(result.claims) == 6


def test_each_claim_can_be_shown_and_can_fail():
    check_verdicts(verdicts, [
        ({}, set()),
        ({"PITOME": (90.0, 80.0)}, {0, 5}),
        ({"CORE": (85.0, 79.0)}, {1}),
        ({"random": 71.0}, {2}),
        ({"CLASS": (70.0, 84.5)}, {4}),
        ({"CLASS": (95.0, 60.0)}, {3, 4}),
        ({"OFFICIAL": (90.0, 85.0)}, {5}),
    ])  # fmt: skip
