"""Where numbers belong: samples, first tokens, learnable tokens, and the one shift."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenry.core.tensors.alignment import (
    IGNORED,
    at_tokens,
    first_tokens,
    learnable_tokens,
    predicting_rows,
    prompt_tokens,
    segment_ids,
)

lengths_of_samples = st.lists(st.integers(1, 5), min_size=1, max_size=5)


def _padded(lengths, left, extra):
    """Rows of ids 1, 2, … with `extra` columns of padding on one side or, as `left` tells, on the other."""
    width = max(lengths) + extra
    ids = torch.zeros(len(lengths), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        start = width - length if left else 0
        ids[row, start : start + length] = torch.arange(1, length + 1)
        mask[row, start : start + length] = 1
    return ids, mask


@settings(deadline=None, max_examples=50)
@given(lengths=lengths_of_samples, left=st.booleans(), extra=st.integers(0, 3))
def test_a_padded_batch_is_numbered_row_by_row_and_padding_is_minus_one(lengths, left, extra):
    ids, mask = _padded(lengths, left, extra)
    segments = segment_ids(ids, mask)
    for row, length in enumerate(lengths):
        assert segments[row][mask[row].bool()].tolist() == [row] * length
    assert bool((segments[mask == 0] == -1).all())


@settings(deadline=None, max_examples=50)
@given(lengths=lengths_of_samples)
def test_a_packed_row_is_numbered_by_its_positions(lengths):
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    segments = segment_ids(torch.ones_like(positions), position_ids=positions)
    expected = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    assert torch.equal(segments[0], expected)


@settings(deadline=None, max_examples=50)
@given(lengths=lengths_of_samples)
def test_packed_and_padded_samples_have_the_same_first_and_learnable_tokens(lengths):
    ids, mask = _padded(lengths, left=False, extra=1)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    packed_ids = torch.cat([torch.arange(1, length + 1) for length in lengths])[None]
    padded_segments = segment_ids(ids, mask)
    packed_segments = segment_ids(packed_ids, position_ids=positions)
    real = mask.bool()
    assert torch.equal(first_tokens(padded_segments)[real], first_tokens(packed_segments)[0])
    labels = torch.where(ids % 2 == 0, ids, IGNORED)
    packed_labels = torch.where(packed_ids % 2 == 0, packed_ids, IGNORED)
    learnable = learnable_tokens(labels, padded_segments)
    assert torch.equal(learnable[real], learnable_tokens(packed_labels, packed_segments)[0])


@settings(deadline=None, max_examples=50)
@given(lengths=lengths_of_samples, left=st.booleans())
def test_the_first_token_of_a_sample_and_padding_are_never_learnable(lengths, left):
    ids, mask = _padded(lengths, left, extra=2)
    segments = segment_ids(ids, mask)
    learnable = learnable_tokens(torch.full_like(ids, 7), segments)
    assert torch.equal(learnable, mask.bool() & ~first_tokens(segments))
    assert int(first_tokens(segments).sum()) == len(lengths)


def test_a_token_that_is_not_labelled_is_prompt_and_not_learnable():
    labels = torch.tensor([[IGNORED, 5, IGNORED, 7, IGNORED]])
    segments = torch.tensor([[0, 0, 0, 0, -1]])
    assert learnable_tokens(labels, segments).tolist() == [[False, True, False, True, False]]
    assert prompt_tokens(labels, segments).tolist() == [[True, False, True, False, False]]


def test_a_sample_that_is_labelled_from_its_first_token_on_has_no_prompt():
    labels = torch.tensor([[4, 5, IGNORED, 5]])
    segments = torch.tensor([[0, 0, 1, 1]])
    assert prompt_tokens(labels, segments).tolist() == [[False, False, True, False]]


@settings(deadline=None, max_examples=50)
@given(data=st.data(), batch=st.integers(1, 3), seq=st.integers(2, 6))
def test_a_token_is_predicted_by_the_row_before_it(data, batch, seq):
    tokens = torch.tensor(
        data.draw(
            st.lists(st.lists(st.booleans(), min_size=seq, max_size=seq), min_size=batch, max_size=batch)
        )
    )
    tokens[:, 0] = False
    hidden_states = torch.arange(batch * seq, dtype=torch.float32).view(batch, seq, 1)
    rows = predicting_rows(hidden_states, tokens)[:, 0]
    expected = [hidden_states[b, t - 1, 0] for b in range(batch) for t in range(seq) if tokens[b, t]]
    assert rows.tolist() == [float(value) for value in expected]
    placed = at_tokens(rows, tokens)
    assert torch.equal(placed[tokens], hidden_states[..., 0][tokens] - 1)
    assert bool(placed[~tokens].isnan().all())


def test_one_position_row_for_the_whole_batch_is_enough():
    segments = segment_ids(torch.ones(2, 4, dtype=torch.long), position_ids=torch.tensor([[0, 1, 0, 1]]))
    assert segments.tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]
