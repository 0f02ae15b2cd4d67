"""Sentences join to their text again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenry.core.text.sentences import sentences


@given(st.text(alphabet=st.sampled_from("aB. !?\n\t1“é。"), max_size=60))
def test_sentences_join_to_the_text(text):
    assert "".join(sentences(text)) == text
    assert all(sentences(text))


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("One. Two!  Three? ", ["One. ", "Two!  ", "Three? "]),
        ("It costs 3.50 dollars. Yes.", ["It costs 3.50 dollars. ", "Yes."]),
        ("  Only one", ["  Only one"]),
        (" \n", [" \n"]),
        ("", []),
    ],
)
def test_white_space_stays_with_the_sentence_before_it(text, cut):
    assert sentences(text) == cut
