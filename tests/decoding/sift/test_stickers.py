"""Stickers: cut out as the authors' code does, read into conditions and a question, and checked for numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.golden import golden_json
from tokenry.decoding import SIFTPrompts, clean_sticker, missing_numbers, parse_sticker
from tokenry.decoding.sift.prompts import CONDITIONS, GENERATE, INVERT, OPTIMISE, QUESTION

GOLDEN = golden_json("17-sift", "dev-sift.json")


@pytest.mark.parametrize("case", GOLDEN["clean"], ids=lambda case: case["raw"][:16])
def test_golden_stickers_are_cut_out(case):
    assert clean_sticker(case["raw"]) == case["sticker"]


@given(st.text(alphabet="`*1. \nab") | st.just(CONDITIONS) | st.just(f"a{CONDITIONS}\n1. b\n```c"))
def test_a_clean_sticker_stays_as_it_is(text):
    assert clean_sticker(clean_sticker(text)) == clean_sticker(text)


def test_conditions_and_question_are_read():
    sticker = parse_sticker(
        f"Here:\n{CONDITIONS}\n1. A has 3.\n2) B has 4.\n- C has 10.\n\n{QUESTION}\nHow many?\n"
    )
    assert sticker.conditions == ("A has 3.", "B has 4.", "C has 10.")
    assert sticker.question == "How many?"
    assert sticker.is_complete


@pytest.mark.parametrize("text", ["I cannot do this", f"{CONDITIONS}\n1. a", f"{QUESTION}\nHow many?", ""])
def test_a_text_without_both_headings_is_used_raw_and_flagged(text):
    sticker = parse_sticker(text)
    assert (sticker.conditions, sticker.question, sticker.is_complete) == ((), "", False)
    assert sticker.text == sticker.raw == text


@pytest.mark.parametrize(("query", "sticker", "missing"), [
    ("Ann has 3 pears and 4 figs.", "1. Ann has 3 pears.\n2. She has 4 figs.", ()),
    ("Ann has 3 pears and 4 figs.", "1. Ann has 3 pears.", ("4",)),
    ("Ann has 3 pears and 1 fig.", "1. Ann has 3 pears.\n2. She has a fig.", ("1",)),
    ("Ann has 3 pears.", "3. Ann has pears.", ("3",)),
    ("It costs 1,250.50 dollars.", "The price is 1250.5", ()),
    ("Half of it, 0.5 litres", "1/2 of it", ()),
    (r"\frac{1}{2} of 30 %", "0.5 of 30%.", ()),
    ("twelve eggs and twenty-five cups", "12 eggs", ("twenty-five",)),
    ("12 eggs", "Twelve eggs", ()),
    ("One of them has 2 cups.", "2 cups", ()),
    ("one cup and 1 plate", "a cup and a plate", ("1",)),
    ("2 plus 2 is 4", "2 and 4", ()),
    ("no number at all", "", ()),
])  # fmt: skip
def test_numbers_of_the_query_that_the_sticker_lacks(query, sticker, missing):
    assert missing_numbers(query, sticker) == missing


@given(st.lists(st.integers(0, 10**6), max_size=6))
def test_a_text_has_all_of_its_own_numbers(numbers):
    text = " and ".join(map(str, numbers))
    assert missing_numbers(text, f"1. {text}") == ()
    assert set(missing_numbers(text, "")) == set(map(str, numbers))


def test_prompts_hold_what_they_must_and_are_filled_once():
    for template, slots in (
        (GENERATE, ("{query}",)),
        (OPTIMISE, ("{query}", "{sticker}")),
        (INVERT, ("{prediction}",)),
    ):
        assert all(template.count(slot) == 1 for slot in slots)
        assert template.count(CONDITIONS) == template.count(QUESTION) == 2, "the form and an example"
    prompts = SIFTPrompts(chat=False)
    assert prompts.prompt("FO", "{sticker}", "{query}").count("{sticker}") == 1
    assert "the query" not in prompts.prompt("IG", "the query", "reasoning")
    assert "the query" not in prompts.prompt("P_S", "the query", "sticker")
    assert prompts.prompt("P_QS", "the query", "sticker").startswith(
        "the query\n\nsticker\n\nReason step by step"
    )
    (message,) = SIFTPrompts().prompt("P_Q", "the query")
    assert message["role"] == "user"
    assert r"\boxed{}" in message["content"]
