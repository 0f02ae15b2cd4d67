"""Pre-tokenizers of numbers: equal to the arithmetic for any text and at any length, saved with the tokenizer, and no space in a group."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.golden import golden_json
from tokenry.core.errors import UserError
from tokenry.core.text.digit_groups import cut, format_number, group_digits
from tokenry.tokenization.numbers.number_pre_tokenizers import (
    NUMBER_PATTERN,
    number_pieces,
    number_pre_tokenizer,
)

GOLDEN = golden_json("09-number-tokens", "dev-numbers.json")
MODES = ("l2r", "r2l", "single")

texts = st.text(st.sampled_from("0123456789.,- aé\n½٣"), max_size=80)


@pytest.mark.parametrize("case", GOLDEN["pretokenize"], ids=lambda case: f"{case['mode']} {case['text']!r}")
def test_pieces_are_those_of_the_golden_file(case):
    pieces = number_pre_tokenizer(case["mode"]).pre_tokenize_str(case["text"])
    assert [piece for piece, _ in pieces] == case["pieces"]
    assert [list(span) for _, span in pieces] == case["offsets"]


@settings(max_examples=100, deadline=None)
@given(
    texts,
    st.sampled_from(MODES),
    st.integers(1, 5),
    st.booleans(),
    st.sampled_from([None, "l2r"]),
)
def test_pieces_are_those_of_the_arithmetic(text, mode, group, unicode, fraction):
    found = number_pre_tokenizer(mode, group, unicode, fraction).pre_tokenize_str(text)
    assert found == [
        (piece, (start, end)) for piece, start, end in group_digits(text, mode, group, unicode, fraction)
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 5))
def test_from_the_right_is_exact_far_beyond_510_digits(length, group):
    number = "1234567890" * (length // 10 + 1)
    pieces = number_pre_tokenizer("r2l", group).pre_tokenize_str(f"x{number[:length]} y")
    assert [piece for piece, _ in pieces] == ["x", *cut(number[:length], "r2l", group), " y"]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 510))
def test_from_the_right_is_the_look_ahead_of_the_paper(length):
    look_ahead = pre_tokenizers.Split(Regex(r"\d{1,3}(?=(?:\d{3})*(?!\d))"), "isolated")
    number = "9" * length
    assert number_pre_tokenizer().pre_tokenize_str(number) == look_ahead.pre_tokenize_str(number)


@pytest.mark.parametrize("mode", MODES)
def test_a_hundred_thousand_digits_are_cut_to_the_last(mode):
    digits = "7" * 100_000
    assert [piece for piece, _ in number_pre_tokenizer(mode).pre_tokenize_str(digits)] == cut(digits, mode)


def trained(pre_tokenizer):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    corpus = [f"we counted {number * 7919} and {number:03d} नमस्ते दुनिया" for number in range(3000)]
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def test_a_trained_tokenizer_groups_numbers_from_the_right_after_it_was_saved_and_loaded(tmp_path):
    trained(number_pieces("r2l")).save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("we counted 12345678 and 1234", " 999999 ", "नमस्ते 1000000"):
        encoding = loaded.encode(text)
        assert loaded.decode(encoding.ids) == text
        tokens = [token for token in encoding.tokens if any(letter in "0123456789" for letter in token)]
        assert tokens == [piece for piece, _, _ in group_digits(text) if piece.isascii() and piece.isdigit()]


def test_a_space_is_never_glued_to_a_group():
    pieces = [piece for piece, _ in number_pieces().pre_tokenize_str("is 1234567 or 12")]
    assert pieces == ["is", "Ġ", "1", "234", "567", "Ġor", "Ġ", "12"]


def test_words_of_indic_scripts_do_not_break_at_vowel_signs():
    words = pre_tokenizers.Split(Regex(NUMBER_PATTERN), "isolated")
    assert [piece for piece, _ in words.pre_tokenize_str("हिन्दी दुनिया")] == ["हिन्दी", " दुनिया"]
    assert r"\p{M}" in NUMBER_PATTERN
    assert r" ?\p{N}" not in NUMBER_PATTERN


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: number_pre_tokenizer("r2l", 0), "group must be at least 1, got 0"),
        (lambda: number_pre_tokenizer("rtl"), "mode must be one of l2r, r2l, single, got 'rtl'"),
        (lambda: number_pre_tokenizer(fraction="r2l"), "fraction must be one of l2r, got 'r2l'"),
        (lambda: number_pieces(pattern="("), "the pattern '(' is not a valid regular expression"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call()


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("0123456789"), min_size=1, max_size=30))
def test_commas_from_the_right_give_grouping_from_the_left_the_groups_of_grouping_from_the_right(digits):
    from_left, from_right = number_pre_tokenizer("l2r"), number_pre_tokenizer("r2l")
    pieces = [piece for piece, _ in from_left.pre_tokenize_str(format_number(digits, "comma_r2l"))]
    assert [piece for piece in pieces if piece != ","] == cut(digits)
    assert [piece for piece, _ in from_right.pre_tokenize_str(digits)] == cut(digits)
