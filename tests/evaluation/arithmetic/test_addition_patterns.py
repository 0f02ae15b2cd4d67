"""Patterns of errors: planted ones are found where they were planted, random ones stay at the level of chance."""

import re

import numpy as np
import pytest

from tokenry.core.errors import UserError
from tokenry.core.text.number_tokens import all_numbers
from tokenry.evaluation.arithmetic.addition_patterns import ErrorPattern, error_patterns, token_rank_patterns
from tokenry.evaluation.arithmetic.addition_problems import sample_addition


def problems(number=400, signature=(7, 7, 8)):
    return sample_addition(signature, number).T


def with_wrong_digit(first, second, place_from_left, seed=0):
    """Sums in which one digit is another, drawn at random; where no place is given, that is drawn too."""
    rng = np.random.default_rng(seed)
    answers = []
    for total in (first + second).tolist():
        digits = [*str(total)]
        place = rng.integers(len(digits)) if place_from_left is None else place_from_left - 1
        others = [digit for digit in "123456789" if digit != digits[place]]
        digits[place] = others[rng.integers(len(others))]
        answers.append(int("".join(digits)))
    return answers


def by_name(patterns):
    return {pattern.pattern: pattern for pattern in patterns}


def test_a_planted_error_is_found_at_its_digit_and_token():
    first, second = problems()
    found = by_name(error_patterns(first, second, with_wrong_digit(first, second, 4), "l2r", 3, False))
    assert found["only digit 4 wrong"].share == 1.0
    assert found["digit 5 wrong"].count == 0
    assert found["a single wrong digit, the first of its token"].share == 1.0
    assert found["only digit 4 wrong"].chance == pytest.approx(1 / 8, abs=0.02)


def test_random_errors_stay_at_chance():
    first, second = problems(2000)
    for pattern in error_patterns(first, second, with_wrong_digit(first, second, None), "l2r", 3, False)[1:]:
        if pattern.chance is None:
            assert pattern.share == 1.0
            continue
        error = max(1e-3, (pattern.share * (1 - pattern.share) / pattern.of) ** 0.5)
        assert abs(pattern.share - pattern.chance) < 5 * error + 0.01, pattern


def test_answers_of_another_length_are_counted_apart():
    first, second = problems(10)
    answers = (first + second) * 10
    (only,) = error_patterns(first, second, answers)
    assert (only.pattern, only.share) == ("the wrong number of digits (of all errors)", 1.0)


def test_a_long_answer_beside_the_others_adds_no_digits():
    first, second = problems(10)
    answers = with_wrong_digit(first, second, 4)
    beside = error_patterns([*first, 1], [*second, 1], [*answers, 10**12], separated=False)
    assert by_name(beside).keys() == by_name(error_patterns(first, second, answers, separated=False)).keys()


def test_without_errors_there_is_no_pattern():
    first, second = problems(10)
    assert error_patterns(first, second, first + second) == []
    assert token_rank_patterns(first, second, first + second, {}) == []


def test_the_interval_is_that_of_the_bootstrap():
    flags = np.arange(200) < 60
    exact = ErrorPattern.of_flags("some", flags, 0.9)
    shares = np.random.default_rng(0).choice(flags, size=(10_000, 200)).mean(axis=1)
    assert (exact.low, exact.high) == pytest.approx(tuple(np.percentile(shares, [5, 95])), abs=0.006)


def ranks(order):
    """Ids of the numbers of up to 3 digits, so that the numbers of 3 digits come in a given order."""
    numbers = [*all_numbers(2)] + [f"{number:03d}" for number in order]
    return {number: place for place, number in enumerate(numbers)}


def test_wrong_tokens_that_are_always_the_most_frequent_are_seen():
    first, second = problems(300)
    total = first + second
    frequent = np.where(total // 100 % 1000 == 500, 501, 500)
    answers = total + (frequent - total // 100 % 1000) * 100
    order = [500, 501, *(number for number in range(1000) if number not in (500, 501))]
    found = token_rank_patterns(first, second, answers, ranks(order))
    assert [pattern.chance for pattern in found] == [1 / 2, 1 / 3, 1 / 10]
    assert found[0].of == 300
    assert found[0].share == 1.0
    assert found[2].share == 1.0


def test_with_random_frequencies_wrong_tokens_are_at_chance():
    first, second = problems(4000)
    answers = with_wrong_digit(first, second, None)
    order = np.random.default_rng(0).permutation(1000).tolist()
    table = ranks(order) | {
        number: place
        for place, number in enumerate(np.random.default_rng(1).permutation([*all_numbers(2)]).tolist())
    }
    for pattern in token_rank_patterns(first, second, answers, table):
        assert pattern.share == pytest.approx(pattern.chance, abs=0.06), pattern


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: error_patterns([1], [2], [4], confidence=1.0),
            "confidence must be between 0 and 1, got 1.0",
        ),
        (lambda: error_patterns([1], [2], [-1]), "leave out answers without a number"),
        (lambda: token_rank_patterns([1], [2], [4], {"1": 0}), "9 numbers of 1 digits have no rank (0, …)"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call()
