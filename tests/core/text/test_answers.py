"""Answers found and compared: to the letter as the authors' code does, and as numbers."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.golden import golden_json
from tokenry.core.errors import UserError
from tokenry.core.text.answers import as_number, boxed_answer, equal_answers, final_answer, last_number_text
from tokenry.core.text.math_v2 import math_v2_answer, math_v2_equal

GOLDEN = golden_json("17-sift", "dev-sift.json")


@pytest.mark.parametrize("case", GOLDEN["extract"], ids=lambda case: case["text"][:24])
def test_golden_answers_are_found(case):
    assert boxed_answer(case["text"]) == case["boxed"]
    assert math_v2_answer(case["text"]) == case["answer"]
    assert (last_number_text(case["text"]) or "NULL") == case["last_number"]


@pytest.mark.parametrize("case", GOLDEN["equal"], ids=lambda case: f"{case['a']} {case['b']}")
def test_golden_answers_are_equal_by_notation(case):
    assert math_v2_equal(case["a"], case["b"]) is case["equal"]
    assert math_v2_equal(case["b"], case["a"]) is case["equal"]
    assert equal_answers(case["a"], case["b"], "math_v2") is case["equal"]


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("x/y", "x/y ", True),  # a slash between letters is compared as words only
        ("3/x", "\\frac3x", False),
        ("01/2", "\\frac{1}{2}", False),
        ("\\frac", "\\frac", True),
        ("\\frac1", "\\frac{1}", False),
        ("\\frac1{72}", "\\frac{1}{72}", True),
        ("5\\text{ miles}", "5", True),
        ("\\text{A}", "A", True),
        ("infinity", "\\infty", True),
        ("2+3j", "2+3i", True),
        ("ab=5", "5", True),
        ("abc=5", "5", False),
        ("7.000", "7", True),
        ("\\mbox{m}3", "3", True),
        ("10:00 am", "10", True),
        ("Sam", "S", True),
    ],
)
def test_notation_is_compared_as_the_authors_do(one, other, equal):
    assert math_v2_equal(one, other) is equal


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("7", 7),
        ("-3.50", Fraction(-7, 2)),
        (".5", Fraction(1, 2)),
        ("1,250", 1250),
        ("$1,000.25", Fraction(400_100, 400)),
        ("1/2", Fraction(1, 2)),
        ("-\\frac{7}{2}", Fraction(-7, 2)),
        ("\\frac{-7}{2}", Fraction(-7, 2)),
        ("\\dfrac12", Fraction(1, 2)),
        ("1\\frac{1}{2}", Fraction(3, 2)),
        ("12 dollars", 12),
        ("12\\text{ cm}", 12),
        ("50\\%", 50),
        ("90^\\circ", 90),
        ("x = 5", 5),
        ("3 \\times 10^{4}", 30_000),
        ("−4", -4),
        ("1/0", None),
        ("5x", None),
        ("2pi", None),
        ("2\\pi", None),
        ("seven", None),
        ("(1, 2)", None),
        ("", None),
    ],
)
def test_numbers_are_read_exactly(answer, value):
    assert as_number(answer) == value


@given(top=st.integers(-999, 999), bottom=st.integers(1, 99), factor=st.integers(1, 9))
def test_one_number_in_many_notations_is_one_answer(top, bottom, factor):
    sign, size = "-" if top < 0 else "", abs(top)
    forms = [
        f"{top}/{bottom}",
        f"{sign}\\frac{{{size}}}{{{bottom}}}",
        f"{top * factor}/{bottom * factor} km",
        f"$x={top}/{bottom}$",
    ]
    assert all(equal_answers(one, other) for one in forms for other in forms)
    assert not any(equal_answers(one, f"{top + 1}/{bottom}") for one in forms)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("0.5", "\\frac12", True),
        ("2/4", "1/2", True),
        ("7", "seven", False),
        ("\\sqrt2", "\\sqrt{2}", True),
        (None, None, False),
        ("", "", False),
        (" ", "5", False),
        ("5x", "5", False),
    ],
)
def test_numbers_are_compared_as_numbers_and_other_answers_by_notation(one, other, equal):
    assert equal_answers(one, other) is equal


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So \\boxed{2}, no, \\boxed{\\frac{3}{4}}.", "\\frac{3}{4}"),
        ("The answer is 3.5. Thanks.", "3.5"),
        ("The final answer: 1,250 dollars. ok", "1,250 dollars"),
        ("It is 3 and then 4/5 of it", "4/5"),
        ("Nothing here", None),
        ("An empty \\boxed{} and 7", "7"),
    ],
)
def test_the_final_answer_is_found(text, answer):
    assert final_answer(text) == answer


def test_another_equality_is_refused():
    with pytest.raises(UserError, match="equality must be one of numeric, math_v2, got 'sympy'"):
        equal_answers("1", "1", "sympy")
