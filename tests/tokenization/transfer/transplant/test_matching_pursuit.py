"""Orthogonal matching pursuit and interpolation: tokensurgeon's numbers, and what least squares must give."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_arrays
from tokenry.core.errors import UserError
from tokenry.tokenization.transfer.transplant.embedding_heuristics import Mixture
from tokenry.tokenization.transfer.transplant.matching_pursuit import interpolation, omp

ARRAYS = golden_arrays("15-tokenadapt", "dev-omp.npz")
CASES = range(3)

quick = settings(max_examples=25, deadline=None)


def golden(case, name):
    return ARRAYS[f"c{case}_{name}"].clone()


def close(ours, theirs):
    return torch.allclose(ours, theirs, rtol=1e-8, atol=1e-12)


def some(seed, targets=5, atoms=20, dim=8):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(targets, dim, generator=draw, dtype=torch.double), torch.randn(
        atoms, dim, generator=draw, dtype=torch.double
    )


@pytest.mark.parametrize("case", CASES)
def test_atoms_and_coefficients_are_tokensurgeons(case):
    indices, coefficients = omp(golden(case, "target"), golden(case, "points"), int(golden(case, "k")))
    assert indices.equal(golden(case, "indices"))
    assert close(coefficients, golden(case, "coeff"))
    assert close(Mixture(indices, coefficients).rows(golden(case, "points_dest")), golden(case, "result"))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_interpolation_is_tokensurgeons(case, metric):
    indices, weights = interpolation(
        golden(case, "target"), golden(case, "points"), int(golden(case, "k")), metric
    )
    assert indices.equal(golden(case, f"knn_{metric}_indices"))
    assert close(weights, golden(case, f"knn_{metric}_weights"))


@quick
@given(st.integers(0, 2**31 - 1), st.integers(1, 8))
def test_coefficients_are_least_squares_over_the_chosen_atoms(seed, k):
    targets, atoms = some(seed)
    indices, coefficients = omp(targets, atoms, k)
    for target, chosen, found in zip(targets, indices, coefficients, strict=True):
        expected = torch.linalg.lstsq(atoms[chosen].T, target[:, None]).solution[:, 0]
        assert torch.allclose(found, expected, atol=1e-8)
        assert len(set(chosen.tolist())) == k


@quick
@given(st.integers(0, 2**31 - 1))
def test_each_atom_brings_the_target_nearer(seed):
    targets, atoms = some(seed)
    errors = [(Mixture(*omp(targets, atoms, k)).rows(atoms) - targets).norm(dim=1) for k in range(1, 8)]
    assert all((after <= before + 1e-10).all() for before, after in pairwise(errors))


def test_a_target_that_is_an_atom_is_that_atom():
    _, atoms = some(0)
    atoms = torch.nn.functional.normalize(atoms, dim=1)
    indices, coefficients = omp(2 * atoms[:4], atoms, 3)
    assert indices[:, 0].tolist() == [0, 1, 2, 3]
    assert torch.allclose(coefficients, torch.tensor([[2.0, 0, 0]]).double().expand(4, 3), atol=1e-9)


def test_atoms_that_others_explain_add_nothing():
    targets, _ = some(1)
    atoms = torch.eye(8, dtype=torch.double)[:2].repeat(3, 1)
    indices, coefficients = omp(targets, atoms, 6)
    assert coefficients.isfinite().all()
    assert torch.allclose(Mixture(indices, coefficients).rows(atoms)[:, :2], targets[:, :2])


def test_more_atoms_than_there_are_means_all_of_them():
    targets, atoms = some(2, atoms=3)
    assert omp(targets, atoms, 50)[0].shape == (5, 3)
    assert interpolation(targets, atoms, 50)[0].shape == (5, 3)


@pytest.mark.parametrize("method", [omp, interpolation])
def test_a_forbidden_atom_is_never_chosen(method):
    targets, atoms = some(3, atoms=6)
    forbidden = torch.tensor([0, 1, 2, 3, -1])
    indices, _ = method(targets, atoms, 6, without=forbidden)
    assert indices.shape == (5, 5)
    assert all(no not in chosen for no, chosen in zip(forbidden.tolist(), indices.tolist(), strict=True))


@pytest.mark.parametrize("method", [omp, interpolation])
def test_too_few_atoms_are_refused(method):
    targets, atoms = some(4)
    with pytest.raises(UserError, match="must be at least 1, got 0"):
        method(targets, atoms, 0)
    with pytest.raises(UserError, match="share no token that has an auxiliary vector"):
        method(targets, atoms[:0], 3)


def test_an_unknown_metric_is_refused():
    with pytest.raises(UserError, match="metric must be one of euclidean, cosine"):
        interpolation(*some(5), 2, "manhattan")
