"""Predictive strength and the documents that teach, against reference numbers, and what they refuse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_arrays
from tokenry.core.errors import UserError
from tokenry.data import predictive_strength, select_extremes

SLUG = "33-preselect"


def case(name):
    return {key: value.numpy() for key, value in golden_arrays(SLUG, name).items()}


@pytest.mark.parametrize("name", ["dev-strength.npz", "dev-strength-ties.npz"])
def test_the_strength_is_the_reference_one(name):
    stored = case(name)
    given = stored["total_loss_nats"], stored["benchmark"]
    assert predictive_strength(*given, normalise=False).tolist() == stored["pair_score"].tolist()
    np.testing.assert_allclose(predictive_strength(*given), stored["strength"], rtol=1e-12)


def test_the_extremes_are_the_reference_ones():
    stored = case("dev-strength.npz")
    positive, negative = select_extremes(stored["strength"])
    assert set(positive.tolist()) == set(stored["positive_ids"].tolist())
    assert negative.tolist() == stored["negative_ids"].tolist()
    again = select_extremes(stored["pair_score"])
    assert [ids.tolist() for ids in again] == [positive.tolist(), negative.tolist()]


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(1, 8), st.randoms(use_true_random=False))
def test_neither_the_order_of_the_models_nor_the_scale_of_the_losses_counts(models, documents, random):
    draw = np.random.default_rng(random.randrange(1 << 30))
    loss, benchmark = draw.normal(size=(documents, models)).round(1), draw.permutation(models) * 1.0
    expected = predictive_strength(loss, benchmark)
    order = draw.permutation(models)
    assert predictive_strength(loss[:, order], benchmark[order]).tolist() == expected.tolist()
    assert predictive_strength(np.exp(3 * loss) + 7, benchmark).tolist() == expected.tolist()
    assert ((expected >= 0) & (expected <= 1)).all()


def test_a_perfect_order_is_one_and_the_reverse_is_nothing():
    benchmark = np.array([1.0, 2.0, 3.0])
    losses = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [3.0, np.nan, 1.0]])
    assert predictive_strength(losses, benchmark).tolist()[:3] == [1.0, 0.0, 0.0]
    assert np.isnan(predictive_strength(losses, benchmark)[3])


def test_duplicated_documents_have_one_strength():
    losses = np.repeat(np.array([[5.0, 4.0, 4.5]]), 3, axis=0)
    assert len(set(predictive_strength(losses, np.array([1.0, 2.0, 3.0])).tolist())) == 1


def test_extremes_are_as_many_as_asked_for_and_leave_out_what_is_missing():
    strength = np.array([0.2, np.nan, 1.0, 0.8, 0.1, 0.9])
    positive, negative = select_extremes(strength, n=2)
    assert (positive.tolist(), negative.tolist()) == ([2, 5], [4, 0])


def test_more_strong_documents_than_others_leave_the_others():
    positive, negative = select_extremes(np.array([1.0, 1.0, 1.0, 0.5]))
    assert (positive.tolist(), negative.tolist()) == ([0, 1, 2], [3])


@pytest.mark.parametrize(
    ("loss", "benchmark", "words"),
    [
        (np.zeros((3, 1)), [1.0], "at least two of one family"),
        (np.zeros((3, 2)), [1.0, 2.0, 3.0], "losses of 2 models and 3 benchmarks"),
        (np.zeros((3, 2)), [1.0, np.nan], "the benchmark of model 2 is nan"),
        (np.zeros((3, 3)), [4.0, 4.0, 4.0], "all 3 models have the benchmark 4"),
    ],
)
def test_models_that_cannot_be_ordered_are_refused(loss, benchmark, words):
    with pytest.raises(UserError, match=words):
        predictive_strength(loss, np.array(benchmark))


@pytest.mark.parametrize(
    ("strength", "n", "words"),
    [
        ([np.nan, np.nan], None, "no document has a strength"),
        ([0.5, 0.5, 0.5], None, "all 3 have the same strength"),
        ([0.5, 0.6, 0.7], 2, "choose at most 1"),
        ([0.5, 0.6, 0.7], 0, "n must be at least 1, got 0"),
    ],
)
def test_empty_sides_are_refused(strength, n, words):
    with pytest.raises(UserError, match=words):
        select_extremes(np.array(strength), n)
