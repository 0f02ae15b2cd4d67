"""The bootstrap by an index matrix, against resampled totals; the exact interval of a share, against scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tokenry.core.errors import UserError
from tokenry.core.stats import bootstrap, clopper_pearson, index_matrix, resampled_totals


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_the_interval_of_a_share_is_scipys_exact_one(counts):
    expected = binomtest(*counts).proportion_ci(method="exact")
    assert clopper_pearson(*counts) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_interval_without_trials_is_everything():
    assert clopper_pearson(0, 0) == (0.0, 1.0)


def test_an_index_matrix_holds_the_draws_of_resampled_totals():
    values = np.arange(20.0) ** 2
    matrix = index_matrix(20, draws=50, seed=3)
    assert matrix.shape == (50, 20)
    np.testing.assert_allclose(values[matrix].sum(1), resampled_totals(values[:, None], 50, seed=3)[:, 0])


def test_a_paired_difference_leaves_out_what_both_share():
    shared = np.random.default_rng(0).normal(size=40) * 100
    found = bootstrap(
        lambda ours, theirs: float(np.mean(ours) - np.mean(theirs)), shared + 1, shared, draws=200
    )
    assert (found.value, found.samples) == (pytest.approx(1.0), 40)
    assert found.high - found.low < 1e-9


def test_the_error_of_a_mean_is_the_formulas():
    values = np.random.default_rng(1).normal(size=200)
    found = bootstrap(lambda column: float(column.mean()), values, draws=2000)
    assert found.standard_error == pytest.approx(values.std(ddof=1) / 200**0.5, rel=0.06)


@pytest.mark.parametrize(("events", "trials", "words"), [
    (-1, 4, "events must be at least 0, got -1"),
    (5, 4, "trials must be at least 5, got 4"),
])  # fmt: skip
def test_a_count_that_is_none_is_refused(events, trials, words):
    with pytest.raises(UserError, match=words):
        clopper_pearson(events, trials)
