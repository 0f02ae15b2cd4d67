"""The recipe of CharBench with a reader of a few steps: what it compares, and verdicts that follow the measurements both ways."""

import itertools
import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from pandas import DataFrame

from tests.recipes.check_recipe import check_recipe
from tests.tiny.models import llama as tiny_llama
from tokenry.evaluation.charbench import Segmentation, build_charbench, features_of
from tokenry.evaluation.charbench.items import COUNTING_TASKS, INDEX_TASKS
from tokenry.recipes import charbench, load_recipe
from tokenry.recipes.charbench import CharBenchSizes, judge
from tokenry.recipes.testbeds import character_reader
from tokenry.recipes.testbeds.character_reader import (
    ReaderConfig,
    cut_anew,
    draw_items,
    right,
    spelled,
    train_reader,
)
from tokenry.recipes.testbeds.charbench_answers import ModelAnswers

CONFIG = ReaderConfig(
    words=600,
    unseen=200,
    test_items=400,
    vocabulary=120,
    layers=1,
    width=16,
    heads=2,
    steps=20,
    batch_size=32,
)
WORDS = ["".join(parts) for parts in itertools.product(("stra", "ban", "cher", "me", "ap"), ("w", "an", "r", "lo", "p"), ("berry", "a", "ies", "n", "le", "er", "ing", "s", "ed", "ly", "o", "ier", "t", "y", "ic", "al", "id", "us", "um", "or", "ate", "ine", "ose", "ant"))]  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    shares: list[float] = []
    found = train_reader(WORDS, CONFIG, shares.append)
    assert shares[-1] == 1.0
    return found


def test_the_reader_is_tested_on_words_it_has_never_seen(monkeypatch):
    asked: list[set[str]] = []

    def draw(words, *rest):
        asked.append(set(words))
        return draw_items(words, *rest)

    monkeypatch.setattr(character_reader, "draw_items", draw)
    found = train_reader(WORDS, replace(CONFIG, steps=1))
    seen, unseen = asked
    assert not seen & unseen
    assert len(unseen) == 200
    assert set(found.items["word"]) <= unseen


def test_a_reader_learns(trained):
    longer = train_reader(WORDS, replace(CONFIG, steps=200, batch_size=64))
    of_both = (trained, longer)
    accuracy = [right(each.items, each.predict(each.items, each.segmentations)).mean() for each in of_both]
    assert accuracy[1] > accuracy[0] + 0.05


def test_what_the_reader_is_given_is_task_character_and_tokens(trained):
    rows = trained.inputs(trained.items[:4], trained.segmentations)
    assert rows[:, 0].tolist() == [1, 2, 3, 4]
    assert ((rows != 0).sum(dim=1) - 2).tolist() == [
        len(trained.segmentations[word].tokens) for word in trained.items["word"][:4]
    ]


def test_padding_never_changes_an_answer(trained):
    some = trained.items[:20]
    whole = trained.model(trained.inputs(some, trained.segmentations))
    one = trained.model(trained.inputs(some[:1], trained.segmentations))
    torch.testing.assert_close(whole[:1], one, rtol=1e-4, atol=1e-5)


def test_a_token_that_is_cut_leaves_the_word_as_it_is():
    cut = Segmentation(("str", "aw"), (0, 3), (3, 5))
    assert spelled(cut, (0, 3)) == Segmentation(("s", "t", "r", "aw"), (0, 1, 2, 3), (1, 2, 3, 5))
    assert spelled(cut, (3, 5)).tokens == ("str", "a", "w")


def test_cutting_is_measured_on_the_same_items(trained):
    for task in INDEX_TASKS:
        found = cut_anew(trained, task)
        assert 10 < len(found.target) == len(found.other) < 100
        assert set(found.target["change"]) | set(found.other["change"]) <= {-1.0, 0.0, 1.0}


def asked_with(chance):
    """Made-up answers to the benchmark: each is right with a chance that depends on its features."""
    draws = random.Random(0)
    lengths = [length for length in (4, 6, 8, 10) for _ in range(480)]
    words = [*dict.fromkeys("".join(draws.choices("aabcdefghijk", k=length)) for length in lengths)]
    items = build_charbench(words, 400)
    cuts = {}
    for number, word in enumerate(words):
        size = 1 + number % 4
        ends = [*range(size, len(word), size), len(word)]
        cuts[word] = Segmentation(
            tuple(word[a:b] for a, b in zip([0, *ends], ends, strict=False)), (0, *ends[:-1]), tuple(ends)
        )
    features = features_of(items, cuts)
    chances = np.random.default_rng(0).random(len(items))
    wrong = (chances > chance(features)).astype(int)
    return ModelAnswers.of(
        "reader", items, DataFrame({"prediction": items["answer"].map(int) + wrong}), features
    )


def verdicts(asked, models=()):
    return [claim.verdict for claim in judge(asked, models)]


def test_a_reader_that_sees_less_inside_long_tokens_shows_it():
    seen = asked_with(lambda f: np.where(f["target_token_length"].fillna(2.5) > 2.5, 0.2, 0.9))
    assert verdicts(seen)[:2] == ["shown"] * 2


def test_a_reader_that_sees_every_character_does_not():
    seen = asked_with(lambda f: np.full(len(f), 0.6))
    assert "shown" not in verdicts(seen)[:2]
    longer_is_better = asked_with(lambda f: np.where(f["target_token_length"].fillna(2.5) > 2.5, 0.9, 0.2))
    assert verdicts(longer_is_better)[:2] == ["opposite"] * 2


def test_counting_is_judged_by_what_correlates_more():
    by_count = asked_with(lambda f: np.where(f["gold"] > 1, 0.1, 0.9))
    by_tokens = asked_with(lambda f: np.where(f["number_of_tokens"] > 3, 0.1, 0.9))
    assert verdicts(by_count)[2] == "shown"
    assert "shown" not in verdicts(by_tokens)[2:4]


def test_every_model_that_was_asked_has_a_claim_of_its_own():
    seen = asked_with(lambda f: np.full(len(f), 0.6))
    claims = list(judge(seen, [replace(seen, name="another")]))
    assert len(claims) == 5
    assert "another" in claims[-1].claim


def test_a_model_that_is_never_right_shows_nothing_and_is_no_crash():
    never = asked_with(lambda f: np.zeros(len(f)))
    assert set(verdicts(never, [never])) == {"not shown"}


def test_a_run_ends_with_claims_settings_and_a_picture(tmp_path, monkeypatch, tokenizer):
    sizes = CharBenchSizes(CONFIG, ("embedded",), 24, "score")
    listed = list(dict.fromkeys(WORDS))
    monkeypatch.setattr(charbench, "frequent_words", lambda number: WORDS)
    monkeypatch.setattr(charbench, "load_word_list", lambda: listed)
    monkeypatch.setattr(
        charbench, "build_charbench", lambda words: build_charbench(words, 40, lengths=[6, 7])
    )
    monkeypatch.setattr(
        charbench,
        "load_model",
        lambda name, dtype: tiny_llama(vocab_size=len(tokenizer), max_position_embeddings=512),
    )
    monkeypatch.setattr(charbench, "load_tokenizer", lambda name: tokenizer)
    reproduction = check_recipe("charbench", sizes, tmp_path)
    assert len(reproduction.claims) == 5
    assert "regeneration" in reproduction.settings["note"]
    assert set(reproduction.settings["reader_accuracy"]) == {*COUNTING_TASKS, *INDEX_TASKS}
    assert json.loads((tmp_path / "result.json").read_text())["slug"] == "charbench"


def test_the_paper_scale_asks_for_what_models_write():
    paper = load_recipe("charbench").scales["paper"]
    assert paper.mode == "generate"
    assert paper.items is None
