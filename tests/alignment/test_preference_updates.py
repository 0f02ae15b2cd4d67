"""Repaired and normalised multipliers, the normalised update and sparse losses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.golden import golden_arrays
from tokenry.alignment import (
    PairGradients,
    PreferencePair,
    normalised_multipliers,
    normalised_preference_update,
    predict_step,
    repaired_multipliers,
    sparse_preference_loss,
)
from tokenry.alignment.entanglement import response_logp
from tokenry.alignment.preference_updates import contrastive_tokens
from tokenry.core.errors import UserError

GOLDEN = golden_arrays("22-entanglement", "dev-entanglement.npz")
BETA, SPARSITY = GOLDEN["mask/beta_lambda"].tolist()
PAIR = PreferencePair((3, 4, 5), (6, 7, 8, 9), (6, 7, 10))
POSITIVE = st.floats(0.01, 10.0)


def golden_mask(case):
    return [GOLDEN[f"mask/{case}/{name}"] for name in ("logratio_w", "logratio_l", "m_w", "m_l", "loss")]


@pytest.mark.parametrize("case", range(3))
def test_golden_sparse_losses(case):
    logratio_w, logratio_l, m_w, m_l, loss = golden_mask(case)
    found = sparse_preference_loss(logratio_w, None, logratio_l, None, m_w, m_l, BETA, SPARSITY)
    torch.testing.assert_close(found, loss, rtol=1e-10, atol=0)


def test_padding_counts_for_nothing_in_a_sparse_loss():
    logratio_w, logratio_l, m_w, m_l, loss = golden_mask(1)

    def padded(values, fill):
        return torch.cat([values, torch.full((2,), fill, dtype=values.dtype)])[None]

    found = sparse_preference_loss(
        padded(logratio_w, 9.0),
        padded(torch.ones_like(logratio_w), 0.0).bool(),
        padded(logratio_l, 9.0),
        padded(torch.ones_like(logratio_l), 0.0).bool(),
        padded(m_w, 1.0),
        padded(m_l, 1.0),
        BETA,
        SPARSITY,
    )
    torch.testing.assert_close(found[0], loss, rtol=1e-10, atol=0)


def random_gradients(seed, shared):
    draw = torch.Generator().manual_seed(seed)
    common, won, lost = (torch.randn(1, 5, generator=draw, dtype=torch.float64) for _ in range(3))
    return PairGradients.of_vectors(won + shared * common, (lost + shared * common) * 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 5.0), POSITIVE, POSITIVE)
def test_a_repair_is_the_smallest_change_that_moves_both_as_wanted(seed, shared, d_w, d_l):
    gradients = random_gradients(seed, shared)
    before = torch.tensor([d_w], dtype=torch.float64), torch.tensor([d_l], dtype=torch.float64)
    after = repaired_multipliers(gradients, *before)
    step = predict_step(gradients, *after)
    scale = float(gradients.norm_w + gradients.norm_l) ** 2 * (d_w + d_l)
    assert float(step.chosen) >= -1e-9 * scale
    assert float(step.rejected) <= 1e-9 * scale
    if int(predict_step(gradients, *before).case) == 0:
        assert torch.equal(torch.cat(after), torch.cat(before))
    moved = float(torch.dist(torch.cat(after), torch.cat(before)))
    for angle in torch.linspace(0, 1.57, 200, dtype=torch.float64):
        ray = torch.stack([angle.sin(), angle.cos()])
        if int(predict_step(gradients, ray[:1], ray[1:]).case) == 0:
            length = torch.dot(ray, torch.cat(before)).clamp(min=0)
            assert float(torch.dist(length * ray, torch.cat(before))) >= moved - 1e-9


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 50.0), POSITIVE)
def test_a_normalised_step_moves_every_pair_as_wanted(seed, shared, strength):
    gradients = random_gradients(seed, shared)
    d = torch.tensor([strength], dtype=torch.float64)
    d_w, d_l = normalised_multipliers(gradients, d, d)
    assert float((d_w * gradients.norm_w) / (d_l * gradients.norm_l)) == pytest.approx(1)
    assert float((d_w * d_l).sqrt()) == pytest.approx(strength)
    step = predict_step(gradients, d_w, d_l)
    scale = strength * float(gradients.norm_w * gradients.norm_l)
    assert float(step.chosen) >= -1e-9 * scale
    assert float(step.rejected) <= 1e-9 * scale


def test_past_its_target_ipo_is_not_repaired():
    gradients = random_gradients(0, 5.0)
    d = torch.tensor([-1.0], dtype=torch.float64)
    assert torch.equal(repaired_multipliers(gradients, d, d)[0], d)


def test_a_normalised_update_is_what_its_multipliers_say():
    model = tiny.llama().double()
    found = normalised_preference_update(model, [PAIR], scale=0.05)
    d = torch.tensor([0.05], dtype=torch.float64)
    predicted = predict_step(found, *normalised_multipliers(found, d, d), 1e-4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 1e-4 * parameter.grad
        after = [response_logp(model, PAIR.prompt, side) for side in (PAIR.chosen, PAIR.rejected)]
    assert float(after[0] - found.logp_w) == pytest.approx(float(predicted.chosen), rel=0.02)
    assert float(after[1] - found.logp_l) == pytest.approx(float(predicted.rejected), rel=0.02)


def test_updates_of_pairs_are_averaged():
    model, other = tiny.llama().double(), PreferencePair((11, 12), (13,), (14, 15))
    normalised_preference_update(model, [PAIR, other], scale=[0.1, 0.2])
    both = [parameter.grad for parameter in model.parameters()]
    alone = tiny.llama().double()
    for pair, scale in ((PAIR, 0.05), (other, 0.1)):
        normalised_preference_update(alone, [pair], scale=scale)
    for ours, parameter in zip(both, alone.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad)


def test_equal_responses_are_not_learned_from_and_say_so():
    model = tiny.llama()
    with pytest.warns(UserWarning, match="equal responses, or no gradient: nothing is learned from it"):
        found = normalised_preference_update(model, [PreferencePair((3,), (4, 5), (4, 5))])
    assert float(found.cosine) == pytest.approx(1)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_zero_gradient_has_no_normalised_multipliers():
    zero, one = torch.zeros(1, 3), torch.ones(1)
    found = normalised_multipliers(PairGradients.of_vectors(zero, torch.ones(1, 3)), one, one)
    assert [float(value) for value in found] == [0.0, 0.0]


def test_contrastive_tokens_are_unlike_all_of_the_other_response():
    cosine = torch.tensor([[0.9, 0.1], [0.2, -0.5]])
    chosen, rejected = contrastive_tokens(cosine, 0.5)
    assert (chosen.tolist(), rejected.tolist()) == ([False, True], [False, True])


def test_bad_input():
    one = torch.ones(2)
    with pytest.raises(UserError, match="beta must be above 0, got 0"):
        sparse_preference_loss(one, None, one, None, one, one, beta=0)
    with pytest.raises(UserError, match="sparsity must be at least 0, got -1"):
        sparse_preference_loss(one, None, one, None, one, one, sparsity=-1)
    with pytest.raises(UserError, match=r"masks must be in \[0, 1\]"):
        sparse_preference_loss(one, None, one, None, 2 * one, one)
    with pytest.raises(UserError, match=r"threshold of a cosine must be in \[-1, 1\], got 2"):
        contrastive_tokens(torch.zeros(1, 1), 2)
