"""Loss laws and error laws: what must hold for any runs, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from tokenry.core.errors import UserError
from tokenry.pretraining.scaling import (
    ErrorLaw,
    LossLaw,
    downstream_interval,
    fit_error_law,
    fit_loss_law,
    fit_power_law,
    predict_downstream,
    published_fit_runs,
    published_runs,
    relative_error,
)

LAW = LossLaw(E=1.8, a=210.0, b=360.0, eta=0.136)
SIZES = np.array([1e7, 1e7, 8e7, 8e7, 4e8, 4e8, 1e9])
MULTIPLIERS = np.array([20.0, 320, 20, 80, 20, 160, 20])
LOSSES = [3.9, 3.4, 3.0, 2.7, 2.5]
ERRORS = [0.75, 0.71, 0.65, 0.6, 0.55]


def noisy(seed=0, noise=0.01, law=LAW, sizes=SIZES, multipliers=MULTIPLIERS):
    draw = np.random.default_rng(seed)
    return law.predict(N=sizes, M=multipliers) + noise * draw.standard_normal(len(sizes))


@pytest.fixture(scope="module")
def fitted():
    return fit_loss_law(SIZES, MULTIPLIERS, loss=noisy())


@pytest.fixture(scope="module")
def error_law():
    return fit_error_law(LOSSES, ERRORS)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.5, 3), st.floats(50, 500), st.floats(50, 500), st.floats(0.08, 0.4))
def test_the_law_behind_exact_runs_is_found(floor, a, b, eta):
    law = LossLaw(floor, a, b, eta)
    found = fit_loss_law(SIZES, MULTIPLIERS, loss=law.predict(N=SIZES, M=MULTIPLIERS))
    np.testing.assert_allclose([found.E, found.eta], [floor, eta], rtol=1e-3)
    assert found.predict(N=7e9, M=640) == pytest.approx(law.predict(N=7e9, M=640), rel=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(len(SIZES))), st.floats(0.5, 2))
def test_neither_order_nor_the_unit_of_the_loss_changes_the_law(order, unit):
    order, losses = list(order), noisy()
    one = fit_loss_law(SIZES, MULTIPLIERS, loss=losses)
    other = fit_loss_law(SIZES[order], MULTIPLIERS[order], loss=unit * losses[order])
    assert other.eta == pytest.approx(one.eta, rel=1e-5)
    assert other.predict(N=2e9, M=40) == pytest.approx(unit * one.predict(N=2e9, M=40), rel=1e-6)


def test_tokens_may_be_given_instead_of_tokens_per_parameter(fitted):
    by_tokens = fit_loss_law(SIZES, D=SIZES * MULTIPLIERS, loss=noisy())
    assert by_tokens.predict(C=1e21, D=2e10) == pytest.approx(fitted.predict(C=1e21, D=2e10), rel=1e-7)


@pytest.mark.parametrize("given_by", ["NM", "ND", "NC", "CM", "CD", "DM"])
def test_any_two_quantities_give_a_run(given_by):
    run = {"N": 3e8, "M": 50.0, "D": 1.5e10, "C": 6 * 3e8 * 1.5e10}
    loss = LAW.predict(**{name: run[name] for name in given_by})
    assert loss == pytest.approx(LAW.predict(N=3e8, M=50.0), rel=1e-12)
    assert isinstance(loss, float)


def test_predictions_broadcast_and_those_of_many_draws_have_a_row_for_each(fitted):
    assert LAW.predict(N=SIZES[:, None], M=[20, 40, 80]).shape == (len(SIZES), 3)
    drawn = fitted.bootstrap(20)
    assert drawn.predict(N=1e9, M=20).shape == (20,)
    assert drawn.predict(N=[1e9, 2e9], M=20).shape == (20, 2)
    assert np.ndim(drawn.optimal_multiplier()) == 1


def test_the_best_multiplier_has_the_least_loss_at_any_compute():
    best = LAW.optimal_multiplier()
    around = best * np.array([0.8, 0.95, 1, 1.05, 1.25])
    for compute in (1e18, 1e23):
        assert LAW.predict(C=compute, M=around).argmin() == 2
    assert math.isinf(LossLaw(1.0, 0.0, 2.0, 0.1).optimal_multiplier())


def test_four_runs_are_fitted_exactly_and_their_errors_are_not_known():
    law = fit_loss_law(SIZES[1:5], MULTIPLIERS[1:5], loss=LAW.predict(N=SIZES[1:5], M=MULTIPLIERS[1:5]))
    assert law.sse < 1e-12
    assert law.intervals is None
    assert law.interval(N=1e9, M=20) is law.interval(N=1e9, M=20, by="bootstrap") is None
    assert law.bootstrap(5).predict(N=1e9, M=20).shape == (0,)
    assert any("4 runs for 4 constants: the fit is exact" in warning for warning in law.warnings)
    three = fit_error_law(LOSSES[:3], ERRORS[:3])
    assert three.intervals is None
    np.testing.assert_allclose(three.predict(LOSSES[:3]), ERRORS[:3], atol=1e-6)
    assert "3 runs for 3 constants: the fit is exact" in three.warnings[0]


def test_runs_may_be_repeated():
    twice = fit_loss_law(np.tile(SIZES, 2), np.tile(MULTIPLIERS, 2), loss=np.tile(noisy(), 2))
    once = fit_loss_law(SIZES, MULTIPLIERS, loss=noisy())
    assert twice.eta == pytest.approx(once.eta, rel=1e-6)
    assert twice.sse == pytest.approx(2 * once.sse, rel=1e-9)


def test_intervals_hold_the_estimates_and_a_new_run_varies_more_than_the_law(fitted):
    for name in ("E", "a", "b", "eta"):
        low, high = fitted.intervals[name]
        assert low <= getattr(fitted, name) <= high
    for by in ("profile", "bootstrap"):
        run, law = (fitted.interval(N=7e9, M=[20, 320], new_run=new, by=by) for new in (True, False))
        predicted = fitted.predict(N=7e9, M=[20, 320])
        assert (run[0] < law[0]).all()
        assert (law[0] < predicted).all()
        assert (predicted < law[1]).all()
        assert (law[1] < run[1]).all()
    wide, narrow = (fitted.interval(N=7e9, M=20, confidence=share) for share in (0.99, 0.5))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_leave_one_out_is_what_fits_without_each_run_say():
    sizes, multipliers = (np.ravel(axis) for axis in np.meshgrid([1e8, 3e8, 1e9, 3e9], [5, 20, 80]))
    loss = LAW.predict(N=sizes, M=multipliers) + 0.01 * np.random.default_rng(0).normal(size=12)
    law = fit_loss_law(sizes, multipliers, loss=loss)
    without, missed = [], []
    for out in range(12):
        kept = np.arange(12) != out
        other = fit_loss_law(sizes[kept], multipliers[kept], loss=loss[kept])
        without.append(other.predict(N=7e9, M=20))
        missed.append(abs(other.predict(N=float(sizes[out]), M=float(multipliers[out])) - loss[out]))
    below, above = (np.array(without) + sign * np.array(missed) for sign in (-1, 1))
    low, high = law.interval(N=7e9, M=20, by="leave-one-out")
    assert (low, high) == (pytest.approx(below.min()), pytest.approx(above.max())), (
        "the first of 12 + 1, at 0.9"
    )
    inner = law.interval(N=7e9, M=20, by="leave-one-out", confidence=0.8)
    assert inner == (pytest.approx(np.sort(below)[1]), pytest.approx(np.sort(above)[-2]))
    low, high = law.interval(N=7e9, M=20, by="leave-one-out", new_run=False)
    error = math.sqrt(11 * np.var(without))
    assert (high - low) / 2 == pytest.approx(1.795885 * error, rel=1e-4)
    assert (high + low) / 2 == pytest.approx(law.predict(N=7e9, M=20))


def test_the_same_seed_draws_the_same_laws(fitted):
    one, same, other = (fitted.bootstrap(5, seed=seed).eta for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    whole = fitted.bootstrap(30, resample="runs").eta
    assert np.isfinite(whole).sum() > 15


@pytest.mark.parametrize(("objective", "loss"), [("log", "linear"), ("huber", "huber")])
def test_objectives_in_the_logarithm_reach_the_optimum_of_another_solver(objective, loss):
    measured = noisy(4, noise=0.03)
    ours = fit_loss_law(SIZES, MULTIPLIERS, loss=measured, objective=objective)

    def missed(constants):
        law = LossLaw(constants[0], *np.exp(constants[1:3]), constants[3])
        return np.log(np.maximum(law.predict(N=SIZES, M=MULTIPLIERS), 1e-9)) - np.log(measured)

    def cost(missed):
        small = np.abs(missed) <= 1e-3
        robust = np.where(small, missed**2, 2e-3 * np.abs(missed) - 1e-6)
        return (robust if objective == "huber" else missed**2).sum()

    mine = np.array([ours.E, math.log(ours.a), math.log(ours.b), ours.eta])
    starts = [mine, mine * 1.05, [1.8, 5.3, 5.9, 0.136], [1.0, 4.0, 4.0, 0.1]]
    theirs = min(
        cost(missed(least_squares(missed, start, loss=loss, f_scale=1e-3, x_scale="jac", xtol=1e-14, ftol=1e-14, max_nfev=2000).x))
        for start in starts
    )  # fmt: skip
    assert cost(missed(mine)) <= theirs * (1 + 1e-4)


def test_an_outlier_moves_huber_less_than_squares():
    spoiled = noisy(noise=1e-4)
    spoiled[3] *= 1.1
    truth = LAW.predict(N=7e9, M=20)
    robust, squares = (
        relative_error(fit_loss_law(SIZES, MULTIPLIERS, loss=spoiled, objective=objective).predict(N=7e9, M=20), truth)
        for objective in ("huber", "squares")
    )  # fmt: skip
    assert robust < squares / 3


def test_constants_stay_above_nothing_unless_that_is_lifted():
    losses = noisy(noise=0) - 3 * np.log(MULTIPLIERS)[::-1] / 10
    held = fit_loss_law(SIZES, MULTIPLIERS, loss=losses)
    assert min(held.E, held.a, held.b) >= 0
    free = fit_loss_law(SIZES, MULTIPLIERS, loss=losses, constrain=False)
    assert min(free.E, free.a, free.b) < 0
    assert free.sse <= held.sse
    assert any("the runs contradict the law" in warning for warning in free.warnings)
    assert any("at its bound 0" in warning for warning in held.warnings)


def test_losses_that_look_like_bits_are_warned_of():
    warned = fit_loss_law(SIZES, MULTIPLIERS, loss=noisy() + 8, vocab_size=50_432).warnings
    assert any(
        "is worse than guessing among 50,432 tokens (10.83 nats): is it in bits" in line for line in warned
    )
    assert not any("guessing" in line for line in fit_loss_law(SIZES, MULTIPLIERS, loss=noisy()).warnings)


def test_eta_that_cannot_be_told_is_warned_of(fitted):
    five = published_runs("redpajama")
    five = five.where(published_fit_runs(five))
    law = fit_loss_law(five.N, five.M, loss=five.loss)
    assert "eta cannot be told closely" in law.warnings[0]
    assert not any(
        "eta" in line for line in fit_loss_law(SIZES, MULTIPLIERS, loss=noisy(noise=1e-4)).warnings
    )


def test_errors_that_do_not_fall_with_the_loss_are_warned_of():
    law = fit_error_law(LOSSES, ERRORS[::-1])
    assert "does not fall with the loss" in law.warnings[0]
    assert not fit_error_law(LOSSES, ERRORS).warnings


def test_a_prediction_goes_through_the_loss(fitted, error_law):
    chained = predict_downstream(fitted, error_law, [1e9, 7e9], 20)
    np.testing.assert_allclose(chained, error_law.predict(fitted.predict(N=[1e9, 7e9], M=20)))
    low, high = downstream_interval(fitted, error_law, [1e9, 7e9], 20, draws=50)
    assert (low < chained).all()
    assert (chained < high).all()
    exact = fit_error_law(LOSSES[:3], ERRORS[:3])
    assert downstream_interval(fitted, exact, 1e9, 20) is None
    for name in ("eps", "k", "gamma"):
        lowest, highest = error_law.intervals[name]
        assert lowest <= getattr(error_law, name) <= highest


def test_relative_errors_are_fractions():
    assert relative_error(2.2, 2.0) == pytest.approx(0.1)
    np.testing.assert_allclose(relative_error([1.0, 3.0], [2.0, 2.0]), [0.5, 0.5])


@pytest.mark.parametrize(("arguments", "words"), [
    ({"N": SIZES[:3]}, "every run needs N and M and loss, got 3 and 7 and 7 of them"),
    ({"N": SIZES[:3], "M": MULTIPLIERS[:3], "loss": LOSSES[:3]}, "has 4 constants and cannot be fitted to 3 runs"),
    ({"N": -SIZES}, "N must be finite and above 0, got -1e+07"),
    ({"M": MULTIPLIERS * 0}, "M must be finite and above 0, got 0"),
    ({"loss": np.full(7, np.nan)}, "loss must be finite and above 0, got nan"),
    ({"loss": np.full(7, np.inf)}, "loss must be finite and above 0, got inf"),
    ({"loss": -np.ones(7)}, "loss must be finite and above 0, got -1"),
    ({"M": np.full(7, 20.0)}, "all runs have M = 20 tokens per parameter, so a and b cannot be told apart"),
    ({"N": np.full(7, 1e7)}, "all runs have N = 1e+07 parameters"),
    ({"N": SIZES[[0, 1, 2, 2, 2, 2, 2]], "M": MULTIPLIERS[[0, 1, 2, 2, 2, 2, 2]]}, "cannot be told from 3 different runs"),
    ({"D": SIZES}, "give M or D, one of them, got both"),
    ({"M": None}, "give M or D, one of them, got neither"),
    ({"objective": "l1"}, "objective must be one of squares, log, huber, got 'l1'"),
])  # fmt: skip
def test_runs_that_no_law_can_be_fitted_to_are_refused(arguments, words):
    with pytest.raises(UserError) as caught:
        fit_loss_law(**{"N": SIZES, "M": MULTIPLIERS, "loss": noisy(), **arguments})
    assert words in str(caught.value)


@pytest.mark.parametrize(("loss", "error", "words"), [
    (LOSSES, ERRORS[:4], "every run needs a loss and an error, got 5 and 4"),
    (LOSSES, [75, 71, 65, 60, 55], "errors must be in [0, 1], got 75"),
    (LOSSES, [math.nan, *ERRORS[1:]], "errors must be in [0, 1], got nan"),
    ([3.0, 2.0], [0.5, 0.4], "has 3 constants and cannot be told from 2 different losses"),
    ([3.0] * 5, ERRORS, "cannot be told from 1 different loss:"),
    ([-3.0, *LOSSES[1:]], ERRORS, "loss must be finite and above 0, got -3"),
])  # fmt: skip
def test_errors_that_no_law_can_be_fitted_to_are_refused(loss, error, words):
    with pytest.raises(UserError) as caught:
        fit_error_law(loss, error)
    assert words in str(caught.value)


@pytest.mark.parametrize(("asked", "words"), [
    (lambda law: law.predict(N=1e9), "given by two of N, M, C and D, got N"),
    (lambda law: law.predict(N=1e9, M=20, C=1e20), "got N, M, C"),
    (lambda law: law.predict(N=0, M=20), "N must be finite and above 0, got 0"),
    (lambda law: LAW.interval(N=1e9, M=20), "was not fitted here, so its errors are not known"),
    (lambda law: ErrorLaw(0.8, 2.0, 0.7).bootstrap(), "was not fitted here"),
    (lambda law: law.interval(N=1e9, M=20, confidence=90), "confidence must be in [0, 1], got 90"),
    (lambda law: law.interval(N=1e9, M=20, by="sign"), "by must be one of profile, bootstrap, leave-one-out, got 'sign'"),
    (lambda law: law.interval(N=1e9, M=20, by="leave-one-out", confidence=0.99), "needs 99 runs for a confidence of 0.99, and there are"),
    (lambda law: fit_loss_law([1e8, 3e8, 1e9, 3e9, 1e9], [20, 20, 20, 20, 80], loss=[4, 3.7, 3.4, 3.2, 3.3]).interval(N=1e9, M=20, by="leave-one-out", new_run=False), "without run 5 the others do not determine the law"),
    (lambda law: law.bootstrap(resample="both"), "resample must be one of residuals, runs"),
    (lambda law: fit_loss_law(SIZES, MULTIPLIERS, loss=noisy(), objective="log").interval(N=1e9, M=20), "use by='bootstrap'"),
    (lambda law: fit_power_law([1, 2, 2], [3, 2, 2]), "a power law of 3 constants cannot be told from 2 different x"),
    (lambda law: fit_power_law([1, 2, 3], [3, 2]), "every point needs x and y, got 3 and 2"),
    (lambda law: published_runs("pile"), "training_set must be one of c4, redpajama, refinedweb, got 'pile'"),
    (lambda law: published_runs("c4", "wikitext"), "validation must be one of openlm, c4_val"),
    (lambda law: published_runs("c4", downstream="glue"), "downstream must be one of"),
])  # fmt: skip
def test_what_cannot_be_answered_is_refused(asked, words, fitted):
    with pytest.raises(UserError) as caught:
        asked(fitted)
    assert words in str(caught.value)
