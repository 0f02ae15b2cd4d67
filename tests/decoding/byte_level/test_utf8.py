"""Unfinished characters, against Python's own UTF-8."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenry.core.errors import UserError
from tokenry.decoding.byte_level.utf8 import as_bytes, code_points, missing_bytes, split_unfinished


@given(st.characters(exclude_categories=["Cs"]), st.data())
def test_a_character_is_among_those_that_its_first_bytes_can_become(character, data):
    encoded = character.encode()
    begun = encoded[: data.draw(st.integers(0, len(encoded) - 1))]
    if begun:
        points = code_points(begun)
        assert ord(character) in points
        assert all(chr(point).encode().startswith(begun) for point in (points[0], points[-1]))
        assert missing_bytes(begun) == len(encoded) - len(begun)


@pytest.mark.parametrize(
    "begun", [b"", b"a", b"\x80", b"\xc0", b"\xed\xa0", b"\xf4\x90", b"\xf5", b"\xc3\x28", "é".encode()]
)
def test_what_begins_no_character_can_become_none(begun):
    assert len(code_points(begun)) == 0


def test_surrogates_are_no_characters():
    assert code_points(b"\xed") == range(0xD000, 0xD800)


@given(st.text(min_size=1), st.data())
def test_what_is_cut_off_is_the_unfinished_character(text, data):
    encoded = text.encode()
    cut = encoded[: data.draw(st.integers(0, len(encoded)))]
    whole, begun = split_unfinished(cut)
    assert whole + begun == cut
    assert text.startswith(whole.decode())
    assert len(begun) <= 3


def test_bytes_stay_and_characters_become_bytes():
    assert as_bytes(b"\xff") == b"\xff"
    assert as_bytes("é") == b"\xc3\xa9"
    assert as_bytes("a\N{REPLACEMENT CHARACTER}b") == "a\N{REPLACEMENT CHARACTER}b".encode()
    with pytest.raises(UserError, match="give bytes"):
        as_bytes("a\udcc3")
