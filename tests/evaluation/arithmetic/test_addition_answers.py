"""Which number an answer holds: the released code's parses, and text around it that is invalid but never an exception."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_json
from tokenry.core.errors import UserError
from tokenry.core.text.digit_groups import FORMAT_NAMES, format_number
from tokenry.evaluation.arithmetic.addition_answers import parse_answer

GOLDEN = golden_json("09-number-tokens", "dev-numbers.json")


@pytest.mark.parametrize("case", GOLDEN["extract_number"], ids=lambda case: repr(case["text"]))
def test_the_number_is_that_of_the_released_code(case):
    found = parse_answer(case["text"])
    assert (found.matched, found.number) == (case["extracted"], case["number"])


def test_flags_are_those_of_the_released_code():
    for case in GOLDEN["analyze"]:
        found, expected = parse_answer(case["response"], case["number_format"]), case["post"]
        assert found.number == expected["answer"]
        assert found.valid == expected["valid_answer"]
        assert found.padded == expected["padded_answer"]
        assert found.extraneous == expected["extraneous_response"]
        assert found.format_match == expected["format_match"]
        right = found.number == expected["true_answer"]
        assert right == expected["answer_match"]
        assert (right and found.format_match) == expected["formatted_answer_match"]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**25), st.sampled_from(FORMAT_NAMES), st.integers(1, 5))
def test_what_a_format_writes_is_read_back(number, name, group):
    assert parse_answer(format_number(number, name, group)).number == number


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_no_text_is_an_exception(text):
    found = parse_answer(text, "comma_r2l")
    assert found.valid == (found.number >= 0)


@pytest.mark.parametrize("text", ["", "I cannot", "3.14 and 2", "a1 b2", "1 + 1 = 2"])
def test_no_number_or_several_are_invalid(text):
    found = parse_answer(text)
    assert (found.valid, found.number, found.matched) == (False, -1, None)


def test_text_around_a_number_is_told_and_leading_zeros_are_another_format():
    assert parse_answer("The answer is 1,234.", "comma_r2l").extraneous
    assert not parse_answer("007", "nosep").format_match
    assert parse_answer("0", "nosep").format_match


def test_a_hundred_thousand_digits_are_a_number():
    found = parse_answer("1" * 100_000, "comma_r2l")
    assert found.valid
    assert found.number % 10**5 == 11111


def test_an_unknown_format_is_refused():
    with pytest.raises(UserError, match="format must be one of nosep"):
        parse_answer("1", "dots")
