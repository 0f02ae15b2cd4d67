"""Groups of digits: the released code's numbers, identities of regrouping for any digits, and what is refused."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_json
from tokenry.core.errors import UserError
from tokenry.core.text.digit_groups import (
    FORMAT_NAMES,
    NumberFormat,
    chunk,
    cut,
    format_number,
    group_digits,
    group_sizes,
    number_format,
)

GOLDEN = golden_json("09-number-tokens", "dev-numbers.json")

digits = st.text("0123456789", min_size=1, max_size=40)
groups = st.integers(1, 7)
modes = st.sampled_from(["l2r", "r2l", "single"])
texts = st.text(st.sampled_from("0123456789.,- aé\n½٣"), max_size=60)
property_test = settings(max_examples=50, deadline=None)


def test_separators_stand_where_the_released_code_puts_them():
    for case in GOLDEN["chunk_with_separator"]:
        found = chunk(case["string"], case["chunk_size"], case["separator"], case["direction"])
        assert found == case["result"], case


def test_numbers_are_formatted_as_by_the_released_code():
    for case in GOLDEN["format_number"]:
        assert format_number(case["number"], case["format"], case["chunk_size"]) == case["result"]


def test_texts_are_cut_as_in_the_golden_file():
    for case in GOLDEN["pretokenize"]:
        pieces = group_digits(case["text"], case["mode"])
        assert [piece for piece, _, _ in pieces] == case["pieces"]
        assert [[start, end] for _, start, end in pieces] == case["offsets"]


def test_there_are_thirteen_formats():
    assert len(set(FORMAT_NAMES)) == 13
    assert [format_number(1234567, name) for name in ("nosep", "comma_r2l", "comma_l2r", "foo_r2l")] == [
        "1234567",
        "1,234,567",
        "123,456,7",
        "1foo234foo567",
    ]


@property_test
@given(texts, modes, groups, st.booleans(), st.sampled_from([None, "l2r"]))
def test_pieces_put_together_are_the_text(text, mode, group, unicode, fraction):
    pieces = group_digits(text, mode, group, unicode, fraction)
    assert "".join(piece for piece, _, _ in pieces) == text
    assert all(text[start:end] == piece for piece, start, end in pieces)


@property_test
@given(digits, groups)
def test_from_the_right_is_from_the_left_of_the_reversed_number(number, group):
    mirrored = [part[::-1] for part in reversed(cut(number[::-1], "l2r", group))]
    assert cut(number, "r2l", group) == mirrored


@property_test
@given(digits, groups)
def test_commas_from_the_right_force_the_groups_on_any_tokenizer(number, group):
    written = format_number(number, NumberFormat(",", "r2l", group))
    seen = [piece for piece, _, _ in group_digits(written, "l2r", group) if piece != ","]
    assert seen == cut(number, "r2l", group)


@property_test
@given(st.integers(0, 10**30))
def test_thousands_notation_is_that_of_python(number):
    assert format_number(number, "comma_r2l") == f"{number:,}"


@property_test
@given(digits, modes, groups)
def test_the_sizes_are_those_of_the_groups(number, mode, group):
    assert group_sizes(len(number), mode, group) == [len(part) for part in cut(number, mode, group)]


@property_test
@given(digits, groups)
def test_numbers_of_equal_length_have_their_places_in_the_same_groups_and_so_has_a_longer_one_from_the_right(
    number, group
):
    longer = cut("9" + number, "r2l", group)
    assert longer[1:] == cut(number, "r2l", group)[-len(longer) + 1 :] if len(longer) > 1 else True


def test_leading_zeros_are_kept():
    assert cut("0007") == ["0", "007"]
    assert format_number("0007", "comma_r2l") == "0,007"


def test_ascii_digits_are_meant_unless_unicode_is_asked_for():
    assert group_digits("٣٤٥٦") == [("٣٤٥٦", 0, 4)]
    assert [piece for piece, _, _ in group_digits("٣٤٥٦", unicode=True)] == ["٣", "٤٥٦"]


def test_fractions_are_grouped_outwards_from_the_point_when_asked():
    def pieces(**options):
        return [piece for piece, _, _ in group_digits("x1234.5678, .1234", **options)]

    assert pieces(fraction="l2r") == ["x", "1", "234", ".", "567", "8", ", .", "1", "234"]
    assert pieces() == ["x", "1", "234", ".", "5", "678", ", .", "1", "234"]


@pytest.mark.parametrize("mode", ["l2r", "r2l", "single"])
def test_a_hundred_thousand_digits_are_grouped_to_the_last(mode):
    pieces = [piece for piece, _, _ in group_digits("7" * 100_000, mode)]
    assert "".join(pieces) == "7" * 100_000
    whole = 1 if mode == "single" else 3
    shorter = [len(piece) for piece in pieces if len(piece) != whole]
    assert shorter == ([] if mode == "single" else [1])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: group_digits("1", "r2l", 0), "group must be at least 1, got 0"),
        (lambda: format_number(1, "comma_r2l", -1), "group must be at least 1, got -1"),
        (lambda: chunk("1", 0), "group must be at least 1"),
        (lambda: group_digits("1", "rtl"), "mode must be one of l2r, r2l, single, got 'rtl'"),
        (lambda: group_digits("1", fraction="r2l"), "fraction must be one of l2r, got 'r2l'"),
        (lambda: chunk("1", direction="up"), "direction must be one of l2r, r2l, got 'up'"),
        (lambda: number_format("comma"), "format must be one of nosep, comma_l2r"),
        (lambda: NumberFormat(",", "single"), "direction must be one of l2r, r2l, got 'single'"),
        (lambda: format_number(-5, "nosep"), "a number must be a non-negative integer"),
        (lambda: format_number(1.5, "nosep"), "a number must be a non-negative integer"),
        (lambda: format_number("1.5", "nosep"), "signs and fractions have no place in it"),
        (lambda: format_number("", "nosep"), "a number must be a non-negative integer"),
        (lambda: format_number(True, "nosep"), "a number must be a non-negative integer"),
        (lambda: format_number(10**5000, "nosep"), "must be given as a string of digits"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call()
