"""Words: their spans, the tokens of each, protected parts; for tokenizers of several kinds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tests.tiny.tokenizers import character_tokenizer, chatml_tokenizer, word_tokenizer
from tokenry.core.errors import UserError
from tokenry.core.text.words import protected_spans, touched, word_spans, words_of

TOKENIZERS = {"bytes": chatml_tokenizer(), "characters": character_tokenizer(), "words": word_tokenizer()}


def written(tokenizer, text):
    words = words_of(TOKENIZERS[tokenizer], text)
    return [words[number] for number in range(len(words))]


def test_words_numbers_signs_and_characters_of_scripts_without_spaces_stand_alone():
    text = "It's $3.50, déjà vu: 東京 tower"
    expected = ["It's", "$", "3.50", ",", "déjà", "vu", ":", "東", "京", "tower"]
    assert written("bytes", text) == written("characters", text) == expected


def test_combining_marks_belong_to_the_letter_before_them():
    written = [text[start:end] for text in ("हिन्दी में", "สวัสดี", "e\u0301t") for start, end in word_spans(text)]
    assert written == ["हिन्दी", "में", "ส", "วั", "ส", "ดี", "e\u0301t"]


def test_words_that_share_a_token_are_one_word():
    assert written("words", "It's $3.50, ok") == ["It's", "$3.50,", "ok"]


def test_white_space_belongs_to_the_word_after_it_and_at_the_end_to_the_last():
    words = words_of(TOKENIZERS["characters"], " a  bc ")
    assert words.of_token.tolist() == [0, 0, 1, 1, 1, 1, 1]


def test_special_tokens_belong_to_no_word_and_count_for_none():
    words = words_of(character_tokenizer(adds_bos=True), "ab c")
    assert words.of_token.tolist() == [-1, 0, 0, 1, 1]
    scores = torch.tensor([9.0, 1.0, 2.0, -3.0, -4.0])
    assert words.total(scores).tolist() == [3, -7]
    assert words.total(scores, "mean").tolist() == [1.5, -3.5]
    assert words.total(scores, "max").tolist() == [2, -3]


@settings(deadline=None)
@given(text=st.text(max_size=30), tokenizer=st.sampled_from(list(TOKENIZERS)))
def test_spans_are_in_order_disjoint_and_hold_every_visible_character(text, tokenizer):
    words = words_of(TOKENIZERS[tokenizer], text)
    ends = [0, *(place for span in words.spans for place in span)]
    assert ends == sorted(ends)
    held = "".join(words[number] for number in range(len(words)))
    assert "".join(held.split()) == "".join(text.split())
    assert len(words.of_token) == len(words.input_ids)
    order = [number for number in words.of_token.tolist() if number >= 0]
    assert order == sorted(order)
    total = words.total(torch.ones(len(words.input_ids)))
    assert float(total.sum()) == len(order)


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("numbers", ["-3.50", "1,000"]),
        ("code", ["`x = 1`"]),
        ("quotes", ['"key"', '"a b"']),
        ("json-keys", ['"key"']),
        (r"pay\w*", ["payment"]),
    ],
)
def test_protected_parts_are_found(what, found):
    text = '{"key": "a b"} payment of -3.50 and 1,000 by `x = 1`'
    if what == "numbers":
        text = text.replace("1`", "y`")
    spans = protected_spans(text, [what])
    assert [text[start:end] for start, end in spans] == found


def test_words_inside_a_protected_part():
    words = words_of(TOKENIZERS["bytes"], "say `x = 1` now")
    inside = words.inside(protected_spans(words.text, ["code"]))
    assert [words[number] for number in inside.nonzero()[:, 0].tolist()] == ["`", "x", "=", "1", "`"]


def test_what_cannot_be_read_is_refused():
    with pytest.raises(UserError, match=r"protect takes numbers, .* or a regular expression; '\(' is none"):
        protected_spans("a", ["("])
    with pytest.raises(UserError, match="reduce must be one of sum, mean, max, got 'median'"):
        words_of(TOKENIZERS["bytes"], "a").total(torch.ones(1), "median")
    slow = character_tokenizer()
    slow.__class__ = type("SlowTokenizer", (PreTrainedTokenizerFast,), {"is_fast": False})
    with pytest.raises(UserError, match="SlowTokenizer is a slow tokenizer without offsets"):
        words_of(slow, "a")


@settings(deadline=None, max_examples=40)
@given(
    ends=st.lists(st.integers(0, 30), max_size=12),
    spans=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted).map(tuple), max_size=5),
)
def test_a_word_is_touched_if_one_of_its_characters_is(ends, spans):
    edges = sorted(set(ends))
    words = list(zip(edges[::2], edges[1::2], strict=False))
    spans = [span for span in spans if span[0] < span[1]]
    held = {place for start, end in spans for place in range(start, end)}
    assert touched(words, spans).tolist() == [not held.isdisjoint(range(*word)) for word in words]
