"""The recipe of DiffRate: every method at the same FLOPs, and verdicts that follow the measurements."""

import pytest
import torch

from tests import tiny
from tests.recipes.check_recipe import check_recipe
from tokenry.compression.apply import apply_token_reduction
from tokenry.compression.vision.diffrate import DiffRate, Schedule
from tokenry.recipes import diffrate
from tokenry.recipes.diffrate import (
    HALF,
    LEARNED,
    RANDOM_DROP,
    RANDOM_ORDER,
    UNIFORM,
    WEIGHTED,
    compare,
    judge,
)
from tokenry.recipes.testbeds.random_order import RandomOrder
from tokenry.recipes.testbeds.reduction_trial import Classifier, ReductionTrial

METHODS = (LEARNED, *UNIFORM, RANDOM_ORDER, RANDOM_DROP, WEIGHTED)


@pytest.fixture
def testbed():
    model = tiny.vit_classifier(image_size=24, num_hidden_layers=4, num_labels=3, initializer_range=0.3)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, 1, 24, 24, generator=generator)
    labels = torch.arange(12) % 3
    return diffrate.Testbed(
        Classifier(model.requires_grad_(False), images, labels, views=3),
        loader=[(images[:4], labels[:4])] * 2,
        shares=(0.7, 0.5),
        official=0.5,
        search={"granularity": 1, "lr": 0.1, "min_lr": 0.01, "epochs": 1},
    )


def points(**accuracy):
    """Budgets of 40 objects; accuracies in percent, scattered alike."""
    scatter = torch.linspace(-5, 5, 40)
    budget = {}
    for number, name in enumerate(METHODS):
        of_method = accuracy.get(name, 80.0) + scatter.roll(number)
        budget[name] = ReductionTrial(
            (37, 37, 20), accuracy.get("flops", 0.6) if name == LEARNED else 0.6, of_method
        )
    return {0.6: budget}


DENSE = ReductionTrial((37, 37, 37), 1.0, torch.full((40,), 93.0))


def verdicts(**accuracy):
    return [claim.verdict == "shown" for claim in judge(points(**accuracy), 0.6, DENSE)]


def test_it_runs_from_search_to_picture(testbed, tmp_path):
    found = check_recipe("diffrate", lambda progress: testbed, tmp_path)
    assert found.settings["measured"]["0.5"].keys() == set(METHODS)
    assert found.headline.claim.startswith("at 0.70 of the dense FLOPs")
    assert len(found.claims) == 5


def test_all_methods_have_the_same_budget(testbed):
    learned = Schedule([37, 30, 24, 18], [37, 28, 20, 12])
    budget = compare(testbed, 37, learned)
    for name in UNIFORM:
        assert budget[name].flops == pytest.approx(budget[LEARNED].flops, rel=0.02)
    for name in (RANDOM_ORDER, RANDOM_DROP, WEIGHTED):
        assert budget[name].counts == budget[LEARNED].counts == (37, 37, 28, 20, 12)


def test_random_order_changes_which_tokens_stay_and_nothing_else(testbed):
    schedule = Schedule([37, 30, 24, 18], [37, 28, 20, 12])
    sources = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        with apply_token_reduction(testbed.classifier.model, RandomOrder(DiffRate(schedule))) as reduction:
            testbed.classifier.model(testbed.classifier.images)
            sources.append(reduction.source_map())
    assert not sources[0].equal(sources[1])
    assert sources[0][:, 0].equal(sources[1][:, 0])


def test_equal_accuracies_show_only_that_the_budget_is_met():
    assert verdicts() == [False, False, True, False]


def test_a_better_schedule_is_shown_and_a_missed_budget_is_not():
    assert verdicts(**{LEARNED: 90.0}) == [True] * 4
    assert verdicts(**{LEARNED: 90.0, "flops": 0.62}) == [True, True, False, True]


def test_one_better_uniform_schedule_refutes_being_above_all():
    assert verdicts(**{LEARNED: 90.0, HALF: 85.0, "uniform, merge only": 91.0})[:2] == [True, False]
    assert verdicts(**{LEARNED: 90.0, HALF: 89.5})[0] is False


def test_a_worse_schedule_is_shown_the_other_way_round():
    (headline, *_) = judge(points(**{LEARNED: 60.0}), 0.6, DENSE)
    assert headline.verdict == "opposite"
