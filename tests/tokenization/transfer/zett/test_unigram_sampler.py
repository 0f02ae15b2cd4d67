"""Substrings are counted exactly, and the most probable ones make a vocabulary that writes any text."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_json
from tests.tiny.tokenizers import CODE, ENGLISH, byte_level
from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import BYTE_CHARACTERS, to_byte_characters
from tokenry.tokenization.training.byte_level_training import byte_level_pieces
from tokenry.tokenization.transfer.zett.byte_conversion import LOWEST_SCORE, PATTERN, whitespace_tokens
from tokenry.tokenization.transfer.zett.unigram_sampler import UnigramSampler, unigram_pieces

GOLDEN = golden_json("38-zett", "dev-sampler.json")
FIXED = 256 + 135


def shown(texts, **settings_of_sampler):
    sampler = UnigramSampler(**settings_of_sampler)
    sampler.update(texts)
    return sampler


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def one_by_one(texts, max_length, stride):
    """Substrings counted as they are defined, from characters and not from words."""
    scores = Counter()
    for text in texts:
        for _, (begin, end) in byte_level_pieces(PATTERN).pre_tokenize_str(f" {text}"):
            word = f" {text}"[begin:end]
            for start in range(0, len(word), stride):
                rest = to_byte_characters(word[start:].encode())
                for length in range(1, min(max_length - 1, len(rest)) + 1):
                    scores[rest[:length]] += len(rest[:length].encode())
    return dict(scores)


def golden_sampler(*batches):
    sampler = UnigramSampler(GOLDEN["max_length"], GOLDEN["stride"], exact_offsets=False)
    for batch in batches:
        sampler.update(GOLDEN[batch])
    return sampler


@pytest.mark.parametrize("number", [1, 2])
def test_the_golden_scores_are_met_exactly(number):
    assert golden_sampler(f"batch{number}").scores() == GOLDEN[f"scores{number}"]


@pytest.mark.parametrize("noised", [False, True])
def test_the_golden_vocabulary_is_chosen(noised):
    scores = golden_sampler("batch1", "batch2").scores()
    names = sorted(scores)  # ties by name
    noise = np.array([GOLDEN["noise"][name] if noised else 0.0 for name in names])
    pieces = unigram_pieces(
        names, np.array([scores[name] for name in names]), noise, GOLDEN["size"], GOLDEN["max_length"]
    )
    expected = GOLDEN["pieces_noise" if noised else "pieces_no_noise"]
    ordered = sorted(pieces[:256]) + pieces[256:]
    assert [name for name, _ in ordered] == [name for name, _ in expected]
    assert np.allclose([p for _, p in ordered], [p for _, p in expected], rtol=0, atol=1e-12)


@given(
    texts=st.lists(st.text() | st.text(alphabet=" aé東\n"), min_size=1, max_size=4), stride=st.integers(1, 5)
)
@settings(max_examples=25, deadline=None)
def test_exact_offsets_count_what_begins_at_every_nth_character(texts, stride):
    assert shown(texts, max_length=6, stride=stride).scores() == one_by_one(texts, 6, stride)


def test_the_released_count_begins_in_wrong_places_after_a_long_first_character():
    exact, released = (shown(["x\n東ab"], stride=1, exact_offsets=exact).scores() for exact in (True, False))
    assert "ab" in exact
    assert "ab" not in released
    assert "±ab" in released
    assert "±ab" not in exact


def test_the_released_count_breaks_words_at_combining_marks():
    exact, released = (shown(["हिन्दी"], exact_offsets=exact).scores() for exact in (True, False))
    whole = to_byte_characters(" हिन".encode())
    assert whole in exact
    assert whole not in released


def test_batches_leave_a_full_pool():
    sampler = UnigramSampler(pool=3)
    for batch in (["one", "two"], ["three"], ["four", "five"]):
        sampler.update(batch)
    assert sampler.scores() == shown(["three", "four", "five"]).scores()


def test_a_batch_larger_than_the_pool_is_counted_all_the_same():
    assert shown(["one", "two"], pool=1).scores() == shown(["one", "two"]).scores()


def test_what_is_drawn_depends_on_the_pool_alone():
    long_lived, fresh = UnigramSampler(pool=4), UnigramSampler(pool=4)
    for number in range(40):
        long_lived.update([f"past{number} texts{number * 7} that left{number}" * 3])
        long_lived.scores()
    for batch in (ENGLISH[:2], CODE[:2]):
        long_lived.update(batch)
        fresh.update(batch)
    drawn = [sampler.sample(FIXED + 40, 1e-3, seeded()).get_vocab() for sampler in (long_lived, fresh)]
    assert drawn[0] == drawn[1]


def test_other_noise_draws_another_vocabulary():
    sampler = shown(ENGLISH + CODE)
    first, again, other = (sampler.sample(FIXED + 60, 1e-3, seeded(seed)).get_vocab() for seed in (0, 0, 1))
    assert first == again
    assert first.keys() != other.keys()


def test_without_noise_the_most_frequent_and_long_substrings_are_drawn():
    tokens = shown(ENGLISH).sample(FIXED + 5, 0.0).get_vocab()
    assert "Ġthe" in tokens
    assert len(tokens) == FIXED + 5


def test_substrings_that_noise_leaves_nothing_come_last():
    pieces = unigram_pieces(["Ġa", "Ġb"], np.array([3, 1]), np.array([-2.0, 0.0]), FIXED + 2)
    assert pieces[-2:] == [("Ġb", np.log(0.25)), ("Ġa", LOWEST_SCORE)]


@given(text=st.text() | st.text(alphabet=" \n\tab."))
@settings(max_examples=25, deadline=None)
def test_a_drawn_tokenizer_gives_any_text_back(text):
    assert DRAWN.decode(DRAWN.encode(text)) == (f" {text}" if text else "")


DRAWN = shown(ENGLISH).sample(FIXED + 50, 1e-3, seeded())


def test_bytes_and_white_space_are_in_every_vocabulary():
    assert {*BYTE_CHARACTERS, *whitespace_tokens()} <= DRAWN.get_vocab().keys()
    assert DRAWN.tokenize("a\n\n\n\n b")[1:2] == ["ĊĊĊĊ"]


@pytest.mark.parametrize(("size", "expected"), [(1, 256), (256, 256), (260, 260), (FIXED, FIXED)])
def test_a_small_vocabulary_has_the_bytes_and_as_much_white_space_as_fits(size, expected):
    assert len(shown(ENGLISH).sample(size, 0.0)) == expected


def test_special_tokens_of_a_reference_come_on_top_at_their_ids(tmp_path):
    reference = byte_level(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    drawn = shown(ENGLISH, special_tokens=reference).sample(FIXED, 0.0)
    assert len(drawn) == FIXED + 3
    assert drawn.special_tokens_map == reference.special_tokens_map
    assert drawn.convert_tokens_to_ids(["<s>", "</s>", "<pad>"]) == [0, 1, 2]
    assert drawn.encode("<s>the")[0] == 0


def test_no_substring_becomes_a_special_token():
    reference = byte_level(bos_token="sat")
    assert "sat" in shown(ENGLISH, stride=1).scores()
    drawn = shown(ENGLISH, stride=1, special_tokens=reference).sample(FIXED + 140, 0.0)
    assert drawn.convert_tokens_to_ids("sat") == drawn.bos_token_id == 0
    assert sorted(drawn.get_vocab().values()) == list(range(len(drawn)))


def test_too_little_text_is_refused_with_the_number_of_its_substrings():
    sampler = shown(["ab"])  # Ġa, Ġab
    assert len(sampler.sample(FIXED + 2, 0.0)) == FIXED + 2
    with pytest.raises(
        UserError,
        match="room for 3 substrings, but the texts hold only 2: give more texts, or ask for at most 393",
    ):
        sampler.sample(FIXED + 3, 0.0)


def test_no_text_at_all_is_refused():
    with pytest.raises(UserError, match="no text in the pool"):
        UnigramSampler().sample(300, 0.0)


@pytest.mark.parametrize("noise_std", [-1e-9, float("nan")])
def test_negative_noise_is_refused(noise_std):
    with pytest.raises(UserError, match="noise_std must not be negative"):
        shown(ENGLISH).sample(300, noise_std)


def test_an_empty_vocabulary_is_refused():
    with pytest.raises(UserError, match="vocabulary_size must be at least 1, got 0"):
        shown(ENGLISH).sample(0, 0.0)


@pytest.mark.parametrize(("name", "least"), [("max_length", 2), ("stride", 1), ("pool", 1)])
def test_settings_that_count_nothing_are_refused(name, least):
    with pytest.raises(UserError, match=f"{name} must be at least {least}, got {least - 1}"):
        UnigramSampler(**{name: least - 1})
