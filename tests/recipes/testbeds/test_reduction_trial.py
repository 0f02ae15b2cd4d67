"""What the recipes of token reduction share: one classifier under many methods, compared object by object."""

import pytest
import torch

from tests import tiny
from tokenry.compression.vision import RandomDrop, ToMe
from tokenry.recipes.testbeds.reduction_trial import Classifier, measure


@pytest.fixture(scope="module")
def classifier():
    model = tiny.vit_classifier(num_labels=3)
    images = torch.randn(12, 1, 16, 16)
    return Classifier(model, images, torch.arange(12) % 3, views=3)


def test_views_of_one_object_count_as_one(classifier):
    assert measure(classifier, ToMe(2)).right.shape == (4,)


def test_chance_is_the_mean_over_seeds_and_can_be_repeated(classifier):
    one, again = (measure(classifier, RandomDrop(r=5), seeds=3).right for _ in range(2))
    assert one.equal(again)
    outcomes = one * 9 / 100  # three views under three seeds
    assert outcomes.sub(outcomes.round()).abs().max() < 1e-4


def test_the_callers_random_state_is_left_alone(classifier):
    state = torch.get_rng_state()
    measure(classifier, RandomDrop(r=5), seeds=2)
    assert torch.get_rng_state().equal(state)


def test_the_model_is_given_back_as_it_was(classifier):
    with torch.no_grad():
        before = classifier.model(classifier.images).logits
        measure(classifier, ToMe(4))
        assert classifier.model(classifier.images).logits.equal(before)
