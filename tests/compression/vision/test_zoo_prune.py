import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import gelu, linear, silu

from tests.golden import golden
from tokenry.compression.vision.zoo_prune import (
    low_rank_projector,
    mlp_sensitivity,
    projector_interaction,
    zeroth_order_sensitivity,
)
from tokenry.core.errors import UserError

GOLDEN = np.load(golden("14-zoo-prune") / "dev-zooprune.npz")
CASES = sorted({name.split("_")[0] for name in GOLDEN.files if name.startswith("c")})
CLOSE = {"rtol": 1e-6, "atol": 0.0}


class Case:
    """One golden case; the projector as a plain function."""

    def __init__(self, name):
        self._name = name
        self.step = float(GOLDEN[f"{name}_h"])

    def __getattr__(self, name):
        return torch.from_numpy(GOLDEN[f"{self._name}_{name}"])

    def projector(self, features):
        return linear(gelu(linear(features, self.w1, self.b1)), self.w2, self.b2)


@pytest.fixture(params=CASES)
def case(request):
    return Case(request.param)


def make_mlp(dim=6, hidden=10, out=5, seed=0, activation=None):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(dim, hidden), activation or nn.GELU(), nn.Linear(hidden, out)).eval()


def weights(mlp):
    return mlp[0].weight.detach(), mlp[0].bias.detach(), mlp[2].weight.detach()


def test_golden_projection(case):
    torch.testing.assert_close(case.projector(case.x), case.features, **CLOSE)


def test_golden_sensitivity(case):
    found = zeroth_order_sensitivity(case.x, case.projector, step=case.step, directions=case.u)
    torch.testing.assert_close(found, case.sensitivity, **CLOSE)


def test_golden_sensitivity_rewritten(case):
    found = mlp_sensitivity(case.x, case.w1, case.b1, case.w2, step=case.step, directions=case.u)
    torch.testing.assert_close(found, case.sensitivity, **CLOSE)


def test_golden_closed_form(case):
    found = mlp_sensitivity(case.x, case.w1, case.b1, case.w2, method="closed_form")
    torch.testing.assert_close(found, case.sensitivity_closed, **CLOSE)
    torch.testing.assert_close(found * case.x.shape[1] ** 0.5, case.jac_fro, **CLOSE)


@pytest.mark.parametrize("activation", [nn.GELU(), nn.GELU(approximate="tanh"), nn.SiLU(), nn.Tanh()])
def test_the_closed_form_is_the_norm_of_the_jacobian_of_any_activation(activation):
    mlp = make_mlp(activation=activation).double()
    features = torch.randn(7, 6, dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(mlp))(features)
    found = mlp_sensitivity(features, *weights(mlp), method="closed_form", activation=activation)
    torch.testing.assert_close(found, jacobian.flatten(1).norm(dim=1) / 6**0.5)


def test_the_closed_form_is_the_root_mean_square_over_many_directions():
    mlp = make_mlp().double()
    features = torch.randn(4, 6, dtype=torch.float64)
    units = torch.nn.functional.normalize(torch.randn(20000, 6, dtype=torch.float64), dim=-1)
    jacobian = torch.func.vmap(torch.func.jacrev(mlp))(features)
    squared = (units @ jacobian.mT).square().sum(-1).mean(1)
    found = mlp_sensitivity(features, *weights(mlp), method="closed_form")
    torch.testing.assert_close(found, squared.sqrt(), rtol=0.02, atol=0)


def test_a_linear_projector_is_as_sensitive_everywhere():
    linear_map = nn.Linear(6, 5).double()
    features = torch.randn(9, 6, dtype=torch.float64)
    found = zeroth_order_sensitivity(features, linear_map, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, found[:1].expand(9))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**30), st.integers(1, 9), st.integers(1, 12))
def test_chunks_change_nothing_but_the_memory(seed, chunk, number):
    generator = torch.Generator().manual_seed(seed)
    mlp = make_mlp()
    features = torch.randn(2, 4, 6, generator=generator)
    directions = torch.randn(number, 6, generator=generator)
    whole = zeroth_order_sensitivity(features, mlp, directions=directions, chunk=number)
    torch.testing.assert_close(
        zeroth_order_sensitivity(features, mlp, directions=directions, chunk=chunk), whole
    )
    torch.testing.assert_close(
        mlp_sensitivity(features, *weights(mlp), directions=directions, chunk=chunk),
        whole,
        rtol=1e-3,
        atol=1e-5,
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**30))
def test_permuting_the_tokens_permutes_the_sensitivities(seed):
    generator = torch.Generator().manual_seed(seed)
    mlp = make_mlp().double()
    features = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    directions = torch.randn(5, 6, generator=generator)
    order = torch.randperm(8, generator=generator)
    for sensitivity in (
        lambda x: zeroth_order_sensitivity(x, mlp, directions=directions),
        lambda x: mlp_sensitivity(x, *weights(mlp), directions=directions),
        lambda x: mlp_sensitivity(x, *weights(mlp), method="closed_form"),
    ):
        torch.testing.assert_close(sensitivity(features[order]), sensitivity(features)[order])


def test_a_batch_is_its_images_one_by_one():
    mlp = make_mlp()
    features = torch.randn(3, 5, 6)
    directions = torch.randn(4, 6)
    batch = zeroth_order_sensitivity(features, mlp, directions=directions)
    for one, image in zip(batch, features, strict=True):
        torch.testing.assert_close(one, zeroth_order_sensitivity(image, mlp, directions=directions))


def test_the_length_of_directions_does_not_matter():
    mlp, features, directions = make_mlp().double(), torch.randn(5, 6).double(), torch.randn(4, 6)
    long = zeroth_order_sensitivity(features, mlp, directions=directions * 100)
    torch.testing.assert_close(long, zeroth_order_sensitivity(features, mlp, directions=directions))


def test_the_same_seed_draws_the_same_directions_for_both_forms():
    mlp, features = make_mlp().double(), torch.randn(5, 6, dtype=torch.float64)
    one, other = (
        zeroth_order_sensitivity(features, mlp, generator=torch.Generator().manual_seed(3)),
        mlp_sensitivity(features, *weights(mlp), generator=torch.Generator().manual_seed(3)),
    )
    torch.testing.assert_close(one, other)
    different = zeroth_order_sensitivity(features, mlp, generator=torch.Generator().manual_seed(4))
    assert not torch.allclose(one, different)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_computed_in_float32(dtype):
    halves = make_mlp().to(dtype)
    features, directions = torch.randn(5, 6).to(dtype), torch.randn(4, 6)
    wide = make_mlp().to(dtype).float()
    expected = zeroth_order_sensitivity(features.float(), wide, directions=directions)
    found = zeroth_order_sensitivity(features, halves, directions=directions)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert halves[0].weight.dtype == dtype
    for method in ("sampled", "closed_form"):
        assert torch.equal(
            mlp_sensitivity(features, *weights(halves), method=method, directions=directions),
            mlp_sensitivity(features.float(), *weights(wide), method=method, directions=directions),
        )


def test_float64_stays_float64():
    mlp, features = make_mlp().double(), torch.randn(5, 6, dtype=torch.float64)
    assert zeroth_order_sensitivity(features, mlp, num_directions=2).dtype == torch.float64
    assert mlp_sensitivity(features, *weights(mlp), method="closed_form").dtype == torch.float64


def test_what_is_known_of_the_weights_can_be_kept_for_many_images():
    mlp, features = make_mlp(), torch.randn(5, 6)
    w1, b1, w2 = weights(mlp)
    kept = projector_interaction(w1, w2)
    assert torch.equal(
        mlp_sensitivity(features, w1, b1, w2, method="closed_form", interaction=kept),
        mlp_sensitivity(features, w1, b1, w2, method="closed_form"),
    )


def test_a_projector_without_bias():
    w1, _, w2 = weights(make_mlp())
    features = torch.randn(5, 6)
    torch.testing.assert_close(
        mlp_sensitivity(features, w1, None, w2, method="closed_form"),
        mlp_sensitivity(features, w1, torch.zeros(10), w2, method="closed_form"),
    )


def test_a_low_rank_projector_of_full_rank_is_the_projector():
    mlp, features = make_mlp(), torch.randn(5, 6)
    w1, b1, w2 = weights(mlp)
    full = low_rank_projector(w1, b1, w2, mlp[2].bias.detach(), ranks=(6, 5))
    torch.testing.assert_close(full(features), mlp(features), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(full(features.double()), mlp(features).double(), rtol=1e-4, atol=1e-5)


def test_a_low_rank_projector_uses_the_best_approximations_of_the_weights():
    w1, b1, w2 = weights(make_mlp())
    b2 = torch.randn(5)
    low = [
        (u[:, :2] * s[:2]) @ v[:2] for u, s, v in (torch.linalg.svd(w, full_matrices=False) for w in (w1, w2))
    ]
    features = torch.randn(4, 6)
    expected = linear(silu(linear(features, low[0], b1)), low[1], b2)
    project = low_rank_projector(w1, b1, w2, b2, ranks=(2, 2), activation=silu)
    torch.testing.assert_close(project(features), expected, rtol=1e-4, atol=1e-5)
    assert zeroth_order_sensitivity(features, project, num_directions=3).shape == (4,)


@pytest.mark.parametrize("rank", [0, 7])
def test_a_rank_is_at_most_the_smaller_side(rank):
    w1, b1, w2 = weights(make_mlp())
    with pytest.raises(UserError, match=rf"a rank must be from 1 to 6 for a weight of \(10, 6\), got {rank}"):
        low_rank_projector(w1, b1, w2, None, ranks=(rank, 2))


def both(features, mlp, **arguments):
    """Both sampled forms, to be refused alike."""
    return (
        lambda: zeroth_order_sensitivity(features, mlp, **arguments),
        lambda: mlp_sensitivity(features, *weights(mlp), **arguments),
    )


@pytest.mark.parametrize("step", [0.0, -0.01, float("nan"), float("inf")])
def test_a_step_is_positive(step):
    for call in both(torch.randn(5, 6), make_mlp(), step=step):
        with pytest.raises(UserError, match=f"step must be positive, got {step}"):
            call()


@pytest.mark.parametrize("number", [0, -2])
def test_there_is_at_least_one_direction(number):
    for call in both(torch.randn(5, 6), make_mlp(), num_directions=number):
        with pytest.raises(UserError, match=f"num_directions must be at least 1, got {number}"):
            call()


@pytest.mark.parametrize("shape", [(0, 6), (3, 5)])
def test_given_directions_fit_the_features(shape):
    for call in both(torch.randn(5, 6), make_mlp(), directions=torch.randn(shape)):
        with pytest.raises(UserError, match=r"directions must be \(at least 1, 6\) like the features, got"):
            call()


def test_a_chunk_has_at_least_one_direction():
    for call in both(torch.randn(5, 6), make_mlp(), chunk=0):
        with pytest.raises(UserError, match="chunk must be at least 1, got 0"):
            call()


@pytest.mark.parametrize("broken", [float("nan"), float("-inf")])
def test_features_are_finite(broken):
    features = torch.randn(5, 6)
    features[2, 3] = broken
    calls = (
        *both(features, make_mlp()),
        lambda: mlp_sensitivity(features, *weights(make_mlp()), method="closed_form"),
    )
    for call in calls:
        with pytest.raises(UserError, match="features must be finite, got 1 of 30 values that are not"):
            call()


@pytest.mark.parametrize("shape", [(6,), (1, 2, 5, 6)])
def test_features_have_two_or_three_axes(shape):
    for call in both(torch.randn(shape), make_mlp()):
        with pytest.raises(
            UserError, match=r"features must be \(tokens, dim\) or \(batch, tokens, dim\), got"
        ):
            call()


def test_a_projector_returns_one_vector_per_token():
    with pytest.raises(
        UserError, match="the projector must return one vector per token, 6 tokens, got shape"
    ):
        zeroth_order_sensitivity(torch.randn(2, 6, 4), lambda x: x.unflatten(-2, (-1, 2)).mean(-2))


def test_a_projector_that_drops_out_is_refused():
    mlp = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.1))
    with pytest.raises(UserError, match=r"training mode and drops out at random \(p = 0.1\).*projector.eval"):
        zeroth_order_sensitivity(torch.randn(5, 6), mlp.train())
    assert zeroth_order_sensitivity(torch.randn(5, 6), mlp.eval(), num_directions=1).shape == (5,)
    still = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.0)).train()
    assert zeroth_order_sensitivity(torch.randn(5, 6), still, num_directions=1).shape == (5,)


def test_features_have_the_width_of_the_projector():
    with pytest.raises(UserError, match="features have width 7 but the projector takes 6"):
        mlp_sensitivity(torch.randn(5, 7), *weights(make_mlp()))


def test_methods_are_known_by_name():
    with pytest.raises(UserError, match="method must be one of sampled, closed_form, got 'exact'"):
        mlp_sensitivity(torch.randn(5, 6), *weights(make_mlp()), method="exact")
