"""TokenAdapt's estimates: the released code's numbers, and what must hold for any vectors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_arrays, golden_json
from tokenry.tokenization.transfer.transplant.embedding_heuristics import (
    Mixture,
    Wanted,
    global_mixture,
    global_weights,
    hybrid,
    local_mixture,
    local_weights,
    mean_of_pieces,
    nearest,
)

ARRAYS = golden_arrays("15-tokenadapt", "dev-heuristics.npz")
CASES = range(len(golden_json("15-tokenadapt", "dev-heuristics-strings.json")))
TOLERANCE = 2e-5

seeds = st.integers(0, 2**31 - 1)
quick = settings(max_examples=25, deadline=None)


def golden(case, name):
    return ARRAYS[f"c{case}_{name}"].clone()


def golden_estimates(case):
    k, temperature, weight, threshold, untied = golden(case, "params").tolist()
    pieces = golden(case, "decomp")
    wanted = Wanted(
        pieces,
        (golden(case, "old_len")[pieces.clamp(min=0)] / golden(case, "new_len")[:, None]).float(),
        golden(case, "ext_new") * golden(case, "ext_new_present")[:, None],
        torch.full((len(pieces),), -1),
    )
    old = golden(case, "ext_old")
    local = local_mixture(wanted, old, temperature, needs_vectors=True)
    other = global_mixture(wanted, old, int(k), temperature, threshold)
    if weight == 1:
        local = Mixture(local.indices, 0 * local.weights)
    if weight == 0:
        other = Mixture(other.indices, 0 * other.weights)
    return local, other, hybrid(local, other, weight), bool(untied)


def some(seed, tokens=7, old=20, pieces=4, dim=6):
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(old, (tokens, pieces), generator=draw)
    counts = torch.randint(1, pieces + 1, (tokens,), generator=draw)
    ids[torch.arange(pieces) >= counts[:, None]] = -1
    ratio = torch.rand(tokens, pieces, generator=draw) * (ids >= 0)
    wanted = Wanted(ids, ratio, torch.randn(tokens, dim, generator=draw), torch.full((tokens,), -1))
    return wanted, torch.randn(old, dim, generator=draw), torch.randn(old, 5, generator=draw)


def tokenadapt(wanted, old, temperature=0.3, k=3, weight=0.3, threshold=0.0):
    return hybrid(
        local_mixture(wanted, old, temperature),
        global_mixture(wanted, old, k, temperature, threshold),
        weight,
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("which", ["local", "global", "final"])
def test_estimates_are_those_of_the_released_code(case, which):
    local, other, both, untied = golden_estimates(case)
    mixture = {"local": local, "global": other, "final": both}[which]
    unique = golden(case, "shared_old_id") < 0
    for side in ("in", "out") if untied else ("in",):
        expected = golden(case, f"{which}_{side}")
        computed = ~expected.isnan().any(dim=1) & unique
        rows = mixture.rows(golden(case, f"old_{side}"))
        assert (rows - expected)[computed].abs().max().item() < TOLERANCE if computed.any() else True
        assert mixture.composed[unique].equal(computed[unique])


@pytest.mark.parametrize("case", CASES)
def test_what_a_token_is_composed_of_is_what_the_released_code_composes_it_of(case):
    local, other, _, _ = golden_estimates(case)
    kind = golden(case, "kind")
    unique = kind != 0
    found = torch.where(local.composed & other.composed, 3, torch.where(local.composed, 1, 2))
    found[~local.composed & ~other.composed] = -1
    assert found[unique].equal(kind[unique])


@quick
@given(seeds, st.floats(0.01, 2))
def test_the_weights_of_a_token_sum_to_one(seed, temperature):
    wanted, old, _ = some(seed)
    mixture = tokenadapt(wanted, old, temperature, threshold=-1.0)
    assert torch.allclose(mixture.weights.sum(dim=1), torch.ones(len(wanted.pieces)), atol=1e-5)


@quick
@given(seeds)
def test_padding_never_changes_a_row(seed):
    wanted, old, matrix = some(seed)
    more = torch.nn.functional.pad(wanted.pieces, (0, 3), value=-1)
    wider = Wanted(more, torch.nn.functional.pad(wanted.length_ratio, (0, 3)), wanted.vectors, wanted.itself)
    expected = tokenadapt(wanted, old).rows(matrix)
    assert torch.allclose(tokenadapt(wider, old).rows(matrix), expected, atol=1e-6)


@quick
@given(seeds)
def test_the_order_of_the_old_vocabulary_does_not_matter(seed):
    wanted, old, matrix = some(seed)
    order = torch.randperm(len(old), generator=torch.Generator().manual_seed(seed))
    place = order.argsort()
    moved = Wanted(
        torch.where(wanted.pieces < 0, -1, place[wanted.pieces]),
        wanted.length_ratio,
        wanted.vectors,
        wanted.itself,
    )
    expected = tokenadapt(wanted, old).rows(matrix)
    assert torch.allclose(tokenadapt(moved, old[order]).rows(matrix[order]), expected, atol=1e-5)


@quick
@given(seeds)
def test_only_the_direction_of_auxiliary_vectors_matters(seed):
    wanted, old, matrix = some(seed)
    longer = Wanted(wanted.pieces, wanted.length_ratio, 3 * wanted.vectors, wanted.itself)
    assert torch.allclose(
        tokenadapt(longer, 0.5 * old).rows(matrix), tokenadapt(wanted, old).rows(matrix), atol=1e-5
    )


@quick
@given(seeds)
def test_vectorised_rows_are_those_of_a_loop_over_the_tokens(seed):
    wanted, old, matrix = some(seed)
    rows = tokenadapt(wanted, old).rows(matrix)
    cosine = torch.nn.functional.cosine_similarity
    for token, row in enumerate(rows):
        pieces = wanted.pieces[token][wanted.pieces[token] >= 0]
        agreement = cosine(wanted.vectors[token][None], old[pieces]).softmax(0)
        quality = (agreement + wanted.length_ratio[token, : len(pieces)]) / 2
        local = (quality / 0.30001).softmax(0) @ matrix[pieces]
        near = cosine(wanted.vectors[token][None], old).topk(3)
        weights = (near.values / 0.30001).softmax(0) * (near.values >= 0)
        expected = local
        if weights.sum() > 0:
            expected = 0.7 * local + 0.3 * (weights / weights.sum()) @ matrix[near.indices]
        assert torch.allclose(row, expected, atol=1e-5)


def test_a_low_temperature_lets_the_best_piece_win():
    wanted, old, _ = some(0)
    mixture = local_mixture(wanted, old, temperature=0.0)
    assert mixture.weights.max(dim=1).values.min() > 0.99


def test_more_neighbours_than_there_are_old_tokens_means_all_of_them():
    wanted, old, matrix = some(1)
    everything = global_mixture(wanted, old, 10**6, 0.3, -1.0)
    assert everything.indices.shape[1] == len(old)
    assert everything.rows(matrix).equal(global_mixture(wanted, old, len(old), 0.3, -1.0).rows(matrix))


def test_a_token_without_pieces_and_without_a_vector_is_not_composed():
    wanted, old, matrix = some(2)
    wanted.pieces[0], wanted.vectors[0] = -1, 0.0
    mixture = tokenadapt(wanted, old)
    assert mixture.composed.tolist() == [False] + [True] * 6
    assert mixture.rows(matrix)[0].abs().sum() == 0


def test_without_a_vector_the_length_of_the_pieces_decides_unless_vectors_are_needed():
    wanted, old, _ = some(3)
    wanted.vectors[0] = 0.0
    count = int((wanted.pieces[0] >= 0).sum())
    by_length = ((1 / count + wanted.length_ratio[0, :count]) / 2 / (0.3 + 1e-5)).softmax(0)
    assert torch.allclose(local_mixture(wanted, old, 0.3).weights[0, :count], by_length)
    assert not local_mixture(wanted, old, 0.3, needs_vectors=True).composed[0]


def test_a_token_is_never_its_own_neighbour():
    wanted, old, _ = some(4)
    wanted.vectors[0], wanted.itself[0] = old[5], 5
    _, ids = nearest(wanted.vectors, old, 20, wanted.itself)
    similarity, _ = nearest(wanted.vectors, old, 20, wanted.itself)
    assert 5 not in ids[0, similarity[0].isfinite()]


def test_neighbours_are_the_same_in_one_block_or_in_many(monkeypatch):
    wanted, old, _ = some(5)
    expected = nearest(wanted.vectors, old, 4, wanted.itself)
    monkeypatch.setattr("tokenry.tokenization.transfer.transplant.embedding_heuristics._BLOCK_ELEMENTS", 40)
    in_blocks = nearest(wanted.vectors, old, 4, wanted.itself)
    assert torch.allclose(in_blocks[0], expected[0], atol=1e-6)
    assert in_blocks[1].equal(expected[1])


def test_old_tokens_without_a_vector_are_never_neighbours():
    wanted, old, _ = some(6)
    old[:15] = 0.0
    assert (global_mixture(wanted, old, 5, 0.3, -1.0).indices >= 15).all()


def test_a_threshold_nobody_reaches_leaves_nothing():
    assert global_weights(torch.tensor([[0.4, 0.3]]), 0.3, 0.95).tolist() == [[0.0, 0.0]]


def test_local_weights_follow_the_equation():
    similarity, ratio = torch.tensor([[0.5, -0.5]]), torch.tensor([[0.25, 0.75]])
    agreement = 1 / (1 + math.exp(-1.0))
    quality = torch.tensor([[(agreement + 0.25) / 2, (1 - agreement + 0.75) / 2]])
    expected = (quality / (0.3 + 1e-5)).softmax(1)
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert torch.allclose(local_weights(similarity, ratio, mask, 0.3), expected)


def test_the_mean_of_pieces_is_retok():
    wanted, _, matrix = some(7)
    rows = mean_of_pieces(wanted).rows(matrix)
    for token, row in enumerate(rows):
        pieces = wanted.pieces[token][wanted.pieces[token] >= 0]
        assert torch.allclose(row, matrix[pieces].mean(dim=0), atol=1e-6)


def test_rows_in_half_precision_are_summed_in_single_precision():
    wanted, old, matrix = some(8)
    mixture = tokenadapt(wanted, old)
    halved = matrix.to(torch.bfloat16)
    assert mixture.rows(halved).dtype == torch.float32
    assert torch.allclose(mixture.rows(halved), mixture.rows(halved.float()))
