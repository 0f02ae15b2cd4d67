"""Dictionaries: reference ids and merges, round trips, texts at the edge, and what none of them can cut."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_json
from tests.tiny.tokenizers import byte_level
from tokenry.core.errors import UserError
from tokenry.theory import (
    BlockTokenizer,
    BPETokenizer,
    GreedyTokenizer,
    LikeliestTokenizer,
    LZWTokenizer,
    RealTokenizer,
)

GOLDEN = golden_json("11-markov-theory", "dev-markov.json")
texts = st.lists(st.integers(0, 2), max_size=60)


def reference():
    for case in GOLDEN["cases"]:
        for expected in case["dicts"]:
            name = f"A{case['alphabet']}k{case['order']}d{expected['d']}"
            yield pytest.param(case["train"], case["test"], case["alphabet"], expected, id=name)


@pytest.mark.parametrize(("train", "test", "alphabet", "expected"), reference())
def test_dictionaries_and_ids_are_the_reference(train, test, alphabet, expected):
    lzw = LZWTokenizer.train(train, expected["d"], alphabet)
    assert [list(token) for token in lzw.dictionary] == expected["lzw_dict"]
    assert lzw.encode(test).tolist() == expected["lzw_test_ids"]
    bpe = BPETokenizer.train(train, expected["d"], alphabet)
    assert [list(pair) for pair in bpe.merges] == expected["bpe_merges"]
    assert [list(token) for token in bpe.dictionary] == expected["bpe_dict"]
    assert bpe.encode(test).tolist() == expected["bpe_test_ids"]


@pytest.mark.parametrize("edge", GOLDEN["edge"], ids=lambda edge: f"{len(edge['s'])} symbols, d {edge['d']}")
def test_texts_at_the_edge_are_cut_as_the_reference_does(edge):
    lzw = LZWTokenizer.train(edge["s"], edge["d"], edge["alphabet"])
    assert [list(token) for token in lzw.dictionary] == edge["lzw_dict"]
    assert lzw.encode(edge["s"]).tolist() == edge["lzw_ids"]
    bpe = BPETokenizer.train(edge["s"], edge["d"], edge["alphabet"])
    assert [list(pair) for pair in bpe.merges] == edge["bpe_merges"]
    assert bpe.encode(edge["s"]).tolist() == edge["bpe_ids"]


def counted_slowly(ids):
    """The rule in plain words: from the left, and what a pair has taken is not counted again for the same pair."""
    counts, taken = {}, {}
    for place, pair in enumerate(pairwise(ids)):
        if taken.get(pair, -1) < place:
            counts[pair] = counts.get(pair, 0) + 1
            taken[pair] = place + 1 if pair[0] == pair[1] else place
    return counts


@settings(max_examples=30, deadline=None)
@given(texts)
def test_bpe_merges_the_most_frequent_pair_the_smallest_first(text):
    merges = BPETokenizer.train(text, 4, 3).merges
    counts = counted_slowly(text)
    if merges:
        assert merges[0] == min(counts, key=lambda pair: (-counts[pair], pair))
    else:
        assert max(counts.values(), default=0) < 2


@settings(max_examples=30, deadline=None)
@given(texts, st.integers(3, 12))
def test_text_comes_back_from_its_tokens(text, size):
    for tokenizer in (LZWTokenizer.train(text, size, 3), BPETokenizer.train(text, size, 3)):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids).tolist() == text
        assert len(tokenizer.dictionary) <= size


@settings(max_examples=30, deadline=None)
@given(texts)
def test_greedy_matching_takes_the_longest_token(text):
    tokenizer = GreedyTokenizer([(0,), (1,), (2,), (0, 1), (0, 1, 2, 0), (2, 2)])
    place = 0
    for number in tokenizer.encode(text).tolist():
        token = tokenizer.dictionary[number]
        fitting = [
            known for known in tokenizer.dictionary if tuple(text[place : place + len(known)]) == known
        ]
        assert token == max(fitting, key=len)
        place += len(token)
    assert place == len(text)


def test_blocks_are_all_strings_of_their_length():
    tokenizer = BlockTokenizer(2, 3)
    assert len(tokenizer.dictionary) == 9
    assert tokenizer.encode([2, 1, 0, 0]).tolist() == [7, 0]


def test_the_likeliest_dictionary_cuts_what_it_was_trained_on_into_its_words():
    words, generator = [(0, 1, 1), (2, 2, 0, 1)], np.random.default_rng(0)
    text = [symbol for choice in generator.integers(0, 2, 400) for symbol in words[choice]]
    tokenizer = LikeliestTokenizer.train(text, 8)
    assert tokenizer.decode(tokenizer.encode(text)).tolist() == text
    assert len(tokenizer.encode(text)) <= 450
    assert len(tokenizer.dictionary) <= 8
    with pytest.raises(UserError, match="give at least two symbols"):
        LikeliestTokenizer.train([0], 8)


def test_a_tokenizer_of_the_field_is_a_dictionary_over_bytes():
    tokenizer = RealTokenizer(byte_level())
    text = np.frombuffer("the cat, für alle".encode(), np.uint8).astype(np.int64)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids).tolist() == text.tolist()
    with pytest.raises(UserError, match="the text is not UTF-8"):
        tokenizer.encode([0xC3])


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (lambda: LZWTokenizer.train([0, 1], 1), "a dictionary of 1 tokens cannot hold the 2 symbols"),
        (lambda: BPETokenizer.train([0, 1, 5], 9, 3), "the text has the symbol 5, and the alphabet has 3"),
        (lambda: BPETokenizer.train([0, 300], 400), "of at most 256 symbols"),
        (lambda: LZWTokenizer.train([0, -1], 4), "symbols are numbers from 0, got -1"),
        (lambda: GreedyTokenizer([(0,), ()]), "none that is empty"),
        (lambda: GreedyTokenizer([(0,), (0,)]), "lists each token once"),
        (
            lambda: GreedyTokenizer([(0,), (1,)]).encode([0, 2]),
            "no token begins where the text has the symbol 2",
        ),
        (
            lambda: GreedyTokenizer([(0,), (1, 1)]).encode([0, 1, 0]),
            "no token begins where the text has the symbol 1",
        ),
        (lambda: BPETokenizer([], 2).encode([2]), "no token begins where the text has the symbol 2"),
        (lambda: BPETokenizer([], 2).decode([2]), "there is no token 2: the dictionary has 2"),
        (lambda: BlockTokenizer(2).encode([0, 1, 1]), "is not made of blocks of 2: cut it to 2 symbols"),
        (lambda: BlockTokenizer(20), "give shorter blocks"),
    ],
)
def test_what_cannot_be_cut_is_refused(do, words):
    with pytest.raises(UserError, match=words):
        do()
