"""What to train: the best run is on its curve, serving makes models smaller, and methods are compared at equal loss."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pretraining.scaling.test_laws import LAW, MULTIPLIERS, SIZES, noisy
from tokenry.core.errors import UserError
from tokenry.pretraining.scaling import (
    LossLaw,
    compute_multiplier,
    fit_loss_law,
    iso_loss_multiplier,
    plan_training,
)


@pytest.fixture(scope="module")
def fitted():
    return fit_loss_law(SIZES, MULTIPLIERS, loss=noisy(noise=1e-3))


def saving(factor):
    """The law of a method that needs `factor` times the compute of LAW."""
    return LossLaw(LAW.E, LAW.a * factor**LAW.eta, LAW.b * factor**LAW.eta, LAW.eta)


@settings(max_examples=15, deadline=None)
@given(st.floats(2.0, 3.5), st.floats(0, 1e13))
def test_the_cheapest_run_is_on_the_iso_loss_curve_and_none_beside_it_is_cheaper(loss, served):
    options = plan_training(LAW, target_loss=loss, served_tokens=served)
    best = options.best
    assert best.loss == pytest.approx(loss, rel=1e-9)
    assert best.flops <= min(run.flops for run in options.runs) * (1 + 1e-9)
    for size in best.N * np.array([0.97, 1.03]):
        multiplier = iso_loss_multiplier(LAW, size, loss)
        assert 6 * multiplier * size**2 + 2 * size * served >= best.flops * (1 - 1e-9)
    for run in options.runs:
        assert run.loss == pytest.approx(loss, rel=1e-9)
        assert run.training_flops == pytest.approx(6 * run.N * run.D)
        assert run.M >= 1


@settings(max_examples=15, deadline=None)
@given(st.floats(18, 25), st.floats(0, 1))
def test_a_budget_is_spent_and_no_run_beside_the_best_is_better(power, share):
    budget = 10**power
    served = share * np.sqrt(budget) / 10
    best = plan_training(LAW, budget=budget, served_tokens=served).best
    assert best.flops == pytest.approx(budget, rel=1e-9)
    for size in best.N * np.array([0.97, 1.03]):
        tokens = (budget / size - 2 * served) / 6
        assert LAW.predict(N=size, D=tokens) >= best.loss - 1e-12


def test_without_serving_the_best_run_has_the_laws_best_multiplier():
    for options in (plan_training(LAW, budget=1e22), plan_training(LAW, target_loss=2.5)):
        assert pytest.approx(LAW.optimal_multiplier(), rel=1e-3) == options.best.M


def test_the_more_is_served_the_smaller_and_longer_trained_the_model():
    few, many = (plan_training(LAW, target_loss=2.5, served_tokens=tokens).best for tokens in (1e10, 1e14))
    assert many.N < few.N
    assert many.M > few.M


def test_a_model_that_is_too_small_never_reaches_the_loss():
    assert np.isinf(iso_loss_multiplier(LAW, 1e6, 2.2))
    assert LAW.predict(N=1e9, M=iso_loss_multiplier(LAW, 1e9, 2.6)) == pytest.approx(2.6)


def test_sizes_may_be_given(fitted):
    options = plan_training(LAW, budget=1e21, sizes=[4e9, 1e9, 2e9])
    assert [run.N for run in options.runs] == [1e9, 2e9, 4e9]
    assert options.best.loss == min(run.loss for run in options.runs)
    assert options.n_interval is None
    cheapest = plan_training(LAW, target_loss=2.5, sizes=[1e6, 4e9, 8e9]).best
    assert cheapest.flops == min(
        run.flops for run in plan_training(LAW, target_loss=2.5, sizes=[4e9, 8e9]).runs
    )


def test_the_best_size_has_an_interval_where_the_law_has_errors(fitted):
    for options in (
        plan_training(fitted, budget=1e21, draws=60),
        plan_training(fitted, target_loss=2.6, draws=60),
    ):
        for (low, high), value in (
            (options.n_interval, options.best.N),
            (options.d_interval, options.best.D),
        ):
            assert low <= value <= high
    assert plan_training(LAW, budget=1e21).n_interval is None


@pytest.mark.parametrize("multiplier", [None, 20])
def test_a_method_that_needs_a_fraction_of_the_compute_is_said_to(multiplier):
    assert compute_multiplier(saving(0.8), LAW, 2.5, multiplier).value == pytest.approx(0.8, rel=1e-9)
    losses = (
        noisy(noise=2e-3),
        saving(0.7).predict(N=SIZES, M=MULTIPLIERS) + noisy(noise=2e-3) - noisy(noise=0),
    )
    plain, ours = (fit_loss_law(SIZES, MULTIPLIERS, loss=loss) for loss in losses)
    found = compute_multiplier(ours, plain, 2.6, multiplier, draws=300)
    assert found.low < 0.7 < found.high
    assert found.high < 0.9
    assert found.samples == len(SIZES)


def test_pairing_takes_out_what_two_methods_have_in_common():
    losses = noisy(noise=5e-3)
    one, other = (fit_loss_law(SIZES, MULTIPLIERS, loss=loss) for loss in (losses, losses + 1e-4))
    same = compute_multiplier(one, one, 2.6, draws=50)
    assert (same.value, same.standard_error) == (1.0, 0.0)
    paired = compute_multiplier(other, one, 2.6, draws=200).standard_error
    alone = np.std(one.bootstrap(200, seed=1).compute_for(2.6) / one.bootstrap(200, seed=2).compute_for(2.6))
    assert paired < alone / 5


def test_laws_without_errors_are_compared_without_errors():
    found = compute_multiplier(saving(0.8), LAW, 2.5)
    assert np.isnan(found.standard_error)


@pytest.mark.parametrize(("asked", "words"), [
    ({}, "give budget=FLOPS or target_loss=LOSS, one of them"),
    ({"budget": 1e20, "target_loss": 2.5}, "give budget=FLOPS or target_loss=LOSS"),
    ({"budget": -1.0}, "budget must be finite and above 0, got -1"),
    ({"target_loss": 1.7}, "no run reaches a loss of 1.7: the law's floor is 1.800"),
    ({"budget": 1e20, "served_tokens": -1}, "served_tokens must be finite and at least 0, got -1"),
    ({"budget": 1e20, "sizes": [1e12]}, "would see 1.7e-05 tokens per parameter, fewer than any law was fitted to"),
    ({"budget": 1e20, "sizes": [0]}, "sizes must be finite and above 0, got 0"),
    ({"budget": 1e20, "sizes": []}, "sizes names no model to choose from"),
    ({"target_loss": 2.2, "sizes": [1e6]}, "none of the sizes reaches the loss"),
    ({"budget": 1e20, "served_tokens": 1e13, "sizes": [1e9]}, "none of the sizes reaches the loss or leaves a token"),
])  # fmt: skip
def test_what_cannot_be_planned_is_refused(asked, words):
    with pytest.raises(UserError) as caught:
        plan_training(LAW, **asked)
    assert words in str(caught.value)


def test_nothing_is_planned_with_a_law_that_lacks_a_term():
    with pytest.raises(UserError, match="both must be above 0"):
        plan_training(LossLaw(1.0, 0.0, 300.0, 0.1), budget=1e20)


def test_methods_that_cannot_be_compared_are_refused(fitted):
    with pytest.raises(UserError, match=r"method B does not reach a loss of 1.7: its floor is 1.800"):
        compute_multiplier(LossLaw(1.5, 210.0, 360.0, 0.136), LAW, 1.7)
    fewer = fit_loss_law(SIZES[:-1], MULTIPLIERS[:-1], loss=noisy()[:-1])
    with pytest.raises(UserError, match="fitted to different runs"):
        compute_multiplier(fitted, fewer, 2.5)
    unsure = fit_loss_law(SIZES, MULTIPLIERS, loss=noisy(noise=0.15))
    with pytest.raises(UserError, match="of the bootstrap never reaches it"):
        compute_multiplier(unsure, unsure, unsure.E + 1e-3)
