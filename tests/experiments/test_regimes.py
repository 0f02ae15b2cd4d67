"""The map of regimes: what is run first, what is compared with what, and the noise that is put into answers."""

import sys
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))
import mixture
import regimes

sys.path.pop(0)

PAIRS = [("a?", "One. Two! Three? Four."), ("b?", "No"), ("c?", "First line.\nSecond 12 line.")] * 20
SENTENCES = [f"Off-topic sentence number {number}." for number in range(400)]


def _run(regime, weighing, seed, nll, accuracy=0.5):
    parts = {"gsm8k": nll, "t0": nll, "self_instruct": nll, "retained": 3.0}
    return {"regime": regime, "weighing": weighing, "seed": seed, "nll": parts, "accuracy": accuracy}


def test_control_and_sstoken_of_every_regime_come_before_the_other_weighings():
    cells = list(regimes.cells(seeds=3))
    assert len(set(cells)) == len(cells) == 3 * len(regimes.REGIMES) * len(regimes.WEIGHINGS)
    assert [cell.weighing for cell in cells[:3]] == ["full", "ssToken", "random"]
    first = cells[: 9 * len(regimes.REGIMES)]
    assert {cell.regime for cell in first} == set(regimes.REGIMES)
    assert {cell.weighing for cell in first} == {"full", "ssToken", "random"}


def test_every_regime_differs_from_the_middle_in_one_factor():
    for regime in regimes.REGIMES.values():
        changed = [name for name, value in vars(regime).items() if value != getattr(regimes.MIDDLE, name)]
        assert len(changed) <= 1


def test_a_cell_is_compared_with_the_control_of_its_own_seeds_and_what_was_not_run_is_empty():
    runs = [_run("middle", "full", seed, 1.0 + seed) for seed in range(3)]
    runs += [_run("middle", "ssToken", seed, 1.1 + seed + 0.01 * seed) for seed in range(3)]
    runs += [_run("no noise", "ssToken", 0, 1.0)]
    cells = {(cell["regime"], cell["weighing"]): cell for cell in regimes.make_map(runs)}
    found = cells["middle", "ssToken"]
    assert found["seeds"] == 3
    assert found["task NLL"]["difference"] == pytest.approx(0.11)
    assert found["task NLL"]["low"] < 0.11 < found["task NLL"]["high"] < 0.2
    assert cells["no noise", "ssToken"]["task NLL"] is None  # its control was not run
    assert cells["no noise", "random"]["seeds"] == 0


def test_regimes_and_weighings_may_be_added_to_a_stored_map_but_not_changed():
    stored = {
        "model": "m",
        "sizes": {},
        "dtype": "float32",
        "regimes": {"a": 1},
        "weighings": {"full": "full"},
    }
    assert regimes._goes_on(stored, {**stored, "regimes": {"a": 1, "b": 2}})
    assert not regimes._goes_on(stored, {**stored, "regimes": {"a": 2}})
    assert not regimes._goes_on(stored, {**stored, "model": "other"})


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_off_topic_sentences_are_a_share_of_the_characters_and_the_answers_stay_whole(share):
    noisy = mixture._with_sentences(PAIRS, share, SENTENCES, False, Random(0))
    clean = sum(len(answer) for _, answer in PAIRS)
    whole = sum(len(answer) for _, answer in noisy)
    assert 1 - clean / whole == pytest.approx(share, abs=0.05)
    for (_, before), (_, after) in zip(PAIRS, noisy, strict=True):
        for sentence in SENTENCES:
            after = after.replace(f"{sentence} ", "").replace(sentence, "")
        assert after.strip() == before


def test_wrong_facts_are_those_of_other_answers():
    answer = "Tim has 12 apples and Ann has 30."
    assert mixture._with_wrong_facts(answer, 0.0, ["7"], Random(0)) == answer
    assert mixture._with_wrong_facts(answer, 1.0, ["7"], Random(0)) == "7 has 7 apples and 7 has 7."
