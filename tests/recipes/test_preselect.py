"""The recipe of PreSelect: its corpora, and verdicts that follow the measurements in both directions."""

import importlib.util

import numpy as np
import pytest

from tests import tiny
from tests.recipes.check_recipe import check_recipe, check_verdicts
from tests.tiny.tokenizers import character_tokenizer
from tokenry.data import predictive_strength
from tokenry.recipes.preselect import ARMS, claims
from tokenry.recipes.testbeds import selection_trial
from tokenry.recipes.testbeds.mixed_corpus import DOCSTRINGS, MixedDocument, mixed_documents
from tokenry.recipes.testbeds.planted_corpus import planted_corpus
from tokenry.recipes.testbeds.selection_trial import (
    LONGEST,
    PERPLEXITY,
    RANDOM,
    STRENGTH,
    PreSelectSizes,
    Selected,
    SelectionRound,
    choices,
)

pytest.importorskip("fasttext", reason="fasttext is not installed (tokenry[data])")
pytest.importorskip("wordfreq", reason="wordfreq is not installed (tokenry[words])")

SMALL = PreSelectSizes(
    family=("jinja2",),
    ranking=("filelock",),
    pool=("jinja2",),
    longest=200,
    held_out=4,
    vocabulary=300,
    family_steps=30,
    corpus=12,
    steps=2,
    batch_size=2,
    seeds=2,
    planted=200,
    extremes=20,
    depths=(1, 2),
    depth_sample=3,
    depth_length=20,
)


def verdicts(strength=2.0, perplexity=2.5, share=0.6, planted=0.9, relation=1.0, natural=0.9):
    """Rounds of three seeds that differ a little, and documents as they are said to be."""
    draws = np.random.default_rng(0)
    bits = dict.fromkeys(ARMS, 2.5) | {STRENGTH: strength, PERPLEXITY: perplexity}
    shares = dict.fromkeys(ARMS, 0.2) | {STRENGTH: share}
    rounds = []
    for _ in range(3):
        of_documents = draws.random(200)
        score = relation * of_documents + 0.3 * draws.random(200)
        rounds.append(
            SelectionRound(
                {name: value + 0.01 * draws.random() for name, value in bits.items()},
                {name: value + 0.01 * draws.random() for name, value in shares.items()},
                ["docstrings", "base64"] * 100,
                of_documents,
                np.arange(200) % 2 == 0,
                score,
            )
        )
    is_natural = np.arange(60) % 2 == 0
    read = np.where(is_natural, natural, 0.5) + 0.05 * draws.random(60)
    kept = {STRENGTH: planted + 0.1 * draws.random(50), PERPLEXITY: 0.5 + 0.1 * draws.random(50)}
    return [claim.verdict for claim in claims(Selected(rounds, kept, read, is_natural))]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        verdicts,
        [
            ({}, set()),
            ({"strength": 3.0}, {0}),
            ({"perplexity": 2.0}, {0}),
            ({"share": 0.2}, {1}),
            ({"planted": 0.5}, {2}),
            ({"relation": 0.0}, {3}),
            ({"natural": 0.5}, {4}),
        ],
    )


def test_it_runs_small(tmp_path, monkeypatch):
    tokenizer = character_tokenizer()
    model = tiny.llama(vocab_size=len(tokenizer))
    monkeypatch.setattr(selection_trial, "load_model", lambda dtype: model)
    monkeypatch.setattr(selection_trial, "load_tokenizer", lambda: tokenizer)
    monkeypatch.setattr(selection_trial, "_BUCKET", 1000)
    check_recipe("preselect", SMALL, tmp_path)


def test_a_mixed_corpus_has_as_many_documents_of_every_kind():
    docstrings = [f"docstring {number} " + "with words " * 20 for number in range(20)]
    documents = mixed_documents(docstrings, 5, seed=1)
    kinds = [document.kind for document in documents]
    assert {kinds.count(kind) for kind in kinds} == {5}
    assert len(set(kinds)) == 6
    assert max(len(document.text) for document in documents) <= max(map(len, docstrings))
    assert documents == mixed_documents(docstrings, 5, seed=1)
    assert documents != mixed_documents(docstrings, 5, seed=2)


def test_all_rules_keep_the_same_share_of_the_characters():
    documents = [MixedDocument("x" * (10 + number % 7), DOCSTRINGS) for number in range(200)]
    strength, loss = np.arange(200) % 4 / 3.0, np.arange(200) / 200.0
    chosen = choices(documents, strength, loss, keep=0.2, seed=0)
    kept = {name: sum(len(document.text) for document in of_rule) for name, of_rule in chosen.items()}
    assert max(kept.values()) - min(kept.values()) <= 16
    assert set(chosen) == {STRENGTH, RANDOM, PERPLEXITY, LONGEST}
    assert min(len(document.text) for document in chosen[LONGEST]) >= 15


def test_planted_quality_shows_in_the_order_of_the_losses_alone():
    corpus = planted_corpus(2000, seed=3)
    strength = predictive_strength(corpus.losses, corpus.benchmark)
    assert np.corrcoef(strength, corpus.quality)[0, 1] > 0.5
    assert abs(np.corrcoef(corpus.losses[:, 0], corpus.quality)[0, 1]) < 0.1


def test_missing_words_are_said(monkeypatch):
    assert importlib.util.find_spec("wordfreq")
    monkeypatch.setitem(__import__("sys").modules, "wordfreq", None)
    with pytest.raises(ValueError, match=r"pip install 'tokenry\[words\]'"):
        mixed_documents(["a docstring of some length"] * 5, 2, seed=0)
