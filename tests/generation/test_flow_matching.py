"""Flow matching: both published conventions are the one inside, solvers, scores, guidance, masks and their mistakes."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_arrays
from tokenry.core.errors import UserError
from tokenry.generation import (
    euler,
    euler_maruyama,
    even_times,
    flow_matching_loss,
    flow_path,
    guide,
    logit_normal_times,
    midpoint,
    score_to_velocity,
    sde_times,
    velocity_to_score,
)

EXACT = {"atol": 1e-9, "rtol": 0}


@pytest.fixture(scope="module")
def toy():
    return golden_arrays("34-xar", "dev-toy-samplers.npz")


def toy_velocity(toy, weight):
    """The released velocity field, whose time and direction run the other way."""

    def field(x, released_time, null):
        return x @ toy["A"] + toy["b"] * released_time + 0.1 * null

    def velocity(x, t):
        return -guide(field(x, 1 - t, False), field(x, 1 - t, True), weight)

    return velocity


@pytest.mark.parametrize(("name", "weight"), [("ode", 1.0), ("ode_cfg3", 3.0)])
def test_the_ode_of_xar_is_the_reference(toy, name, weight):
    found = euler(toy_velocity(toy, weight), toy["x_init"], even_times(int(toy["num_steps"])))
    torch.testing.assert_close(found, toy[name], **EXACT)


def test_the_sde_of_xar_is_the_reference(toy):
    times = sde_times(int(toy["num_steps"]))
    found = euler_maruyama(toy_velocity(toy, 3.0), toy["x_init"], times, lambda step: toy["sde_noise"][step])
    torch.testing.assert_close(found, toy["sde_cfg3"], **EXACT)


def test_the_score_of_xar_is_the_reference():
    data = golden_arrays("34-xar", "dev-score.npz")
    found = velocity_to_score(-data["v"], data["x_t"], 1 - data["t_score"])
    torch.testing.assert_close(found, data["score"], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("tag", "sigma_min"), [("ot0", 0.0), ("ot1e4", 1e-4), ("ot01", 0.1)])
def test_the_paths_and_losses_of_flow_omni_are_the_reference(tag, sigma_min):
    data = golden_arrays("30-flow-omni", "dev-cfm-loss.npz")
    x_t, velocity = flow_path(data["noise"], data["mel"], data["t"], sigma_min)
    torch.testing.assert_close(x_t, data[f"{tag}/x_t"], **EXACT)
    torch.testing.assert_close(velocity, data[f"{tag}/target"], **EXACT)
    loss = flow_matching_loss(data[f"{tag}/pred"], velocity, data["mask"])
    torch.testing.assert_close(loss, data[f"{tag}/loss"], **EXACT)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 0.99), st.sampled_from([0.0, 1e-4, 0.3]))
def test_score_and_velocity_say_the_same(seed, t, sigma_min):
    generator = torch.Generator().manual_seed(seed)
    noise, data = torch.randn(2, 3, 4, dtype=torch.float64, generator=generator)
    x, velocity = flow_path(noise, data, t, sigma_min)
    score = velocity_to_score(velocity, x, t, sigma_min)
    torch.testing.assert_close(score, -noise / (1 - (1 - sigma_min) * t))
    torch.testing.assert_close(score_to_velocity(score, x, t, sigma_min), velocity)


def test_a_path_begins_in_noise_and_ends_in_data():
    noise, data = torch.randn(2, 3, 4)
    assert torch.equal(flow_path(noise, data, 0.0)[0], noise)
    assert torch.equal(flow_path(noise, data, 1.0)[0], data)
    ends, _ = flow_path(noise, data, torch.tensor([0.0, 1.0, 0.0]))
    assert torch.equal(ends, torch.stack([noise[0], data[1], noise[2]]))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40))
def test_any_number_of_steps_is_exact_where_the_velocity_does_not_change(steps):
    noise, data = torch.randn(2, 5, dtype=torch.float64)
    for solver in (euler, midpoint):
        torch.testing.assert_close(solver(lambda x, t: data - noise, noise, even_times(steps)), data)
    growing = midpoint(lambda x, t: 2 * t * data, noise, even_times(steps))
    torch.testing.assert_close(
        growing, noise + data, msg="the midpoint is exact where the velocity grows evenly"
    )


def test_the_errors_of_the_solvers_have_their_order():
    start = torch.ones(1, dtype=torch.float64)

    def error(solver, steps):
        return abs(float(solver(lambda x, t: x, start, even_times(steps))) - math.e)

    assert 1.8 < error(euler, 50) / error(euler, 100) < 2.2
    assert 3.6 < error(midpoint, 50) / error(midpoint, 100) < 4.4


def test_ode_and_sde_end_in_the_same_distribution():
    """Data ~ N(2, 0.5²): the velocity of all paths through a point is known, and both solvers must arrive there."""

    def velocity(x, t):
        variance = (1 - t) ** 2 + (0.5 * t) ** 2
        return 2 + (0.25 * t - (1 - t)) / variance * (x - 2 * t)

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20_000, generator=generator, dtype=torch.float64)
    ode = euler(velocity, noise, even_times(200))
    sde = euler_maruyama(
        velocity,
        noise,
        sde_times(200),
        lambda step: torch.randn(20_000, generator=generator, dtype=torch.float64),
    )
    for found in (ode, sde):
        assert float(found.mean()) == pytest.approx(2, abs=0.02)
        assert float(found.std()) == pytest.approx(0.5, abs=0.02)


def test_the_times_of_the_sde_are_the_published_ones():
    assert sde_times(3) == [0.0, 0.48, 0.96, 1.0]
    assert sde_times(1) == [0.0, 1.0], "the noiseless step alone"
    released = torch.linspace(1.0, 0.04, 40, dtype=torch.float64)
    torch.testing.assert_close(1 - torch.tensor(sde_times(40), dtype=torch.float64)[:-1], released)


def test_guidance_of_one_is_the_condition_and_of_nought_is_none():
    condition, nothing = torch.randn(2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(guide(condition, nothing, 1.0), condition)
    assert torch.equal(guide(condition, nothing, 0.0), nothing)
    weights = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(guide(condition, nothing, weights)[2], 2 * condition[2] - nothing[2])


def test_what_is_masked_never_counts_whatever_it_is():
    predicted, velocity, mask = (
        torch.randn(2, 3, 4),
        torch.randn(2, 3, 4),
        torch.tensor([[1, 0, 1], [1, 1, 0]]),
    )
    spoiled = predicted.clone().masked_fill(mask[..., None] == 0, math.nan)
    loss = flow_matching_loss(spoiled, velocity, mask)
    torch.testing.assert_close(loss, (predicted - velocity).square()[mask == 1].mean())
    elements = mask[..., None].expand_as(predicted).clone()
    elements[0, 0, 0] = 0
    kept = (predicted - velocity).square()[elements == 1].mean()
    torch.testing.assert_close(flow_matching_loss(predicted, velocity, elements), kept)


def test_times_favour_the_middle():
    times = logit_normal_times(1000, 2, generator=torch.Generator().manual_seed(0))
    assert times.shape == (1000, 2)
    assert 0 < float(times.min()) < float(times.max()) < 1
    assert float(((times > 0.25) & (times < 0.75)).float().mean()) > 0.6


X = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: flow_path(X, X, 1.5), "a time must be in [0, 1], from noise to data, got 1.5"),
        (lambda: flow_path(X, X, torch.tensor([0.5, -1.0])), "a time must be in [0, 1], from noise to data, got -1"),
        (lambda: flow_path(X, X, float("nan")), "a time must be in [0, 1], from noise to data, got nan"),
        (lambda: flow_path(X, X, 0.5, sigma_min=2.0), "sigma_min must be in [0, 1], got 2.0"),
        (lambda: velocity_to_score(X, X, 1.0), "the score does not exist at t = 1 with sigma_min = 0"),
        (lambda: score_to_velocity(X, X, 0.0), "the velocity does not follow from the score at t = 0"),
        (lambda: even_times(0), "steps must be at least 1, got 0"),
        (lambda: sde_times(0), "steps must be at least 1, got 0"),
        (lambda: sde_times(4, end=1.0), "the last step of the SDE must begin between 0 (noise) and 1 (data), got 1.0"),
        (lambda: euler(lambda x, t: x, X, [1.0, 0.0]), "the times of a solver must rise from noise (0) to data (1), got [1.0, 0.0]"),
        (lambda: midpoint(lambda x, t: x, X, [0.0]), "the times of a solver must rise"),
        (lambda: flow_matching_loss(X, torch.zeros(2, 4)), "a velocity of shape (2, 3) was predicted for one of shape (2, 4)"),
        (lambda: flow_matching_loss(X, X, torch.ones(3)), "the mask has the shape (3,); for velocities of (2, 3) it must be (2,)"),
        (lambda: flow_matching_loss(X, X, torch.zeros(2)), "the mask keeps nothing"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_in_a_sentence(call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call()
