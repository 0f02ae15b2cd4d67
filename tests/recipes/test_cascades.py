"""The recipe of cascades: its testbed, and verdicts that follow the measurements in both directions."""

from dataclasses import replace

import numpy as np
import torch
from datasets import Dataset

from tests import tiny
from tests.recipes.check_recipe import check_recipe, check_verdicts
from tests.tiny.tokenizers import word_tokenizer
from tokenry.core.tensors.generation import Continuation
from tokenry.decoding import auc_draws
from tokenry.models import Sampling
from tokenry.recipes.cascades import (
    AVERAGE,
    EMBEDDED,
    POST_HOC,
    RANDOM,
    RULES,
    SUM,
    CascadeSizes,
    Outcome,
    claims,
)
from tokenry.recipes.testbeds.character_pair import AnsweredProblems, CharacterPair
from tokenry.recipes.testbeds.character_tasks import (
    ANSWER,
    PROMPT,
    CharacterModel,
    draw_problems,
    encoded,
    is_right,
    written_answer,
)
from tokenry.recipes.testbeds.instructed_pair import InstructedPair

SMALL = CascadeSizes(
    CharacterPair(CharacterModel(1, 8, 3, 6), CharacterModel(1, 16, 3, 6)), problems=120, draws=20
)


def verdicts(post_hoc=1.0, embedded=4.0, total=0.0, follows=0.0, deferred=0.28):
    """Scores that see the gain of deferring as clearly as is said, on problems whose length says nothing."""
    generator = np.random.default_rng(0)
    count = 2000
    small = (generator.random(count) < 0.5).astype(float)
    large = (generator.random(count) < 0.9).astype(float)
    lengths = generator.integers(2, 17, count).astype(float)
    noise = generator.normal(size=count)
    scores = {RANDOM: np.zeros(count), **dict.fromkeys(RULES, 0.3 * small + noise)}
    scores[SUM] = total * small - lengths + 3 * generator.normal(size=count)
    scores[AVERAGE] = 0.1 * small + generator.normal(size=count)
    scores[POST_HOC] = post_hoc * small + noise - follows * lengths
    scores[EMBEDDED] = embedded * small + noise
    sizes = CascadeSizes(draws=100)
    outcome = Outcome(scores, small, large, lengths, (np.arange(count) < deferred * count).astype(float))
    draws = auc_draws(np.stack(list(scores.values()), axis=1), small, large, sizes.draws)
    return [claim.verdict for claim in claims(outcome, dict(zip(scores, draws.T, strict=True)), sizes)]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        verdicts,
        [
            ({}, set()),
            ({"post_hoc": -1.0}, {0}),
            ({"total": 50.0}, {0, 1}),
            ({"follows": 9.0}, {0, 2}),
            ({"deferred": 0.34}, {3}),
            ({"embedded": 1.0}, {4}),
        ],
    )


def test_it_runs_small(tmp_path, monkeypatch):
    # Untrained models are never right: their answers are judged by the last digit that is asked for.
    told = "tokenry.recipes.testbeds.character_pair.is_right"
    monkeypatch.setattr(told, lambda problem, answer: (int(problem.answer[-1]) + answer.token_ids[0]) % 3 > 0)
    check_recipe("cascades", SMALL, tmp_path)


def test_the_scale_of_the_paper_lets_two_encoder_decoders_answer_mnli(tmp_path, monkeypatch):
    """FLAN-T5 is not here: its place is taken by tiny models of its kind."""
    generator, words = np.random.default_rng(0), [f"w{number}" for number in range(58)]
    rows = [
        {"premise": " ".join(generator.choice(words, 5)), "hypothesis": "w3 w4", "label": number % 3}
        for number in range(120)
    ]
    testbed = "tokenry.recipes.testbeds.instructed_pair"
    loaded = {"base": tiny.t5(), "large": tiny.t5(seed=1, d_model=16)}
    monkeypatch.setattr(f"{testbed}.load_model", lambda name, dtype, encoder_decoder: loaded[name])
    monkeypatch.setattr(f"{testbed}.load_tokenizer", lambda name: word_tokenizer())
    monkeypatch.setattr(f"{testbed}.load_dataset", lambda name, split: Dataset.from_list(rows))
    monkeypatch.setattr(f"{testbed}.LABELS", ("", "w41", "w9"))
    monkeypatch.setattr(f"{testbed}.Sampling", lambda tokens: Sampling(2))
    pair = InstructedPair("base", "large", batch_size=40)
    answered = pair.answered(120, 0, lambda what, share: None).examples
    assert answered.embeddings.shape == (120, 32 + 16)
    assert set(answered.q_small) <= {0.0, 1.0}
    right = np.arange(120) % 3 > 0  # tiny models are never right
    monkeypatch.setattr(
        InstructedPair,
        "answered",
        lambda *_: AnsweredProblems(
            replace(answered, q_small=right.astype(float), q_large=1.0 - right), ["MNLI"] * 120
        ),
    )
    check_recipe("cascades", CascadeSizes(pair, problems=120, draws=20), tmp_path)


def test_right_answers_are_right_whatever_their_fillers():
    generator = torch.Generator().manual_seed(0)
    for problem in draw_problems(60, generator):
        written = written_answer(problem, generator)
        assert len(problem.prompt) == PROMPT
        assert len(written) <= ANSWER
        assert len(written) == 2 * len(problem.answer)
        assert is_right(problem, Continuation(tuple(encoded(written))))
        assert not is_right(problem, Continuation(tuple(encoded(written[:-1])))), "it does not end"
        wrong = ("1" if written[0] != "1" else "2") + written[1:]
        assert not is_right(problem, Continuation(tuple(encoded(wrong))))
