"""Choices against a loop that a reader can check: share, ties, groups, normalisation, windows."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenry.core.errors import UserError
from tokenry.core.tensors.choices import (
    above,
    group_counts,
    kept_counts,
    minmax_within,
    top_k_indices,
    top_share,
    window_mean,
)

ROUNDING = {
    "ceil": lambda exact: math.ceil(exact - 1e-9),
    "floor": lambda exact: int(exact),
    "floor_at_least_one": lambda exact: max(1, int(exact)),
    "half_even": lambda exact: round(round(exact, 9)),
}
shares = st.sampled_from([0.05, 0.1, 0.25, 1 / 3, 0.5, 0.6, 0.7, 0.99, 1.0])


@st.composite
def batches(draw, low=-3.0, high=3.0):
    """A signal with ties, the tokens among which is chosen, and their groups (-1: no group, never chosen)."""
    batch, seq = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    shape = {"min_size": batch * seq, "max_size": batch * seq}
    values = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(low, high, width=32))
    signal = torch.tensor(draw(st.lists(values, **shape))).view(batch, seq)
    groups = torch.tensor(draw(st.lists(st.integers(-1, 3), **shape))).view(batch, seq)
    among = torch.tensor(draw(st.lists(st.booleans(), **shape))).view(batch, seq) & (groups >= 0)
    return signal, among, groups


def _members(among, groups):
    """Positions (row, t) of each group in reading order."""
    members = {}
    for row, t in among.nonzero().tolist():
        members.setdefault(0 if groups is None else int(groups[row, t]), []).append((row, t))
    return members


def _naive_top_share(signal, among, share, groups, rounding):
    chosen = torch.zeros_like(among)
    for places in _members(among, groups).values():
        keep = min(ROUNDING[rounding](share * len(places)), len(places))
        best = sorted(places, key=lambda place: -float(signal[place]))  # stable: the earliest wins
        for place in best[:keep]:
            chosen[place] = True
    return chosen


@settings(deadline=None, max_examples=200)
@given(batch=batches(), share=shares, rounding=st.sampled_from(sorted(ROUNDING)), grouped=st.booleans())
def test_top_share_is_what_a_loop_over_samples_chooses(batch, share, rounding, grouped):
    signal, among, groups = batch
    groups = groups if grouped else None
    expected = _naive_top_share(signal, among, share, groups, rounding)
    assert torch.equal(top_share(signal, among, share, groups, rounding), expected)


@settings(deadline=None, max_examples=50)
@given(batch=batches())
def test_a_share_of_one_keeps_everything(batch):
    signal, among, groups = batch
    for rounding in ROUNDING:
        assert torch.equal(top_share(signal, among, 1.0, groups, rounding), among)


@settings(deadline=None, max_examples=50)
@given(batch=batches(), share=shares)
def test_what_may_not_be_chosen_is_never_read(batch, share):
    signal, among, groups = batch
    spoilt = torch.where(among, signal, float("nan"))
    assert torch.equal(top_share(spoilt, among, share, groups), top_share(signal, among, share, groups))


@settings(deadline=None, max_examples=50)
@given(batch=batches(), share=shares, data=st.data())
def test_the_order_of_the_rows_never_changes_what_is_chosen_in_them(batch, share, data):
    signal, among, groups = batch
    # Groups may not reach over rows here: each row has its own.
    groups = torch.where(groups >= 0, groups + 10 * torch.arange(len(groups))[:, None], -1)
    order = data.draw(st.permutations(range(len(signal))))
    chosen = top_share(signal, among, share, groups)
    assert torch.equal(top_share(signal[order], among[order], share, groups[order]), chosen[order])


@settings(deadline=None, max_examples=50)
@given(batch=batches(), share=shares, data=st.data())
def test_a_sample_is_chosen_from_without_regard_to_the_others(batch, share, data):
    signal, among, groups = batch
    mine = groups == data.draw(st.integers(0, 3))
    others = torch.tensor(data.draw(st.floats(-100, 100, width=32)))
    chosen = top_share(torch.where(mine, signal, others), among, share, groups)
    assert torch.equal(chosen & mine, top_share(signal, among, share, groups) & mine)


@settings(deadline=None, max_examples=50)
@given(length=st.integers(1, 30), share=shares)
def test_ties_go_to_the_earliest_positions(length, share):
    among = torch.ones(1, length, dtype=torch.bool)
    chosen = top_share(torch.zeros(1, length), among, share)
    kept = math.ceil(share * length - 1e-9)
    assert chosen[0].tolist() == [True] * kept + [False] * (length - kept)


def test_a_group_without_tokens_keeps_none_and_a_single_token_is_kept():
    signal = torch.tensor([[1.0, 2.0, 3.0]])
    groups = torch.tensor([[0, 2, 2]])
    among = torch.tensor([[True, False, False]])
    assert top_share(signal, among, 0.1, groups).tolist() == [[True, False, False]]
    assert top_share(signal, ~among & False, 0.1, groups).tolist() == [[False, False, False]]
    assert top_share(signal, among, 0.1, groups, "floor").tolist() == [[False, False, False]]


@settings(deadline=None, max_examples=100)
@given(counts=st.lists(st.integers(0, 1000), min_size=1, max_size=6), share=shares)
def test_kept_counts_round_as_they_say_and_never_exceed_the_count(counts, share):
    for rounding, rounded in ROUNDING.items():
        expected = [min(rounded(share * count), count) for count in counts]
        assert kept_counts(torch.tensor(counts), share, rounding).tolist() == expected


def test_a_share_that_is_exact_on_paper_keeps_exactly_that_many():
    assert kept_counts(torch.tensor([5, 10, 15, 35]), 0.6).tolist() == [3, 6, 9, 21]
    assert kept_counts(torch.tensor([10]), 0.1 * 3).tolist() == [3]


@settings(deadline=None, max_examples=50)
@given(batch=batches())
def test_group_counts_are_the_sizes_of_the_groups(batch):
    _, among, groups = batch
    counts = group_counts(among, groups)
    members = _members(among, groups)
    assert counts.tolist() == [len(members.get(group, [])) for group in range(len(counts))]
    assert group_counts(among).tolist() == [int(among.sum())]


@settings(deadline=None, max_examples=100)
@given(batch=batches())
def test_minmax_is_what_a_loop_over_samples_computes(batch):
    signal, among, groups = batch
    expected = torch.full_like(signal, float("nan"))
    for places in _members(among, groups).values():
        values = [float(signal[place]) for place in places]
        for place, value in zip(places, values, strict=True):
            expected[place] = (value - min(values)) / (max(values) - min(values) + 1e-8)
    torch.testing.assert_close(minmax_within(signal, among, groups), expected, equal_nan=True)


def test_equal_values_are_normalised_to_zero():
    among = torch.ones(1, 3, dtype=torch.bool)
    assert minmax_within(torch.full((1, 3), 2.5), among, torch.zeros(1, 3, dtype=torch.long)).tolist() == [
        [0.0, 0.0, 0.0]
    ]


@settings(deadline=None, max_examples=100)
@given(batch=batches(), window=st.sampled_from([1, 3, 5, 21]))
def test_a_window_mean_is_what_a_loop_over_neighbours_computes(batch, window):
    signal, among, groups = batch
    expected = torch.full_like(signal, float("nan"))
    for row, t in among.nonzero().tolist():
        near = range(max(0, t - window // 2), min(signal.shape[1], t + window // 2 + 1))
        values = [float(signal[row, u]) for u in near if among[row, u] and groups[row, u] == groups[row, t]]
        expected[row, t] = sum(values) / len(values)
    torch.testing.assert_close(window_mean(signal, among, groups, window), expected, equal_nan=True)


@settings(deadline=None, max_examples=50)
@given(batch=batches(), left=st.integers(0, 3), right=st.integers(0, 3), share=shares)
def test_padding_never_counts(batch, left, right, share):
    signal, among, groups = batch

    def pad(values, fill):
        return torch.nn.functional.pad(values, (left, right), value=fill)

    padded = pad(signal, 99.0), pad(among, False), pad(groups, -1)
    inside = slice(left, left + signal.shape[1])
    assert torch.equal(
        top_share(padded[0], padded[1], share, padded[2])[:, inside], top_share(signal, among, share, groups)
    )
    torch.testing.assert_close(
        minmax_within(*padded)[:, inside], minmax_within(signal, among, groups), equal_nan=True
    )
    torch.testing.assert_close(
        window_mean(*padded, 3)[:, inside], window_mean(signal, among, groups, 3), equal_nan=True
    )


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_the_k_highest_are_chosen_and_of_equals_the_first(values, keep):
    best_first = sorted(range(len(values)), key=lambda i: (-values[i], i))
    expected = sorted(best_first[:keep])
    assert top_k_indices(torch.tensor([values]).float(), keep)[0].tolist() == expected


def test_above_chooses_strictly_higher_values_only_where_it_may():
    signal = torch.tensor([[1.0, 2.0, 3.0, float("nan")]])
    among = torch.tensor([[True, True, False, False]])
    assert above(signal, among, 1.0).tolist() == [[False, True, False, False]]


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(UserError, match=r"share must be in \(0, 1\]"):
        kept_counts(torch.tensor([3]), share)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_a_signal_that_cannot_be_ranked_is_refused(broken):
    signal = torch.tensor([[1.0, broken, 2.0]])
    with pytest.raises(UserError, match="the signal is not finite at 1 of 3 tokens"):
        top_share(signal, torch.ones(1, 3, dtype=torch.bool), 0.5)


@pytest.mark.parametrize("window", [0, -1, 2])
def test_a_window_without_a_middle_is_refused(window):
    signal = torch.zeros(1, 3)
    among, groups = torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(UserError, match=f"window must be a positive odd number of tokens, got {window}"):
        window_mean(signal, among, groups, window)


def test_half_is_rounded_to_the_even_number_whatever_the_float_says():
    counts = torch.tensor([1, 5, 7, 13])
    assert kept_counts(counts, 0.5, "half_even").tolist() == [0, 2, 4, 6]
    # 0.07 * 150 is 10.500000000000002 and 0.57 * 50 is 28.499999999999996.
    assert kept_counts(torch.tensor([150]), 0.07, "half_even").tolist() == [10]
    assert kept_counts(torch.tensor([50]), 0.57, "half_even").tolist() == [28]
