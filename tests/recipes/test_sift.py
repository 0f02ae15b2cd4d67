"""The recipe of SIFT: its testbeds, and verdicts that follow the measurements in both directions."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tokenry.core.text.answers import final_answer
from tokenry.decoding import parse_sticker
from tokenry.models import Generated, Sampling
from tokenry.recipes.sift import (
    INDEPENDENT,
    LAST,
    PLAIN,
    READER,
    SLIPS,
    STAGES,
    SYSTEMATIC,
    VOTING,
    SiftSizes,
    claims,
)
from tokenry.recipes.testbeds.fact_reader import (
    MOST,
    FactReader,
    Slips,
    _lesson,
    _spoiled,
    draw_problems,
    reader_tokenizer,
    solution_of,
    sticker_of,
)
from tokenry.recipes.testbeds.simulated_reader import SimulatedReader

SMALL = SiftSizes(FactReader(layers=1, width=16, steps=3, batch_size=6), problems=12, simulated=120)
GREEDY = Sampling(1, log_probs=False)


def verdicts(reader=(50, 60, 55), slips=(50, 60), stages=(50, 55, 60, 65), systematic=50, independent=80):
    """Right answers at these rates: plain, stage 3, voting; stage 3, voting; plain and the stages; voting of the simulated reader."""
    generator = np.random.default_rng(0)
    difficulty = 100 * generator.random(4000)

    def at(rate):
        return 100.0 * (difficulty < rate)

    found = {
        READER: dict(zip((PLAIN, LAST, VOTING), map(at, reader), strict=True)),
        SLIPS: dict(zip((LAST, VOTING), map(at, slips), strict=True)),
        SYSTEMATIC: dict(zip((PLAIN, *STAGES), map(at, stages), strict=True)) | {VOTING: at(systematic)},
        INDEPENDENT: {LAST: at(65), VOTING: at(independent)},
    }
    return [claim.verdict for claim in claims(found)]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        verdicts,
        [
            ({}, set()),
            ({"reader": (61, 60, 55)}, {0}),
            ({"reader": (50, 60, 65)}, {1}),
            ({"slips": (60, 50)}, {2}),
            ({"stages": (50, 55, 55, 65)}, {3}),
            ({"systematic": 70}, {4}),
            ({"independent": 60}, {5}),
        ],
    )


def test_it_runs_small(tmp_path):
    check_recipe("sift", SMALL, tmp_path)


def test_problems_are_worded_two_ways_in_words_that_the_reader_knows():
    vocabulary, draws = reader_tokenizer().get_vocab(), Random(0)
    for role in range(6):
        for _ in range(60):
            prompt, text = _lesson(role, FactReader(wrong=0.5), draws)
            words = [*prompt.split(), *text.split()]
            assert set(words) <= set(vocabulary)
            assert len(words) < 3 * MOST
            assert len(text.split()) < MOST
    for problem in draw_problems(50, draws):
        assert final_answer(solution_of(problem.facts, problem.asked)) == problem.answer
        assert parse_sticker(sticker_of(problem.facts, problem.asked)).question == " ".join(problem.asked)
        assert problem.answer.split() == [
            str(dict(map(reversed, problem.facts))[kind]) for kind in problem.asked
        ]
    assert _spoiled(problem.facts, 0.0, draws) == list(problem.facts)


def test_slips_are_drawn_anew_in_every_call():
    class Reading:
        name = "reader"

        def generate(self, prompts, sampling):
            return [Generated(prompt, None, 1, 1) for prompt in prompts]

    prompt = "solve " + "three plums come ; 7 plum ; " * 20
    texts = [text.text for text in Slips(Reading(), 0.2, 0).generate([prompt], replace(GREEDY, temperature=1, samples=3))]  # fmt: skip
    assert len(set(texts)) == 3
    shares = [np.mean([a != b for a, b in zip(prompt.split(), text.split(), strict=True)]) for text in texts]
    assert 0.01 < np.mean(shares) < 0.12, "a third of the words are numbers, and 8 of 9 slips change one"
    assert Slips(Reading(), 0.0, 0).generate([prompt], GREEDY)[0].text == prompt


@pytest.mark.parametrize(("share", "same"), [(1.0, True), (0.0, False)])
def test_systematic_misreadings_come_back_and_independent_ones_do_not(share, same):
    reader = SimulatedReader(300, share, 0)
    prompts = [f"solve #{number}" for number in range(300)]
    first, second = ([text.text for text in reader.generate(prompts, GREEDY)] for _ in range(2))
    assert (first == second) is same
    right = np.mean([text.endswith(":0,0,0,0") for text in first])
    assert 0.6 < right < 0.8, "a fact is misread at 9 %, more often in hard problems"


def test_a_correction_repairs_and_never_spoils():
    reader = SimulatedReader(1, 1.0, 0)
    texts = [text.text for text in reader.generate(["correct #0 0:0,5,0,0"], replace(GREEDY, temperature=1, samples=400))]  # fmt: skip
    assert set(texts) == {"0:0,0,0,0", "0:0,5,0,0"}
    assert 0.5 < np.mean([text == "0:0,0,0,0" for text in texts]) < 0.7
