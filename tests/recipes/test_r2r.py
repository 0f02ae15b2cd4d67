"""The recipe of R2R: verdicts that follow the measurements in both directions, and a run on something small."""

import numpy as np
import pytest

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tokenry.decoding import EntropyRule, RandomRule
from tokenry.recipes.r2r import (
    DIFFERENT,
    DIVERGENT,
    ENTROPY,
    LOW,
    RANDOM,
    RATE,
    RATES,
    R2RSizes,
    Routed,
    RoutingOutcome,
    claims,
)
from tokenry.recipes.testbeds.character_routers import threshold_at
from tokenry.recipes.testbeds.character_tasks import (
    CharacterModel,
    character_tokenizer,
    digits,
    encoded,
)

SMALL = R2RSizes(
    CharacterModel(1, 8, 3, 6, positions=64),
    CharacterModel(1, 16, 3, 6, positions=64),
    labelled=60,
    calibrated=10,
    measured=12,
    epochs=1,
)


def verdicts(divergent=0.78, different=0.6, entropy=0.76, at_low=0.5, random=0.45, large=0.82, router=10):
    """Accuracies of answers that are right in the same order, so that differences are clear."""
    count = 2000

    def right(accuracy):
        return (np.arange(count) < accuracy * count).astype(float)

    def routed(accuracy, low):
        return {rate: Routed(right(low if rate == LOW else accuracy), rate) for rate in RATES}

    found = {
        DIVERGENT: routed(divergent, 0.5),
        DIFFERENT: routed(different, 0.4),
        ENTROPY: routed(entropy, at_low),
        RANDOM: routed(random, 0.4),
    }
    return [
        claim.verdict for claim in claims(RoutingOutcome(right(0.4), right(large), found, (15, 100, router)))
    ]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        verdicts,
        [
            ({}, set()),
            ({"different": 0.79}, {0}),
            ({"divergent": 0.7, "entropy": 0.7}, {1}),
            ({"entropy": 0.8}, {2}),
            ({"at_low": 0.55}, {3}),
            ({"random": 0.8}, {4}),
            ({"router": 80}, {5}),
        ],
    )


def test_it_runs_small(tmp_path, monkeypatch):
    # Untrained models end no answer: it is right by its first token, and comes to the sum of its tokens.
    recipe = "tokenry.recipes.r2r"
    monkeypatch.setattr(
        f"{recipe}.is_right", lambda problem, answer: (int(problem.answer[-1]) + answer.token_ids[0]) % 3 > 0
    )
    routers = "tokenry.recipes.testbeds.character_routers"
    monkeypatch.setattr(f"{routers}.digits", lambda answer: str(sum(answer) % 3))
    monkeypatch.setattr(f"{recipe}.RATES", (LOW, RATE))
    check_recipe("r2r", SMALL, tmp_path)


@pytest.mark.parametrize("rule", [EntropyRule(), RandomRule()])
def test_a_threshold_is_found_for_a_rate(rule):
    reached = threshold_at(0.15, rule, lambda threshold: 1 / (1 + 9 * threshold))
    assert 1 / (1 + 9 * reached) == pytest.approx(0.15, abs=0.01)


def test_the_digits_of_an_answer_count_if_it_ends():
    assert digits(encoded("5.8,2$")) == "582"
    assert digits(encoded("5.8,2")) is None
    tokenizer = character_tokenizer()
    assert tokenizer("C58231___=")["input_ids"] == encoded("C58231___=")
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 0)
