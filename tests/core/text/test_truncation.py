"""Texts cut to a window: reference numbers, special tokens that stay, and windows without room."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from tests.golden import golden_json
from tests.tiny.tokenizers import character_tokenizer
from tokenry.core.errors import UserError
from tokenry.core.text.truncation import encode_window, truncate_ids


def between_signs():
    """A token per character between `<s>` and `</s>`."""
    tokenizer = character_tokenizer(adds_bos=True)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


@pytest.mark.parametrize("case", golden_json("37-long-text-hacks", "dev-truncate.json"))
def test_the_tokens_of_the_reference_are_kept(case):
    assert truncate_ids(list(range(case["n"])), case["max_len"], case["head"]) == case["index"]


@given(n=st.integers(0, 30), max_length=st.integers(1, 12), data=st.data())
def test_never_more_than_the_window_and_all_of_what_fits(n, max_length, data):
    head = data.draw(st.none() | st.integers(0, max_length))
    kept = truncate_ids(range(n), max_length, head)
    assert len(kept) == min(n, max_length)
    assert kept == sorted(set(kept))
    if head is None:
        assert kept == list(range(min(n, max_length)))


def test_special_tokens_stay_and_the_middle_goes():
    tokenizer = between_signs()
    for head, left in ((None, "abc"), (3, "abc"), (1, "ahi"), (0, "ghi")):
        (ids,) = encode_window(tokenizer, ["abcdefghi"], 5, head)
        assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", *left, "</s>"]
    for head in (None, 2):
        assert encode_window(tokenizer, ["ab", ""], 5, head) == tokenizer(["ab", ""])["input_ids"]


def test_windows_without_room_are_refused():
    for head in (None, 0):
        with pytest.raises(
            UserError, match="max_length must be at least 3, got 2: the tokenizer adds 2 special tokens"
        ):
            encode_window(between_signs(), ["a"], 2, head)
    with pytest.raises(UserError, match="max_length must be at least 1, got 0"):
        truncate_ids([1], 0)
    with pytest.raises(UserError, match="head must be from 0 to the 3 tokens that are kept, got 4"):
        encode_window(between_signs(), ["abcd"], 5, 4)
    with pytest.raises(UserError, match="head must be from 0 to the 2 tokens that are kept, got -1"):
        truncate_ids([1], 2, -1)
