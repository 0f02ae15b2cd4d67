"""The engine against a recount of everything at every step."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenry.tokenization.training.superword_counting import AdjacentPairs

PIECES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=14), max_size=8)
INDEX_SIZES = st.sampled_from([1, 2, 5, 1000])


def flat(pieces):
    return np.array([token for piece in pieces for token in (*piece, -1)], dtype=np.int32)


def counted(pieces, disjoint, open_tokens):
    counts = Counter()
    for piece in pieces:
        previous = None
        for pair in pairwise(piece):
            again = disjoint and pair[0] == pair[1] and pair == previous
            if not again and set(pair) <= open_tokens:
                counts[pair] += 1
            previous = None if again else pair
    return counts


def merged(piece, left, right, token):
    done, place = [], 0
    while place < len(piece):
        here = tuple(piece[place : place + 2]) == (left, right)
        done.append(token if here else piece[place])
        place += 2 if here else 1
    return done


@settings(max_examples=150, deadline=None)
@given(PIECES, st.booleans(), INDEX_SIZES, st.integers(1, 3))
def test_every_merge_is_that_of_a_full_recount(pieces, disjoint, at_least, least):
    pairs = AdjacentPairs(flat(pieces), range(4), disjoint=disjoint, at_least=at_least)
    names = list(range(4))
    while True:
        counts = counted(pieces, disjoint, set(names))
        expected = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if expected is None or counts[expected] < least:
            assert pairs.best(least) is None
            break
        assert pairs.best(least) == (*expected, counts[expected])
        token = pairs.merge(*expected, name=len(names))
        assert token == len(names)
        names.append(token)
        pieces = [merged(piece, *expected, token) for piece in pieces]
        assert pairs.tokens == sum(map(len, pieces))


@settings(max_examples=100, deadline=None)
@given(PIECES, INDEX_SIZES, st.lists(st.integers(0, 5), max_size=12))
def test_locked_tokens_are_in_no_pair_until_they_are_unlocked(pieces, at_least, switched):
    pairs = AdjacentPairs(flat(pieces), range(4), disjoint=True, locked=True, at_least=at_least)
    unlocked: set[int] = set()
    for number in switched:
        if number > 3:
            pairs.lock(number - 4)
            unlocked.discard(number - 4)
        else:
            pairs.unlock(number)
            unlocked.add(number)
        counts = counted(pieces, True, unlocked)
        expected = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        assert pairs.best() == (None if expected is None else (*expected, counts[expected]))


@settings(max_examples=100, deadline=None)
@given(PIECES, INDEX_SIZES)
def test_a_token_that_is_there_already_can_be_made_again(pieces, at_least):
    pairs = AdjacentPairs(flat(pieces), range(4), at_least=at_least)
    names = 4
    for into in (2, None, 0, None, 3):
        counts = counted(pieces, False, {0, 1, 2, 3, 4, 5})
        expected = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        found = pairs.best()
        if expected is None:
            assert found is None
            break
        assert found == (*expected, counts[expected])
        token = pairs.merge(*expected, name=names, into=into)
        names += into is None
        pieces = [merged(piece, *expected, token) for piece in pieces]


@settings(max_examples=50, deadline=None)
@given(PIECES, INDEX_SIZES)
def test_pairs_that_are_dropped_never_hide_the_others(pieces, at_least):
    counts = counted(pieces, False, {0, 1, 2, 3})
    pairs = AdjacentPairs(flat(pieces), range(4), at_least=at_least)
    seen = set()
    while (found := pairs.best()) is not None:
        left, right, count = found
        assert counts[left, right] == count
        seen.add((left, right))
        pairs.drop(left, right)
    assert seen == set(counts)


def test_names_decide_between_pairs_that_are_equally_frequent():
    pairs = AdjacentPairs(flat([[0, 1], [2, 3]]), [b"z", b"a", b"b", b"c"])
    assert pairs.best() == (2, 3, 1)


def test_the_rare_pairs_of_a_large_corpus_are_not_held():
    generator = np.random.default_rng(0)
    tokens = generator.zipf(1.3, 50_000).clip(max=20_000).astype(np.int32)
    pairs = AdjacentPairs(tokens, range(20_001), at_least=100)
    pairs.best()
    assert 100 <= len(pairs._found) < 1000


@pytest.mark.parametrize("least", [1, 5])
def test_a_corpus_without_pairs_has_no_best(least):
    assert AdjacentPairs(flat([[0], [1]]), range(2)).best(least) is None
