"""The recipe of R2R: verdicts that follow the measurements in both directions, and a run on something small."""

import numpy as np
import pytest
from datasets import Dataset

from tests import tiny
from tests.recipes.check_recipe import check_recipe, check_verdicts
from tests.tiny.tokenizers import chatml_tokenizer
from tokenry.core.tensors.generation import Continuation, continue_prompts, greedy_config
from tokenry.core.tensors.step_loop import TokenByToken
from tokenry.decoding import EntropyRule, RandomRule, Response, TokenRouter
from tokenry.decoding.r2r import DivergenceVerifier
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
from tokenry.recipes.testbeds.character_routers import RoutedCharacters, threshold_at
from tokenry.recipes.testbeds.character_tasks import (
    CharacterModel,
    character_tokenizer,
    digits,
    encoded,
)
from tokenry.recipes.testbeds.reasoning_pair import ReasoningPair

SMALL = R2RSizes(
    RoutedCharacters(CharacterModel(1, 8, 3, 6, positions=64), CharacterModel(1, 16, 3, 6, positions=64)),
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
    recipe, routers = "tokenry.recipes.r2r", "tokenry.recipes.testbeds.character_routers"
    monkeypatch.setattr(
        f"{routers}.is_right", lambda problem, answer: (int(problem.answer[-1]) + answer.token_ids[0]) % 3 > 0
    )
    monkeypatch.setattr(f"{routers}.digits", lambda answer: str(sum(answer) % 3))
    monkeypatch.setattr(f"{recipe}.RATES", (LOW, RATE))
    check_recipe("r2r", SMALL, tmp_path)


class EverySecond(DivergenceVerifier):
    """A judge that finds every second mismatch divergent."""

    reach = "sentence"

    def __call__(self, divergences):
        return [number % 2 for number in range(len(divergences))]


def spoiled_answers(small, tokenizer):
    """What writes answers that differ from the small model's own at two tokens."""

    def written(_large, _tokenizer, prompts, *_):
        found = continue_prompts(small, prompts, greedy_config(small, tokenizer, 9), 4, TokenByToken())
        answers = [[*answer.token_ids[:8], tokenizer.eos_token_id] for answer in found]
        for answer in answers:
            answer[3], answer[5] = answer[3] + 1, answer[5] + 1
        return {
            n: Response(list(ids), answer)
            for n, (ids, answer) in enumerate(zip(prompts, answers, strict=True))
        }

    return written


def test_the_scale_of_the_paper_routes_between_two_reasoning_models(tmp_path, monkeypatch):
    """The paper's models are not here: their place is taken by tiny ones, whose embeddings are padded differently as theirs are."""
    tokenizer = chatml_tokenizer()
    size = {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.3,
    }
    loaded = {
        "small": tiny.llama(vocab_size=len(tokenizer), **size),
        "large": tiny.llama(seed=1, vocab_size=len(tokenizer) + 8, **size),
    }
    data = {
        "queries": [{"conversations": [{"from": "user", "value": f"{n} + 1 = ?"}]} for n in range(12)],
        "exam": [{"problem": f"{n} + 2 = ?", "answer": n + 2} for n in range(6)],
    }
    testbed = "tokenry.recipes.testbeds.reasoning_pair"
    monkeypatch.setattr(f"{testbed}.load_model", lambda name, dtype, **_: loaded[name])
    monkeypatch.setattr(f"{testbed}.load_tokenizer", lambda name: tokenizer)
    monkeypatch.setattr(f"{testbed}.load_dataset", lambda name, split: Dataset.from_list(data[name]))
    monkeypatch.setattr(f"{testbed}.INSTRUCTION", "")
    monkeypatch.setattr(f"{testbed}.write_responses", spoiled_answers(loaded["small"], tokenizer))
    monkeypatch.setattr(f"{testbed}.JudgeVerifier", lambda *_: EverySecond())
    wide = TokenRouter.from_small_model
    monkeypatch.setattr(TokenRouter, "from_small_model", lambda model: wide(model, widths=(8,)))
    monkeypatch.setattr("tokenry.recipes.r2r.RATES", (LOW, RATE))
    pair = ReasoningPair("small", "large", "large", "queries", (("exam", "test"),), max_new_tokens=4)
    check_recipe("r2r", R2RSizes(pair, labelled=12, calibrated=0, measured=6, epochs=1), tmp_path)
    right = Continuation(tuple(tokenizer("so \\boxed{3}")["input_ids"]))
    routing = pair.prepared(0, lambda what, share: None)
    question = routing.problems((1, 0, 2), 0)[2][1]
    assert question.answer == "3"
    assert routing.is_right(question, right)


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
