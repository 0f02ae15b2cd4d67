"""The recipe of number tokens: decoders that differ in their tokenizer alone, planted errors, and verdicts in both directions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.recipes.check_recipe import check_recipe
from tokenry.evaluation.arithmetic.addition import AdditionAnswer
from tokenry.evaluation.arithmetic.addition_problems import sample_problems
from tokenry.recipes import number_tokens
from tokenry.recipes.number_tokens import AdditionSizes, frozen_claim, training_claims, wrong_digits
from tokenry.recipes.testbeds.addition_transformer import (
    AdditionRun,
    AdditionSetting,
    addition_model,
    addition_tokenizer,
    held_out_problems,
    learn_addition,
    training_problems,
)

TINY = AdditionSetting(
    steps=3, batch_size=8, width=16, layers=1, heads=2, training_problems=90, test_problems=45
)


def test_the_tokenizers_share_a_vocabulary_of_114_tokens_and_differ_in_their_cuts():
    tokenizers = {mode: addition_tokenizer(mode) for mode in ("l2r", "r2l", "single")}
    assert {len(tokenizer) for tokenizer in tokenizers.values()} == {114}
    assert [tokenizer.tokenize("123+4567=") for tokenizer in tokenizers.values()] == [
        ["12", "3", "+", "45", "67", "="],
        ["1", "23", "+", "45", "67", "="],
        [*"123+4567="],
    ]


def test_decoders_start_from_the_same_weights():
    one, other = (addition_model(TINY, 114, seed=0).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_no_test_problem_is_trained_on():
    setting = replace(TINY, lengths=(1, 2), training_problems=400, test_problems=400)
    seen = {tuple(problem) for problem in training_problems(setting, 0).tolist()}
    fresh = held_out_problems(setting, 0)
    assert 0 < len(fresh.problems) < 400
    assert not seen & {tuple(problem) for problem in fresh.problems.tolist()}
    assert len(fresh.problems) == len(fresh.signatures)


def test_a_decoder_learns_from_answers_and_is_asked_in_its_own_groups_and_in_others():
    run = learn_addition("l2r", TINY, 0, regroup="r2l")
    assert len(run.losses) == 3
    assert np.isfinite(run.losses).all()
    assert len(run.answers) == len(run.regrouped) == len(held_out_problems(TINY, 0).problems)


def test_learning_goes_down_on_the_easiest_problems():
    easy = replace(TINY, steps=150, lengths=(1,), learning_rate=1e-2, batch_size=32, width=32)
    run = learn_addition("single", easy, 0)
    assert np.mean(run.losses[-10:]) < 0.5 * np.mean(run.losses[:10])


# --- verdicts ------------------------------------------------------------------------------------------------------------------------


def answers(match, mismatch, number=400):
    """So many of 100 right, in turn; half of the problems are of either length."""
    asked = sample_problems([(3, 3, 3), (3, 3, 4)], number // 2, 0)
    made = []
    for row, ((first, second), signature) in enumerate(
        zip(asked.problems.tolist(), asked.signatures, strict=True)
    ):
        share = match if signature[2] == 3 else mismatch
        right = (row // 2 * 37) % 100 < share
        made.append(
            AdditionAnswer(
                first, second, "", "", 0, "match" if signature[2] == 3 else "mismatch", "",
                first + second - (not right), True, False, False, True, right, right,
            )
        )  # fmt: skip
    return tuple(made)


def run(match, mismatch, regrouped=(0, 0)):
    return AdditionRun((1.0,) * 30, answers(match, mismatch), answers(*regrouped))


RUNS = {"l2r": run(60, 5), "r2l": run(95, 93), "single": run(50, 50)}


def verdicts(**changed):
    return [claim.verdict for claim in training_claims(RUNS | changed)]


def test_everything_can_be_shown():
    assert verdicts() == ["shown"] * 5
    assert frozen_claim({"nosep": answers(50, 50), "comma_r2l": answers(80, 80)}).verdict == "shown"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"r2l": run(60, 5)}, ["not shown", "not shown", "not shown", "shown", "opposite"]),
        ({"l2r": run(60, 30)}, ["shown", "not shown", "shown", "shown", "shown"]),
        ({"l2r": run(5, 5)}, ["shown", "shown", "not shown", "not shown", "shown"]),
        ({"l2r": run(97, 97)}, ["opposite", "opposite", "not shown", "not shown", "shown"]),
        ({"single": run(95, 93)}, ["shown", "shown", "shown", "shown", "not shown"]),
    ],
)
def test_each_claim_can_fail(changed, expected):
    assert verdicts(**changed) == expected


def test_a_format_that_makes_no_difference_is_not_shown_to():
    same = {"nosep": answers(50, 50), "comma_r2l": answers(50, 50)}
    assert frozen_claim(same).verdict == "not shown"
    assert frozen_claim({name: each[:6] for name, each in same.items()}).verdict == "too few"


def test_wrong_digits_are_counted_on_the_longest_sums_only():
    shares = wrong_digits(answers(100, 0), 4)
    assert shares[-1] == 1.0
    assert len(shares) == 4
    assert np.isnan(wrong_digits(answers(100, 100), 9)).all()


def test_a_run_writes_its_plot_and_its_result(tmp_path, monkeypatch):
    frozen = {"nosep": answers(50, 50), "comma_r2l": answers(80, 80)}
    monkeypatch.setattr(number_tokens, "_frozen", lambda sizes, progress: (frozen, "it reads digit by digit"))
    result = check_recipe("number-tokens", AdditionSizes(setting=TINY), tmp_path)
    assert len(result.claims) == 6
    assert "it reads digit by digit" in (tmp_path / "result.json").read_text()
