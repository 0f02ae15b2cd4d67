"""Shapes: texts that a pre-tokenizer cannot tell apart are cut alike."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from tests.decoding.byte_level.cutters import PRE_TOKENIZERS, TOKENIZERS, byte_level
from tokenry.core.errors import UserError
from tokenry.decoding.byte_level.pattern_atoms import PatternAtoms
from tokenry.decoding.byte_level.pieces import Pieces

CUTTING = [name for name in PRE_TOKENIZERS if name != "none"]


@functools.cache
def pieces_of(name):
    return Pieces.of(byte_level(name))


def with_pre_tokenizer(pre_tokenizer):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


@pytest.mark.parametrize("name", CUTTING)
@settings(max_examples=30, deadline=None)
@given(text=st.text("abTREsd'’ \n\t1²_.,—é漢ा😀", max_size=8))
def test_a_shape_is_cut_where_its_text_is(name, text):
    pieces = pieces_of(name)
    shape = pieces.shape(text)
    if len(shape) == len(text):
        assert pieces.borders(shape) == pieces.borders(text)
    else:
        assert len(pieces.borders(shape)) == len(pieces.borders(text))


@pytest.mark.parametrize("name", CUTTING)
def test_many_texts_have_few_shapes(name):
    pieces = Pieces.of(byte_level(name))
    words = [f" {first}{second}{third}" for first in "bcfg" for second in "hijk" for third in "nopq"]
    assert len({pieces.shape(word) for word in words}) == 1


def test_the_letters_of_a_contraction_are_kept_after_an_apostrophe_only():
    pieces = Pieces.of(byte_level("gpt2"))
    assert pieces.shape("tree") == pieces.shape("oooo") == "AAA"
    assert pieces.shape("'re") != pieces.shape("'oo")
    assert pieces.shape("re", after_apostrophe=2) == "re"
    assert [pieces.apostrophe_reaches(text) for text in ("a", "a'", "a'r", "a're", "'.")] == [0, 2, 1, 0, 0]


def test_what_may_follow_begins_with_the_end_and_has_one_of_every_class():
    pieces = Pieces.of(byte_level("gpt2"))
    followers = pieces.followers("a")
    assert followers[0] == ""
    assert {pieces.shape(each) for each in "x 1\n.'"} <= set(followers)
    assert "s" in pieces.followers("a'")
    assert "s" not in followers


def test_an_unfinished_character_can_become_every_class_that_begins_so():
    pieces = Pieces.of(byte_level("gpt2"))
    letter, symbol = pieces.shape("é"), pieces.shape("×")
    assert set(pieces.completions(b"\xc3")) == {letter, symbol}
    assert pieces.completions(b"\xf0\x9f\x98") == (symbol,)
    assert all(pieces.completions(bytes([first])) for first in range(0xC2, 0xF5))


def test_a_tokenizer_that_never_cuts_has_no_pieces():
    assert Pieces.of(byte_level("none")) is None
    assert Pieces.of(TOKENIZERS["gemma"]()) is None
    assert Pieces.of(TOKENIZERS["sentencepiece"]()) is None
    assert Pieces.of(TOKENIZERS["metaspace, cut"]()) is not None


def test_long_runs_count_where_a_pattern_counts_them():
    pieces = Pieces.of(with_pre_tokenizer(pre_tokenizers.Split(Regex(r"[a-z]{2,5}"), "isolated")))
    assert len(pieces.shape("abcdefg")) == 7


def test_a_pre_tokenizer_without_patterns_is_refused():
    with pytest.raises(UserError, match="the pre-tokenizer UnicodeScripts does not cut by patterns"):
        Pieces.of(with_pre_tokenizer(pre_tokenizers.UnicodeScripts()))


def test_what_a_pattern_names_is_read_from_it():
    found = PatternAtoms.read(
        r"(?i:'s|'t)|[^\r\n\p{L}a-f]?[!^-]+|\d{1,3}(?!x)|\bq|(?:[\p{L}&&[^\p{Han}]]|[]a])+"
    )
    assert found.atoms == {
        "'", r"[^\r\n\p{L}a-f]", "[!^-]", r"\d", "x", r"\w", "q", r"[\p{L}&&[^\p{Han}]]", "[]a]",
    }  # fmt: skip
    assert found.suffixes == {"s", "t"}
    assert found.counted == {r"\d"}
    assert not found.counts_groups


@pytest.mark.parametrize(
    ("pattern", "suffixes"),
    [
        (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+", {"s", "d", "m", "t", "ll", "ve", "re"}),
        (r"(?i:[sdmt]|ll)", set()),
        (r"['’](?i:s|re)\b", {"s", "re"}),
        (r"\p{L}+(?i:'s|'RE)?", {"s", "RE"}),
    ],
)
def test_what_follows_an_apostrophe_is_a_suffix(pattern, suffixes):
    assert PatternAtoms.read(pattern).suffixes == suffixes


def test_case_is_ignored_as_far_as_the_pattern_ignores_it():
    assert PatternAtoms.read(r"(?i:[ab]x)y|(?i)z|(?-i:w)").atoms == {
        "(?i:[ab])",
        "(?i:x)",
        "y",
        "(?i:z)",
        "w",
    }


def test_a_count_of_a_group_makes_every_run_count():
    assert PatternAtoms.read(r"(?:ab){2}").counts_groups


def test_a_bracket_that_is_not_closed_is_named():
    with pytest.raises(UserError, match="has a bracket at 3 that is not closed"):
        PatternAtoms.read("a|b[cd")
