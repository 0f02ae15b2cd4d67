"""Error analysis: the released code's fields, an analysis one answer at a time in strings, and numbers it could not take."""

import re
from itertools import zip_longest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_json
from tokenry.core.errors import UserError
from tokenry.core.text.digit_groups import cut
from tokenry.evaluation.arithmetic.addition_errors import analyze_errors

GOLDEN = golden_json("09-number-tokens", "dev-numbers.json")
CASES = [case for case in GOLDEN["analyze"] if case["error"]]
KINDS = sorted({(case["tokenize_dir"], case["number_format"] != "nosep") for case in CASES})


def listed(value):
    """A field of one answer, without the padding of shorter rows."""
    return [entry for entry in value.tolist() if entry != -1] if value.ndim else value.item()


def one(first, second, answer, mode="r2l", group=3, separated=True):
    found = analyze_errors([first], [second], [answer], mode, group, separated)
    return {name: values[0] for name, values in found.items()}


@pytest.mark.parametrize(("mode", "separated"), KINDS)
@pytest.mark.parametrize(
    "beside",
    [[], [10**19], [10**40]],
    ids=["machine integers", "unsigned machine integers", "longer than machine integers"],
)
def test_fields_are_those_of_the_released_code(mode, separated, beside):
    cases = [c for c in CASES if (c["tokenize_dir"], c["number_format"] != "nosep") == (mode, separated)]
    found = analyze_errors(
        [case["num1"] for case in cases] + beside,
        [case["num2"] for case in cases] + beside,
        [case["post"]["answer"] for case in cases] + beside,
        mode,
        separated=separated,
    )
    assert ("left_chunked_error" in found) == separated
    same = ("true_answer", "len1", "len2", "len_true_ans", "len_match", "len_match_both", "num_carries")
    for row, case in enumerate(cases):
        expected = case["error"] | {"carries": case["carries"]}
        expected |= {name: case["post"][name] for name in (*same, "max_carry_chain")}
        for name, value in expected.items():
            # An object array holds Python integers, which have no `item`.
            got = found[name][row]
            assert (listed(got) if hasattr(got, "ndim") else got) == value, (name, case)


def slow(first, second, answer, mode, group):
    """The same in strings, one answer at a time; written independently."""
    a, b, c, t = (str(number) for number in (first, second, answer, first + second))
    width = max(map(len, (a, b, c, t)))
    carries, carry = [], 0
    for x, y in zip(a.zfill(width)[::-1], b.zfill(width)[::-1], strict=True):
        carry = int(int(x) + int(y) + carry > 9)
        carries.append(carry)
    errors = [abs(int(x) - int(y)) for x, y in zip(c.zfill(width), t.zfill(width), strict=True)][-len(c) :]
    parts = cut(c, mode, group)
    places = [len(c) - 1 - i for i, error in enumerate(errors) if error]
    shorter, longer = sorted((a, b), key=len)
    return {
        "carries": carries[: max(len(a), len(b))][::-1],
        "max_carry_chain": max(map(len, re.findall("1*", "".join(map(str, carries))))),
        "digit_error_mag": errors,
        "token_sizes": [len(part) for part in parts for _ in part],
        "digit_within_token": [place + 1 for part in parts for place in range(len(part))],
        "token_id": [number + 1 for number, part in enumerate(parts) for _ in part],
        "token_error": [
            any(errors[len("".join(parts[:n])) : len("".join(parts[: n + 1]))]) for n in range(len(parts))
        ],
        "only_off_by_one": str(abs(answer - first - second)).strip("0") == "1",
        "num_carry_out_errors": sum(carries[place] for place in places),
        "num_carry_in_errors": sum(carries[place - 1] for place in places if place),
        "dropped_digit_error": any(
            int(x[:i] + x[i + 1 :]) + other == answer
            for x, other in ((a, second), (b, first))
            for i in range(len(x))
            if len(x) > 1
        ),
        "left_alignment_error": len(a) != len(b)
        and int(shorter.ljust(len(longer), "0")) + int(longer) == answer,
        "left_chunked_error": joined(cut(a, mode, group), cut(b, mode, group)) == c,
        "right_chunked_error": joined(cut(a, mode, group)[::-1], cut(b, mode, group)[::-1], -1) == c,
    }


def joined(one, other, step=1):
    sums = [str(int(x) + int(y)) for x, y in zip_longest(one, other, fillvalue="0")]
    return "".join(sums[::step])


numbers = st.integers(0, 10**12) | st.integers(0, 999) | st.integers(10**15, 10**20)


@settings(max_examples=200, deadline=None)
@given(
    numbers,
    numbers,
    st.one_of(
        numbers,
        st.integers(-3, 3),
        st.sampled_from(["dropped", "left", "chunked", "power"]),
    ),
    st.sampled_from(["l2r", "r2l", "single"]),
    st.integers(1, 4),
    st.integers(0, 12),
)
def test_any_answer_is_analysed_as_one_answer_at_a_time(first, second, kind, mode, group, place):
    a, b = str(first), str(second)
    answer = {
        "dropped": lambda: int(a[: place % len(a)] + a[place % len(a) + 1 :] or 0) + second,
        "left": lambda: int(a.ljust(len(b), "0")) + int(b.ljust(len(a), "0")),
        "chunked": lambda: int(joined(cut(a, mode, group), cut(b, mode, group))),
        "power": lambda: first + second + 10**place,
    }.get(kind, lambda: kind if kind > 3 else max(0, first + second + kind))()
    found = one(first, second, answer, mode, group)
    for name, value in slow(first, second, answer, mode, group).items():
        got = found[name]
        assert (listed(got) if getattr(got, "ndim", 0) else got) == value, name


def test_a_row_does_not_depend_on_the_others():
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 10 ** rng.integers(1, 9, 200)) for _ in range(2))
    answers = first + second + rng.integers(0, 2, 200) * 10 ** rng.integers(0, 8, 200)
    together = analyze_errors(first, second, answers)
    for row in range(0, 200, 17):
        alone = one(first[row], second[row], answers[row])
        for name, value in alone.items():
            got = together[name][row]
            assert listed(got) == listed(value) if value.ndim else got == value


def test_one_digit_addends_and_nought_are_analysed():
    found = one(0, 0, 0)
    assert (found["len1"], found["len_ans"], found["dropped_digit_error"]) == (1, 1, False)
    assert not one(5, 5, 5)["dropped_digit_error"]
    assert one(5, 95, 0)["digit_error_mag"].tolist() == [0]


def test_a_dropped_digit_is_not_a_right_answer():
    assert not one(1234, 77, 1311)["dropped_digit_error"]
    assert one(1234, 77, 234 + 77)["dropped_digit_error"]


def test_no_answers_have_no_rows():
    assert all(len(values) == 0 for values in analyze_errors([], [], []).values())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: one(1, 2, -1), "must be non-negative integers: leave out answers without a number (-1)"),
        (lambda: analyze_errors(np.array([1.5]), [2], [3]), "must be non-negative integers"),
        (lambda: analyze_errors([1], [2, 3], [3]), "must be three lists of one length, got (1,), (2,), (1,)"),
        (lambda: one(1, 2, 3, "rtl"), "mode must be one of l2r, r2l, single, got 'rtl'"),
        (lambda: one(1, 2, 3, "r2l", 0), "group must be at least 1, got 0"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call()
