"""Replay: exact counts after every batch, the same batch whatever was asked before, and blocks of packed text."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_json
from tests.tiny.tokenizers import byte_level, character_tokenizer, word_piece
from tokenry.core.errors import UserError
from tokenry.pretraining import ReplayMixer, compute_equivalent, packed_blocks, replay_counts

GOLDEN = golden_json("31-rewarm", "dev-measures.json")["replay"]
OLD, NEW = [f"old {n}" for n in range(30)], [f"new {n}" for n in range(100)]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(case["replay_fraction"]))
def test_counts_are_those_of_the_reference(case):
    total, fraction, size = (
        case[name] for name in ("total_tokens_or_samples", "replay_fraction", "batch_size")
    )
    assert compute_equivalent(total, fraction) == (case["replay_total"], case["new_total"])
    mixer = ReplayMixer(range(1000), range(total), fraction, size)
    assert mixer.replay_per_batch.tolist() == case["replay_per_batch"]
    assert (mixer.replay_total, mixer.new_total) == (case["replay_total"], case["new_total"])


@given(st.floats(0, 1), st.integers(1, 40), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_the_counts_add_up_for_any_share(fraction, size, batches):
    counts = replay_counts(batches, size, fraction)
    assert counts.sum() == compute_equivalent(batches * size, fraction)[0]
    assert counts.min() >= 0
    assert counts.max() <= size
    assert counts.max() - counts.min() <= 1


def test_a_share_is_not_rounded_off_by_the_floating_point():
    assert 0.29 * 100 < 29
    assert compute_equivalent(100, 0.29) == (29, 71)


def test_a_batch_holds_as_many_old_samples_as_it_should_and_no_new_one_twice():
    mixer = ReplayMixer(OLD, NEW, 0.3, 8)
    batches = list(mixer)
    assert len(batches) == len(mixer) == 12
    old = [sum(sample.startswith("old") for sample in batch) for batch in batches]
    assert old == mixer.replay_per_batch.tolist()
    assert {len(batch) for batch in batches} == {8}
    seen = Counter(sample for batch in batches for sample in batch)
    assert max(seen.values()) == 1
    assert [sample for batch in batches for sample in batch] != sorted(seen)


def test_a_batch_is_the_same_whatever_was_asked_for_before():
    whole = list(ReplayMixer(OLD, NEW, 0.25, 8, seed=3))
    fresh = ReplayMixer(OLD, NEW, 0.25, 8, seed=3)
    assert fresh[7] == whole[7]
    assert fresh[2] == whole[2]
    assert list(ReplayMixer(OLD, NEW, 0.25, 8, seed=4)) != whole
    with pytest.raises(IndexError):
        fresh[12]


def test_used_up_samples_come_again():
    mixer = ReplayMixer(OLD[:5], NEW[:7], 0.5, 4, total=40)
    seen = Counter(sample for batch in mixer for sample in batch)
    assert set(seen.values()) == {2, 3, 4}
    assert sum(seen.values()) == 40
    assert mixer.replay_total == sum(count for sample, count in seen.items() if sample.startswith("old"))


def test_nothing_or_everything_may_be_replayed():
    assert {sample[:3] for batch in ReplayMixer([], NEW, 0, 8) for sample in batch} == {"new"}
    assert {sample[:3] for batch in ReplayMixer(OLD, [], 1, 8) for sample in batch} == {"old"}
    assert len(ReplayMixer(OLD, NEW, 1.0, 8)) == 12, "the compute is that of the new text"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((OLD, NEW, 1.5, 8), r"fraction must be in \[0, 1\], got 1.5"),
        ((OLD, NEW, -0.1, 8), r"fraction must be in \[0, 1\], got -0.1"),
        ((OLD, NEW, 0.1, 0), "batch_size must be at least 1, got 0"),
        (([], NEW, 0.05, 8), "0.05 of every batch is to be replayed, but there is no old text"),
        ((OLD, [], 0.25, 8), "0.75 of every batch is new text, but there is none"),
        ((OLD, NEW[:3], 0.1, 8), "3 samples are too few for one batch of 8"),
    ],
)
def test_a_bad_mixture_is_one_sentence(given, words):
    with pytest.raises(UserError, match=words):
        ReplayMixer(*given)


def test_counts_of_nothing_are_refused():
    with pytest.raises(UserError, match="batches must be at least 1, got 0"):
        replay_counts(0, 8, 0.5)
    with pytest.raises(UserError, match="total must be at least 0, got -1"):
        compute_equivalent(-1, 0.5)


def test_texts_are_packed_end_to_end():
    tokenizer = character_tokenizer()
    end = tokenizer.eos_token_id
    blocks = packed_blocks([[5, 6, 7], [8, end], [9, 10, 11]], 4, tokenizer)
    assert blocks.tolist() == [[5, 6, 7, end], [8, end, 9, 10]]
    assert blocks.dtype == torch.long


def test_text_that_cannot_be_packed_is_refused():
    with pytest.raises(UserError, match="length must be at least 2, got 1"):
        packed_blocks([[5, 6]], 1, byte_level())
    with pytest.raises(UserError, match="3 tokens are too few for a block of 8"):
        packed_blocks([[5, 6]], 8, byte_level())
    without = word_piece()
    without.eos_token = None
    with pytest.raises(UserError, match="the tokenizer has no eos token"):
        packed_blocks([[5, 6]], 2, without)
