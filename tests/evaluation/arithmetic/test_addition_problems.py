"""Addition problems: the exact law of the sampler, exact numbers of digits, and the prompts of the paper's conditions."""

import re
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_json
from tokenry.core.errors import UserError
from tokenry.core.text.digit_groups import NumberFormat, number_format
from tokenry.evaluation.arithmetic.addition_problems import (
    SIGNATURES,
    AdditionFormat,
    addition_pmf,
    addition_prompt,
    format_addition,
    sample_addition,
    sample_free_addition,
    sample_free_problems,
    sample_problems,
)

GOLDEN = golden_json("09-number-tokens", "dev-numbers.json")
LAWS = GOLDEN["sampler_law"]

signatures = st.tuples(st.integers(1, 17), st.integers(1, 17), st.booleans()).map(
    lambda drawn: (drawn[0], drawn[1], max(drawn[:2]) + drawn[2])
)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: str(law["lengths"]))
def test_probabilities_are_those_of_the_enumerated_law(law):
    for problem, probability in law["some"].items():
        first, second = map(int, problem.split("+"))
        assert addition_pmf(law["lengths"], first, second) == pytest.approx(probability, abs=1e-12)


@pytest.mark.parametrize("law", [law for law in LAWS if law["support_size"] < 1000], ids=str)
def test_probabilities_sum_to_one(law):
    ranges = [range(10 ** (length - 1), 10**length) for length in law["lengths"][:2]]
    found = [addition_pmf(law["lengths"], first, second) for first, second in product(*ranges)]
    assert sum(found) == pytest.approx(1.0, abs=1e-9)
    assert sum(probability > 0 for probability in found) == law["support_size"]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: str(law["lengths"]))
def test_the_means_of_drawn_problems_are_those_of_the_law(law):
    drawn = sample_addition(law["lengths"], 50_000, seed=1)
    for values, name in ((drawn[:, 0], "mean_num1"), (drawn[:, 1], "mean_num2"), (drawn.sum(1), "mean_sum")):
        error = values.std() / len(values) ** 0.5
        assert abs(values.mean() - law[name]) < 5 * error + 1e-9


def test_drawn_frequencies_are_the_probabilities():
    drawn = sample_addition((1, 1, 2), 60_000)
    for first, second in product(range(1, 10), repeat=2):
        expected = addition_pmf((1, 1, 2), first, second)
        seen = float(((drawn == (first, second)).all(1)).mean())
        assert abs(seen - expected) < 5 * (expected / 60_000) ** 0.5 + 1e-12


@settings(max_examples=50, deadline=None)
@given(signatures, st.integers(0, 1000))
def test_lengths_are_exact(signature, seed):
    for first, second in sample_addition(signature, 20, seed).tolist():
        assert (len(str(first)), len(str(second)), len(str(first + second))) == signature


def test_the_signatures_of_the_paper_are_thirteen_and_possible():
    assert len(set(SIGNATURES)) == 13
    assert all(len(sample_addition(signature, 3)) == 3 for signature in SIGNATURES)


def test_free_problems_take_all_pairs_of_lengths_in_turn():
    drawn = sample_free_addition(18, (7, 8, 9), seed=3)
    lengths = [(len(str(first)), len(str(second))) for first, second in drawn.tolist()]
    assert lengths == list(product((7, 8, 9), repeat=2)) * 2


def test_shots_have_the_signature_of_their_problem_and_never_are_it():
    drawn = sample_problems([(1, 1, 2), (2, 1, 2)], 50, 4, seed=0)
    assert drawn.problems.shape == (100, 2)
    assert drawn.shots.shape == (100, 4, 2)
    for problem, shots, signature in zip(drawn.problems, drawn.shots, drawn.signatures, strict=True):
        assert not (shots == problem).all(1).any()
        for first, second in [problem.tolist(), *shots.tolist()]:
            assert (len(str(first)), len(str(second)), len(str(first + second))) == signature


def test_more_shots_leave_problems_and_first_shots_as_they_are():
    few, many = (sample_problems(SIGNATURES[:3], 5, shots, seed=7) for shots in (2, 8))
    assert (few.problems == many.problems).all()
    assert (few.shots == many.shots[:, :2]).all()


def test_another_seed_draws_others():
    one, other = (sample_problems(SIGNATURES, 2, 1, seed=seed) for seed in (0, 1))
    assert not (one.problems == other.problems).all()


def test_free_shots_have_the_addend_lengths_of_their_problem():
    drawn = sample_free_problems(9, 2, seed=0)
    digits = np.vectorize(lambda number: len(str(number)))
    assert (digits(drawn.shots) == digits(drawn.problems)[:, None]).all()
    assert drawn.signatures[0][2] == len(str(drawn.problems[0].sum()))


def test_questions_are_written_as_by_the_released_code():
    for case in GOLDEN["format_problem"]:
        found = format_addition(
            case["a"], case["b"], case["num_spaces"], case["num_trailing_spaces"], case["with_equals"]
        )
        assert found == case["result"]


def test_a_prompt_is_system_message_solved_problems_and_the_problem():
    assert addition_prompt((1234, 5), [(999, 1)], "comma_r2l") == [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "999+1="},
        {"role": "assistant", "content": "1,000"},
        {"role": "user", "content": "1,234+5="},
    ]


def test_spaces_stand_in_for_the_extra_tokens_of_separators():
    assert addition_prompt((12, 34), spaces=2)[-1]["content"] == "12  +  34  ="
    thinking = AdditionFormat(number_format("nosep"), trailing_spaces=2)
    assert addition_prompt((12, 34), fmt=thinking)[-1]["content"] == "12+34=  "


def test_questions_and_answers_can_be_written_differently():
    mixed = AdditionFormat(number_format("comma_l2r"), answer=number_format("comma_r2l"), system=None)
    assert [message["content"] for message in addition_prompt((1, 2), [(1234, 4321)], mixed)] == [
        "123,4+432,1=",
        "5,555",
        "1+2=",
    ]


def test_the_answer_can_first_repeat_the_question_in_another_format():
    repeating = AdditionFormat(number_format("nosep"), number_format("comma_r2l"), number_format("comma_r2l"))
    assert addition_prompt((1, 2), [(1234, 4321)], repeating)[2]["content"] == "1,234+4,321=5,555"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sample_addition((7, 7, 9), 1), "no addition has the signature (7, 7, 9)"),
        (lambda: sample_addition((7, 8, 7), 1), "no addition has the signature (7, 8, 7)"),
        (lambda: sample_addition((0, 1, 1), 1), "lengths of a signature must be at least 1, got (0, 1, 1)"),
        (lambda: sample_addition((1, 1), 1), "a signature is three lengths"),
        (lambda: sample_addition((18, 1, 18), 1), "addends have at most 17 digits here"),
        (lambda: sample_addition((1, 1, 1), -1), "n must be at least 0, got -1"),
        (lambda: addition_pmf((1, 1, 1), -1, 2), "a number must be a non-negative integer"),
        (lambda: sample_free_addition(3, (0,)), "the lengths of addends must be from 1 to 17, got (0)"),
        (lambda: sample_problems([], 1, 1), "there is no signature"),
        (lambda: sample_problems(SIGNATURES, 0, 1), "per_signature must be at least 1, got 0"),
        (lambda: addition_prompt((1, 2), fmt="comma"), "format must be one of nosep"),
        (lambda: addition_prompt((1.5, 2)), "a number must be a non-negative integer"),
        (lambda: addition_prompt((1, -2)), "a number must be a non-negative integer"),
        (lambda: AdditionFormat(NumberFormat(), spaces=-1), "spaces must be at least 0, got -1"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call()
