"""FOCUS-like rows: sparsemax is the projection onto the simplex, and looking at the nearest alone loses nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenry.core.errors import UserError
from tokenry.tokenization.transfer.transplant import focus
from tokenry.tokenization.transfer.transplant.focus import focus_mixture, sparsemax

quick = settings(max_examples=25, deadline=None)
scores = st.lists(st.floats(-3, 3), min_size=1, max_size=12)


def some(seed, tokens=6, shared=40, dim=5):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, dim, generator=draw), torch.randn(shared, dim, generator=draw)


@quick
@given(scores)
def test_sparsemax_gives_a_distribution(values):
    weights = sparsemax(torch.tensor(values, dtype=torch.double))
    assert weights.min() >= 0
    assert weights.sum().item() == pytest.approx(1)


@quick
@given(scores)
def test_sparsemax_is_the_nearest_point_of_the_simplex(values):
    given_scores = torch.tensor(values, dtype=torch.double)
    weights = sparsemax(given_scores)
    draw = torch.distributions.Dirichlet(torch.ones(len(values), dtype=torch.double))
    others = draw.sample((200,))
    assert (weights - given_scores).norm() <= (others - given_scores).norm(dim=1).min() + 1e-9


def test_sparsemax_leaves_out_what_lies_one_below():
    assert sparsemax(torch.tensor([1.0, 0.0, -5.0])).tolist() == [1.0, 0.0, 0.0]
    assert sparsemax(torch.tensor([0.5, 0.5, -0.5])).tolist() == [0.5, 0.5, 0.0]


@quick
@given(st.integers(0, 2**31 - 1))
def test_candidates_lose_nothing_against_all_shared_tokens(seed):
    tokens, shared = some(seed)
    mixture = focus_mixture(tokens, shared, torch.full((6,), -1))
    unit = torch.nn.functional.normalize
    expected = sparsemax(unit(tokens, dim=1) @ unit(shared, dim=1).T)
    found = torch.zeros(6, 40).scatter_add(1, mixture.indices, mixture.weights)
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_candidates_are_doubled_until_the_last_has_no_weight(monkeypatch):
    tokens, shared = some(1)
    expected = focus_mixture(tokens, shared, torch.full((6,), -1)).rows(shared)
    monkeypatch.setattr(focus, "_CANDIDATES", 1)
    assert torch.allclose(
        focus_mixture(tokens, shared, torch.full((6,), -1)).rows(shared), expected, atol=1e-6
    )


def test_tokens_without_a_vector_are_not_composed_and_never_used():
    tokens, shared = some(2)
    tokens[0], shared[:30] = 0.0, 0.0
    mixture = focus_mixture(tokens, shared, torch.full((6,), -1))
    assert mixture.composed.tolist() == [False] + [True] * 5
    assert (mixture.indices[mixture.weights > 0] >= 30).all()


def test_a_token_is_never_composed_of_itself():
    tokens, shared = some(3)
    tokens[0] = shared[7]
    mixture = focus_mixture(tokens, shared, torch.tensor([7, -1, -1, -1, -1, -1]))
    assert 7 not in mixture.indices[0][mixture.weights[0] > 0]


def test_without_shared_tokens_there_is_nothing_to_combine():
    tokens, shared = some(4)
    with pytest.raises(
        UserError, match=r"share no token that has an auxiliary vector.*'tokenadapt' or 'retok'"
    ):
        focus_mixture(tokens, shared[:0], torch.full((6,), -1))
