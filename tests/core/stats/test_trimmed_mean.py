"""The trimmed mean and its error are those of scipy, and few outliers move neither."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mstats, trim_mean

from tokenry.core.stats import estimate_of_mean, estimate_of_trimmed_mean


@settings(deadline=None, max_examples=50)
@given(st.sampled_from([20, 40, 60]), st.integers(0, 99), st.sampled_from([0.1, 0.2, 0.25]))
def test_value_and_error_are_those_of_scipy(count, seed, share):
    values = np.random.default_rng(seed).normal(1, 2, count)
    found = estimate_of_trimmed_mean(values, share)
    assert found.value == pytest.approx(trim_mean(values, share))
    assert found.samples == count - 2 * int(share * count)
    expected = mstats.trimmed_stde(values, (share, share), (True, True))
    assert found.standard_error == pytest.approx(expected)


def test_nothing_cut_is_the_mean():
    values = [1.0, 2.0, 4.0, 8.0]
    assert estimate_of_trimmed_mean(values, 0.0) == estimate_of_mean(values)


def test_outliers_move_neither():
    values = np.linspace(0, 1, 20)
    wild = np.concatenate([values[:-2], [1e6, 1e7]])
    assert estimate_of_trimmed_mean(wild, 0.2) == estimate_of_trimmed_mean(values, 0.2)
