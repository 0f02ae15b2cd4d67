"""The recipe of number tokens: decoders that differ in their tokenizer alone, planted errors, and verdicts in both directions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tokenry.evaluation.arithmetic.addition import AdditionAnswer
from tokenry.evaluation.arithmetic.addition_patterns import error_patterns
from tokenry.evaluation.arithmetic.addition_problems import sample_addition, sample_problems
from tokenry.recipes import load_recipe, number_tokens
from tokenry.recipes.number_tokens import (
    PLANTED_DIGIT,
    Measured,
    Sizes,
    judge,
    plant,
    regrouping_identities,
    wrong_digits,
)
from tokenry.recipes.toys.addition_transformer import (
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


def test_the_recipe_bears_the_names_of_the_catalogue():
    assert load_recipe("number-tokens").slug == "number-tokens"


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


def test_commas_always_give_groups_from_the_right_and_nothing_does_so_for_a_third():
    found = regrouping_identities(300)
    assert found["commas"].all()
    assert 0.2 < found["plain"].mean() < 0.5


def test_planted_digits_are_wrong_and_the_others_are_right():
    first, second = sample_addition((7, 7, 8), 50).T
    for total, said in zip((first + second).tolist(), plant(first, second, 4), strict=True):
        assert [place for place, (x, y) in enumerate(zip(str(total), str(said), strict=True)) if x != y] == [
            3
        ]


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


def measured(**changed):
    first, second = sample_addition((7, 7, 8), 200).T
    given = {
        "identities": {"commas": np.ones(9, bool), "plain": np.arange(9) < 3},
        "planted": error_patterns(first, second, plant(first, second, PLANTED_DIGIT), "l2r", separated=False),
        "random": error_patterns(first, second, plant(first, second, None), "l2r", separated=False),
        "runs": {"l2r": run(60, 5, regrouped=(80, 80)), "r2l": run(95, 93), "single": run(50, 50)},
        "frozen": {"nosep": answers(50, 50), "comma_r2l": answers(80, 80)},
        "regrouping": "",
    }
    return Measured(**(given | changed))


def not_shown(**changed):
    return {number for number, claim in enumerate(judge(measured(**changed))) if claim.verdict == "not shown"}


def test_everything_can_be_shown():
    assert not_shown() == set()


def with_runs(**changed):
    return {"runs": measured().runs | changed}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"identities": {"commas": np.arange(9) > 0, "plain": np.arange(9) < 3}}, {0}),
        ({"planted": measured().random}, {1}),
        (with_runs(r2l=run(60, 5)), {2, 3, 4, 6}),
        (with_runs(l2r=run(60, 30, regrouped=(80, 80))), {3}),
        (with_runs(l2r=run(5, 5, regrouped=(80, 80))), {4, 5}),
        (with_runs(single=run(95, 93)), {6}),
        (with_runs(l2r=run(60, 5, regrouped=(20, 5))), {7}),
        ({"frozen": {"nosep": answers(50, 50), "comma_r2l": answers(50, 50)}}, {8}),
    ],
)
def test_each_claim_can_fail(changed, expected):
    assert not_shown(**changed) == expected


def test_wrong_digits_are_counted_on_the_longest_sums_only():
    shares = wrong_digits(answers(100, 0), 4)
    assert shares[-1] == 1.0
    assert len(shares) == 4
    assert np.isnan(wrong_digits(answers(100, 100), 9)).all()


def test_a_run_writes_its_plot_and_its_result(tmp_path, monkeypatch):
    monkeypatch.setitem(number_tokens.SIZES, "laptop", Sizes(setting=TINY, identities=20, planted=50))
    monkeypatch.setattr(
        number_tokens, "_frozen", lambda sizes, progress: (measured().frozen, "it reads digit by digit")
    )
    result = load_recipe("number-tokens").run("laptop", tmp_path, lambda what, share: None)
    assert (tmp_path / result.plots[0]).stat().st_size > 1000
    result.save(tmp_path / "result.json")
    assert "it reads digit by digit" in (tmp_path / "result.json").read_text()
