"""Estimates, verdicts, the bootstrap and fits, against scipy and statsmodels where they have the same thing."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from tokenry.core.errors import UserError
from tokenry.core.stats import (
    Estimate,
    absent,
    all_of,
    bootstrap_estimate,
    estimate_of_correlation,
    estimate_of_mean,
    exactly,
    fit_nonnegative,
    independent_difference,
    more_often,
    paired_difference,
    profile,
    ratio_estimate,
    resampled_totals,
    residual_bootstrap,
    shown,
)

NUMBERS = st.lists(st.floats(-100, 100), min_size=3, max_size=30)


@settings(max_examples=50, deadline=None)
@given(NUMBERS)
def test_a_mean_has_the_error_and_the_interval_of_statsmodels(values):
    found, expected = estimate_of_mean(values), DescrStatsW(values)
    assert found.value == pytest.approx(expected.mean, abs=1e-9)
    assert found.standard_error == pytest.approx(expected.std_mean, abs=1e-9)
    assert (found.low, found.high) == pytest.approx(expected.tconfint_mean(), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=8, max_size=30))
def test_a_paired_difference_is_shown_where_the_paired_t_test_says_so(pairs):
    ours, theirs = (np.round(column, 3) for column in zip(*pairs, strict=True))
    if np.ptp(ours - theirs) < 1e-6:
        return
    test, verdict = scipy_stats.ttest_rel(ours, theirs), shown(paired_difference(ours, theirs))
    if abs(test.pvalue - 0.05) > 1e-6:
        assert (verdict in ("shown", "opposite")) == (test.pvalue < 0.05)
        assert verdict != ("opposite" if test.statistic > 0 else "shown")


@settings(max_examples=50, deadline=None)
@given(NUMBERS, NUMBERS)
def test_an_independent_difference_has_welchs_interval(one, other):
    if np.std(one) + np.std(other) < 1e-6:
        return
    found = independent_difference(estimate_of_mean(one), estimate_of_mean(other))
    expected = CompareMeans(DescrStatsW(one), DescrStatsW(other)).tconfint_diff(usevar="unequal")
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_equal_sizes_give_the_ordinary_mean():
    totals = np.array([3.0, 5.0, 4.0, 8.0])
    ratio, mean = ratio_estimate(totals, np.full(4, 2)), estimate_of_mean(totals / 2)
    assert (ratio.value, ratio.standard_error) == pytest.approx((mean.value, mean.standard_error))


@pytest.mark.parametrize(("totals", "sizes", "words"), [
    ([1.0], [2.0], "1 held-out item has no standard error"),
    ([], [], "0 held-out item has no standard error"),
    ([1.0, 2.0], [0.0, 0.0], "no text to divide by"),
])  # fmt: skip
def test_a_ratio_of_nothing_is_refused(totals, sizes, words):
    with pytest.raises(UserError, match=words):
        ratio_estimate(np.array(totals), np.array(sizes))


def test_a_single_unit_has_a_value_and_no_error():
    found = estimate_of_mean([3.0])
    assert found.value == 3.0
    assert math.isnan(found.standard_error)
    assert math.isnan(found.low)
    assert shown(found) == "too few"


@settings(max_examples=50, deadline=None)
@given(NUMBERS, st.floats(-5, 5).filter(lambda factor: abs(factor) > 1e-3))
def test_an_estimate_in_another_unit_is_that_of_the_scaled_values(values, factor):
    found, expected = estimate_of_mean(values).scaled(factor), estimate_of_mean(factor * np.array(values))
    for name in ("value", "standard_error", "low", "high"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-6, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=5, max_size=30))
def test_a_correlation_has_the_interval_of_scipy(pairs):
    x, y = (np.round(column, 2) for column in zip(*pairs, strict=True))
    if np.ptp(x) < 0.1 or np.ptp(y) < 0.1:
        return
    expected = scipy_stats.pearsonr(x, y)
    found = estimate_of_correlation(float(expected.statistic), len(x))
    if abs(found.value) < 0.999:
        assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()), abs=1e-6)


def test_a_correlation_of_three_points_has_no_interval():
    assert math.isnan(estimate_of_correlation(0.5, 3).low)
    assert math.isnan(estimate_of_correlation(1.0, 9).high)


def test_an_estimate_is_written_with_its_error_or_its_interval():
    assert Estimate(0.5, math.nan, 9, 0.25, 0.75).with_interval("+.2f") == "+0.50 (95 %: +0.25 to +0.75)"
    assert f"{Estimate(0.1234, 0.01, 9):+.2f}" == "+0.12 ± 0.01"
    assert f"{Estimate(0.1234, 0.01, 9):.1%}" == "12.3% ± 1.0%"
    assert str(Estimate(2.0, 0.5, 9)) == "2 ± 0.5"


def estimate(low, high, samples=20):
    return Estimate((low + high) / 2, (high - low) / 4, samples, low, high)


@pytest.mark.parametrize(("found", "least", "verdict"), [
    (estimate(0.1, 0.3), 0.0, "shown"),
    (estimate(-0.1, 0.3), 0.0, "not shown"),
    (estimate(-0.3, -0.1), 0.0, "opposite"),
    (estimate(0.1, 0.3), 0.2, "not shown"),
    (estimate(0.1, 0.15), 0.2, "not shown"),  # less than was asked for, but in its direction
    (estimate(-0.05, 0.3), -0.1, "shown"),
    (estimate(-0.15, -0.05), -0.1, "not shown"),
    (estimate(-0.3, -0.2), -0.1, "opposite"),
    (estimate(5.0, 6.0, samples=7), 0.0, "too few"),
    (estimate(math.nan, math.nan), 0.0, "not shown"),
])  # fmt: skip
def test_a_difference_is_judged_by_where_its_interval_lies(found, least, verdict):
    assert shown(found, least) == verdict


def test_two_seeds_are_enough_where_seeds_are_the_units_and_one_is_not():
    assert shown(paired_difference([0.9, 0.92], [0.1, 0.12]), fewest=2) == "shown"
    assert shown(paired_difference([0.9, 0.9], [0.1, 0.5]), fewest=2) == "not shown"
    assert shown(paired_difference([0.9], [0.1]), fewest=2) == "too few"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40))
def test_wins_and_losses_have_the_exact_test_of_mcnemar(won, lost):
    p = mcnemar([[3, won], [lost, 4]], exact=True).pvalue
    expected = "not shown" if p >= 0.05 else "shown" if won > lost else "opposite"
    assert more_often(won, lost, items=won + lost + 7 + 1) == expected
    assert more_often(won, lost, items=7) == "too few"


def test_no_effect_is_shown_by_a_narrow_interval_only():
    assert absent(estimate(-0.1, 0.2), 0.3) == "shown"
    assert absent(estimate(-0.4, 0.2), 0.3) == "not shown"
    assert absent(estimate(0.2, 0.6), 0.3) == "opposite"
    assert absent(estimate(-0.1, 0.2, samples=3), 0.3) == "too few"


def test_a_claim_of_several_parts_needs_them_all():
    assert all_of(["shown", "shown"]) == "shown"
    assert all_of(["shown", "opposite"]) == all_of(["not shown", "shown"]) == "not shown"
    assert all_of(["opposite", "opposite"]) == "opposite"
    assert all_of(["shown", "too few"]) == "too few"
    assert [exactly(True), exactly(False)] == ["shown", "not shown"]


def test_a_bootstrap_has_the_error_of_the_mean():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    drawn = resampled_totals(np.stack([values, np.ones(400)], axis=1), 4000, seed=1)
    found = bootstrap_estimate(float(values.mean()), drawn[:, 0] / drawn[:, 1], 400)
    expected = estimate_of_mean(values)
    assert (drawn[:, 1] == 400).all()
    assert found.standard_error == pytest.approx(expected.standard_error, rel=0.05)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_draws_that_say_nothing_are_left_out():
    assert bootstrap_estimate(1.0, np.array([np.nan, 0.5, 1.5, np.inf]), 9).standard_error < 1
    assert math.isnan(bootstrap_estimate(1.0, np.array([np.nan, np.nan]), 9).low)


X = np.array([1.0, 2.0, 4.0, 8.0, 16.0])


def power(parameters):
    return parameters[0] * X ** -parameters[1] + parameters[2]


def fitted(measured, starts=((1.0, 1.0, 0.1),)):
    return fit_nonnegative(power, measured, starts)


def test_a_curve_without_noise_is_recovered_from_any_start():
    for start in ((1.0, 1.0, 0.1), (9.0, 0.1, 2.0), (-1.0, 3.0, 0.0)):
        found = fitted(power([5.0, 0.7, 1.0]), [start])
        np.testing.assert_allclose(found.parameters, [5.0, 0.7, 1.0], rtol=1e-5)
        assert found.sse < 1e-12


def test_the_best_start_counts_and_bounds_hold():
    rising = X + 1
    assert (fitted(rising).parameters >= 0).all()
    one, both = fitted(rising, [(50.0, 4.0, 0.0)]), fitted(rising, [(50.0, 4.0, 0.0), (1.0, 0.1, 5.0)])
    assert both.sse <= one.sse
    assert fit_nonnegative(power, rising, [(1.0, 1.0, 1.0)], ([0, 0.5, 0], [2, 3, 4])).parameters[2] <= 4


def test_refits_scatter_as_widely_as_the_noise():
    def line(measured):
        return np.polyfit(np.arange(20.0), measured, 1)

    truth = 2.0 * np.arange(20.0) + 1
    measured = truth + np.random.default_rng(0).normal(0, 0.5, 20)
    slope, intercept = line(measured)
    samples = residual_bootstrap(slope * np.arange(20.0) + intercept, measured, line, 2, 500)
    expected = scipy_stats.linregress(np.arange(20.0), measured)
    assert samples[:, 0].std() == pytest.approx(expected.stderr, rel=0.15)
    assert not len(residual_bootstrap(measured[:2], measured[:2], line, 2, 10))


def test_a_profile_walks_as_far_as_the_fit_allows():
    measured = power([5.0, 0.7, 1.0]) + 0.02 * np.array([1, -1, 1, -1, 1])
    best = fitted(measured)

    def held(floor, start):
        return fit_nonnegative(lambda p: p[0] * X ** -p[1] + floor, measured, [start])

    reached = profile(held, best.parameters[2], best.parameters[:2], (0.0, measured.min()), 4 * best.sse)
    floors = [floor for floor, _ in reached]
    assert floors == sorted(floors)
    assert floors[0] < best.parameters[2] < floors[-1]
    assert all(held(floor, others).sse <= 4 * best.sse * (1 + 1e-6) for floor, others in reached)
