"""The recipe of AI-text detection: its texts, and verdicts that follow the measurements in both directions."""

import numpy as np

from tests import tiny
from tests.recipes.check_recipe import check_recipe, check_verdicts
from tests.tiny.tokenizers import character_tokenizer
from tokenry.models import ClassifierConfig, LocalText
from tokenry.recipes import ai_text_detection
from tokenry.recipes.ai_text_detection import FAST, LIKELIHOOD, Detected, DetectionSizes, claims
from tokenry.recipes.testbeds.machine_texts import BEGINNING, continued, passages_of
from tokenry.recipes.testbeds.tiny_encoder import EncoderSizes

SMALL = DetectionSizes(
    packages=("jinja2",),
    pairs=20,
    fresh=60,
    tokens=60,
    vocabulary=320,
    steps=3,
    encoder=EncoderSizes(1, 16, 2, 16, 160),
    training=ClassifierConfig(1, 8),
    story_pairs=6,
)


def verdicts(encoder=5.0, elsewhere=0.0, preprocessed=1.0, fast=3.0, hidden=-9.0, undone=0.0, wrong=0.05):
    """Scores that tell the labels apart as clearly as is said."""
    draws = np.random.default_rng(0)
    labels, story = np.repeat([0.0, 1.0], 600), np.repeat([0.0, 1.0], 50)
    noise, other = draws.normal(size=1200), draws.normal(size=100)
    home = encoder * (labels - 0.5) + noise
    scores = {FAST: fast * story + other, LIKELIHOOD: 0.5 * story + draws.normal(size=100)}
    machine = scores[FAST][50:]
    found = Detected(
        labels=labels,
        encoder=home,
        preprocessed=preprocessed * (labels - 0.5) + draws.normal(size=1200),
        elsewhere=elsewhere * (story - 0.5) + draws.normal(size=100),
        story_labels=story,
        zero_shot=scores,
        attacked=machine + hidden,
        undone=machine + undone,
        accused=np.arange(600) < 600 * wrong,
    )
    return [claim.verdict for claim in claims(found)]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        verdicts,
        [
            ({}, {1}),
            ({"elsewhere": 20.0}, set()),
            ({"encoder": 1.0}, {0, 1, 2}),
            ({"preprocessed": 9.0}, {1, 2}),
            ({"fast": 0.5}, {1, 3}),
            ({"hidden": 0.0}, {1, 4}),
            ({"undone": -9.0}, {1, 4}),
            ({"wrong": 0.07}, {1, 5}),
        ],
    )


def test_it_runs_small(tmp_path, monkeypatch):
    tokenizer = character_tokenizer()
    model = tiny.llama(vocab_size=len(tokenizer), max_position_embeddings=256, eos_token_id=None)
    monkeypatch.setattr(ai_text_detection, "load_model", lambda: model)
    monkeypatch.setattr(ai_text_detection, "load_tokenizer", lambda: tokenizer)
    check_recipe("ai-text-detection", SMALL, tmp_path)


def test_both_texts_of_a_pair_begin_in_the_same_place_and_have_one_length():
    tokenizer = character_tokenizer()
    tokenizer.eos_token = None
    model = LocalText(tiny.llama(vocab_size=len(tokenizer), eos_token_id=None), tokenizer)
    text = "".join(chr(97 + place % 26) for place in range(200))
    passages = passages_of([text, "short"], tokenizer, 60)
    assert [len(passage) for passage in passages] == [BEGINNING + 60] * 2
    pairs = continued(model, passages, seed=0)
    assert pairs.human == (text[20:80], text[100:160])
    assert all(50 < len(machine) <= 60 for machine in pairs.machine)  # special tokens are no text
    assert pairs.labels == [0, 0, 1, 1]
