"""Variable projection: the optimum of other solvers, constraints, many samples at once, and intervals that hold what they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit, nnls

from tokenry.core.stats import SeparableCurve, fit_samples, fit_separable, scan_minimum


def decay(exponents, points):
    fall = np.exp(-exponents[..., None] * points)
    return np.stack([np.ones_like(fall), fall, points * fall], axis=-1)


FREE = SeparableCurve(decay, 0.01, 10.0, (False,) * 3)
BOUND = SeparableCurve(decay, 0.01, 10.0, (True,) * 3)
POINTS = np.linspace(0.1, 3, 9)


def noisy(seed, truth=(1.0, 2.0, 0.5), exponent=0.8, noise=0.02, points=POINTS):
    clean = decay(np.asarray(exponent), points) @ np.array(truth)
    return clean + noise * np.random.default_rng(seed).standard_normal(len(points))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_no_start_of_another_solver_finds_a_better_fit(seed):
    measured = noisy(seed)
    ours = fit_separable(FREE, POINTS, measured)

    def curve(x, c, a, b, rate):
        return c + (a + b * x) * np.exp(-rate * x)

    for start in ((1, 1, 0, 1), (0, 3, 1, 0.3), (1, 2, 0, 3)):
        try:
            theirs, _ = curve_fit(curve, POINTS, measured, p0=start, maxfev=5000)
        except RuntimeError:
            continue
        if FREE.low <= theirs[-1] <= FREE.high:
            assert ours.sse <= np.square(curve(POINTS, *theirs) - measured).sum() * (1 + 1e-9)
    np.testing.assert_allclose(np.square(ours.fitted - measured).sum(), ours.sse, rtol=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_constrained_coefficients_are_those_of_nnls(seed):
    measured = noisy(seed, truth=(-0.2, 1.0, -0.3), noise=0.3)
    fit = fit_separable(BOUND, POINTS, measured)
    expected, error = nnls(decay(np.asarray(fit.exponent), POINTS), measured)
    np.testing.assert_allclose(fit.coefficients, expected, atol=1e-8)
    assert fit.sse == pytest.approx(error**2, rel=1e-9)


def test_many_samples_are_fitted_as_each_alone():
    measured = np.stack([noisy(seed, noise=0.1) for seed in range(7)])
    exponents, coefficients, sse = fit_samples(BOUND, POINTS, measured)
    for number, row in enumerate(measured):
        alone = fit_separable(BOUND, POINTS, row)
        assert exponents[number] == pytest.approx(alone.exponent, rel=1e-9)
        np.testing.assert_allclose(coefficients[number], alone.coefficients, rtol=1e-6, atol=1e-9)
        assert sse[number] == pytest.approx(alone.sse, rel=1e-9)


def test_a_weight_of_two_is_a_point_twice():
    measured, twice = noisy(3), np.arange(len(POINTS)) == 4
    weighted = fit_samples(FREE, POINTS, measured[None], 1.0 + twice[None])
    points = np.append(POINTS, POINTS[4])
    doubled = fit_separable(FREE, points, np.append(measured, measured[4]))
    assert weighted[0][0] == pytest.approx(doubled.exponent, rel=1e-6)


def test_a_profile_interval_ends_where_no_good_enough_curve_goes_through():
    """Against the definition: the point is added as a measurement, and its cost is what the interval allows."""
    measured, place = noisy(5), np.array([1.4])
    fit = fit_separable(BOUND, POINTS, measured)
    low, high = fit.interval(lambda rate: decay(rate, place), 0.9, noise=True)
    allowed = fit._allowed(0.9)
    for value, good in ((low[0], True), (high[0], True), (low[0] - 0.002, False), (high[0] + 0.002, False)):
        held = fit_separable(BOUND, np.append(POINTS, place), np.append(measured, value))
        assert (held.sse <= allowed * (1 + 1e-3)) is good


def test_ninety_per_cent_intervals_hold_nine_of_ten_new_measurements():
    place, held = np.array([4.0]), []
    truth = (decay(np.asarray(0.8), place) @ np.array([1.0, 2.0, 0.5]))[0]
    for seed in range(150):
        fit = fit_separable(FREE, POINTS, noisy(seed))
        low, high = fit.interval(lambda rate: decay(rate, place), 0.9, noise=True)
        new = truth + 0.02 * np.random.default_rng(10_000 + seed).standard_normal()
        held.append(low[0] <= new <= high[0])
    assert 0.82 <= np.mean(held) <= 0.97


def test_nothing_is_known_of_an_exact_fit():
    points = POINTS[:4]
    fit = fit_separable(FREE, points, noisy(1, noise=0, points=points))
    assert fit.sse < 1e-12
    assert fit.interval(lambda rate: decay(rate, points)) is None
    assert fit.exponent_interval() is None
    assert fit.residual_draws(10)[0].size == 0


def test_draws_of_cases_leave_out_what_determines_nothing():
    fit = fit_separable(FREE, POINTS[:5], noisy(1, points=POINTS[:5]))
    exponents, coefficients = fit.case_draws(60, seed=0)
    assert 0 < np.isnan(exponents).sum() < 60
    np.testing.assert_array_equal(np.isnan(exponents), np.isnan(coefficients).all(axis=1))


def test_the_least_value_of_a_scan_is_narrowed():
    lowest = np.array([0.3, -1.7, 2.0])
    found = scan_minimum(lambda x: np.square(x - lowest), np.linspace(-2, 2, 21)[:, None], samples=3)
    np.testing.assert_allclose(found, lowest, atol=1e-7)
