"""Supertokens: the released cutting exactly, lengths by their law, and a tokenizer that loads anywhere and loses nothing."""

import random
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.golden import golden_json
from tokenry.core.errors import UserError
from tokenry.tokenization.training.supertokens import (
    RELEASED_LENGTHS,
    chunk_lengths,
    length_law,
    parse_lengths,
    sample_chunks,
    train_supertoken_bpe,
)

GOLDEN = golden_json("15-tokenadapt", "dev-supertoken.json")
TEXTS = ["the cat of the house sat on the mat of the house", "out of the house went the cat of the king"] * 8
TRAINED = train_supertoken_bpe(TEXTS, 300)

quick = settings(max_examples=25, deadline=None)


@pytest.fixture(scope="module")
def tokenizer():
    return train_supertoken_bpe(TEXTS, 400)


@pytest.mark.parametrize("case", GOLDEN["chunk_cases"], ids=range(len(GOLDEN["chunk_cases"])))
def test_chunks_are_those_of_the_released_code(case):
    rng = random.Random(case["python_random_seed"])
    assert sample_chunks(case["text"], parse_lengths(case["distribution"]), rng) == case["chunks"]


@pytest.mark.parametrize("case", GOLDEN["validation"], ids=lambda case: str(case["distribution"])[:40])
def test_what_the_released_code_refuses_is_refused(case):
    def check():
        return chunk_lengths(parse_lengths(case["distribution"]))

    if case["error"]:
        with pytest.raises(UserError):
            check()
    else:
        check()


@pytest.mark.parametrize("law", GOLDEN["length_laws"], ids=lambda law: str(law["distribution"]))
def test_lengths_follow_their_law(law):
    distribution = parse_lengths(law["distribution"])
    expected = {int(length): probability for length, probability in law["pmf"].items()}
    found = length_law(distribution)
    assert found == pytest.approx(expected, abs=1e-12)
    assert sum(length * p for length, p in found.items()) == pytest.approx(law["mean"], abs=1e-12)
    # Away from the end of the text.
    chunks = sample_chunks("x" * 200_000, distribution, random.Random(0))[:-30]
    counts = Counter(map(len, chunks))
    for length, probability in expected.items():
        error = (probability * (1 - probability) / len(chunks)) ** 0.5
        assert counts[length] / len(chunks) == pytest.approx(probability, abs=5 * error + 1e-9)


@quick
@given(st.text(max_size=300), st.integers(0, 2**31 - 1))
def test_chunks_join_to_the_text_and_none_is_empty(text, seed):
    chunks = sample_chunks(text, RELEASED_LENGTHS, random.Random(seed), normalize=True)
    assert "".join(chunks) == text
    assert all(chunks)
    assert all(4 <= len(chunk) <= 23 for chunk in chunks[:-1])


def test_the_released_distribution_needs_to_be_normalised():
    with pytest.raises(UserError, match=r"must sum to 1, they sum to 1\.1.*normalize=True"):
        chunk_lengths(RELEASED_LENGTHS)
    assert sum(chunk_lengths(RELEASED_LENGTHS, normalize=True).values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("distribution", "words"),
    [
        ({(0, 4): 1.0}, "must be at least 1 character, got the range 0-4"),
        ({(5, 3): 1.0}, "the range 5-3 ends before it begins"),
        ({(1, 2): -0.1, (3, 4): 1.1}, r"the probability of 1-2 must be in \[0, 1\], got -0\.1"),
        ({(1, 4): 0.5}, r"must sum to 1, they sum to 0\.5"),
        ({}, "must sum to 1, they sum to 0"),
        ({(1, 2): float("nan")}, "must be in"),
    ],
)
def test_distributions_that_are_none_are_refused(distribution, words):
    with pytest.raises(UserError, match=words):
        sample_chunks("text", distribution, random.Random(0))


def test_a_range_that_is_no_range_is_named():
    with pytest.raises(UserError, match="'a-b' is not a range of chunk lengths"):
        parse_lengths({"a-b": 1.0})


def test_tokens_reach_over_words(tokenizer):
    assert any(" of the" in tokenizer.decode([number]) for number in range(len(tokenizer)))
    assert len(tokenizer.tokenize("out of the house")) < 4


def test_a_vocabulary_has_the_asked_size_and_its_tokens_the_asked_length(tokenizer):
    small = train_supertoken_bpe(TEXTS, 280, max_token_length=6)
    assert len(small) == 280
    assert max(len(token) for token in small.get_vocab() if token != "<|endoftext|>") <= 6
    assert max(len(token) for token in tokenizer.get_vocab() if token != "<|endoftext|>") > 6
    assert len(tokenizer) <= 400


def test_long_runs_of_one_character_become_no_tokens():
    runs = train_supertoken_bpe(["=" * 700 + "end"] * 4, 300)
    assert not any("=======" in token for token in runs.get_vocab())


@quick
@given(st.text(max_size=60))
def test_any_text_comes_back_in_its_composed_form(text):
    back = TRAINED.decode(TRAINED.encode(text), clean_up_tokenization_spaces=False)
    assert back == unicodedata.normalize("NFC", text)


def test_training_twice_gives_the_same_tokenizer(tokenizer):
    again = train_supertoken_bpe(TEXTS, 400)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert train_supertoken_bpe(TEXTS, 400, seed=1).get_vocab() != tokenizer.get_vocab()


def test_the_tokenizer_loads_in_plain_transformers(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.encode("out of the house") == tokenizer.encode("out of the house")


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(UserError, match="vocab_size must be at least 257"):
        train_supertoken_bpe(TEXTS, 256)
    with pytest.raises(UserError, match="max_token_length must be at least 1"):
        train_supertoken_bpe(TEXTS, 300, max_token_length=0)
