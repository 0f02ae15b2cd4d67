"""Scorers learn from documents to keep and others, say which words count, and come back from their file."""

import importlib.util
import sys

import numpy as np
import pytest

from tokenry.core.errors import UserError
from tokenry.data import FastTextScorer, LinearScorer, load_scorer

HAS_FASTTEXT = importlib.util.find_spec("fasttext") is not None
QUICK = {"epoch": 20, "lr": 0.5, "dim": 8, "bucket": 1000}


def documents(count=120, seed=0):
    draws = np.random.default_rng(seed)
    good, bad, both = ["theorem", "lemma", "proof"], ["casino", "discount", "promo"], ["the", "of", "a"]
    texts = [" ".join(draws.choice([*(good if i % 2 else bad), *both], size=9)) for i in range(count)]
    return texts, [i % 2 for i in range(count)]


@pytest.fixture(scope="module", params=["fasttext", "linear"])
def scorer(request):
    if request.param == "fasttext":
        if not HAS_FASTTEXT:
            pytest.skip("fasttext is not installed (tokenry[data])")
        return FastTextScorer.train(*documents(), **QUICK)
    return LinearScorer.train(*documents())


def test_new_documents_are_told_apart(scorer):
    texts, labels = documents(40, seed=1)
    scores = scorer.score(texts)
    assert ((scores > 0.5) == np.array(labels, dtype=bool)).mean() > 0.95
    assert np.isfinite(scorer.score(["", "unknown", "naïve 日本\n\n"])).all()


def test_the_words_for_and_against_are_named(scorer):
    words = scorer.top_words(3)
    assert {word for word, _ in words[:3]} == {"theorem", "lemma", "proof"}
    assert {word for word, _ in words[3:]} == {"casino", "discount", "promo"}
    assert [weight for _, weight in words] == sorted((weight for _, weight in words), reverse=True)


def test_few_words_are_named_once(scorer):
    known = len(scorer.word_weights()[0])
    assert len(scorer.top_words(1000)) == known


def test_a_file_brings_the_scorer_back(scorer, tmp_path):
    scorer.save(tmp_path / "scorer.file")
    texts, _ = documents(10, seed=2)
    again = load_scorer(tmp_path / "scorer.file")
    assert type(again) is type(scorer)
    assert again.score(texts).tolist() == scorer.score(texts).tolist()
    assert again.top_words(3) == scorer.top_words(3)
    assert again.score([]).tolist() == []


def test_case_is_kept_and_line_breaks_are_spaces():
    texts = ["Word\nother", "word other"] * 20
    scorer = LinearScorer.train(texts, [1, 0] * 20)
    high, low = scorer.score(["Word other", "word\nother"])
    assert high > 0.5 > low


@pytest.mark.parametrize("kind", [FastTextScorer, LinearScorer])
@pytest.mark.parametrize(
    ("texts", "labels", "words"),
    [
        (["a", "b"], [1], "2 texts and 1 labels"),
        (["a", "b"], [1, 1], r"the labels are \[1\]: give some of both"),
        ([], [], r"the labels are \[\]"),
        (["a", "b"], [1, 2], r"the labels are \[1, 2\]"),
    ],
)
def test_labels_of_one_kind_are_refused(kind, texts, labels, words):
    with pytest.raises(UserError, match=words):
        kind.train(texts, labels)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (FastTextScorer, {"threads": 1}, "threads must be at least 10, got 1"),
        (FastTextScorer, {"epoch": 0}, "epoch must be at least 1"),
        (FastTextScorer, {"lr": 0.0}, "lr must be above 0"),
        (LinearScorer, {"alpha": 0.0}, "alpha must be above 0"),
        (LinearScorer, {"features": 0}, "features must be at least 1"),
    ],
)
def test_settings_are_checked(kind, options, words):
    with pytest.raises(UserError, match=words):
        kind.train(["a", "b"], [0, 1], **options)


def test_training_without_fasttext_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fasttext", None)
    with pytest.raises(UserError, match=r"fasttext is not installed.*pip install 'tokenry\[data\]'"):
        FastTextScorer.train(*documents())


def test_files_that_hold_no_scorer_are_refused(tmp_path):
    (tmp_path / "other.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "arrays.npz", weights=np.zeros(3))
    (tmp_path / "scorer.bin").write_bytes(b"no model")
    for name, words in (
        ("other.npz", "is no scorer: `tokenry select-data train` writes one"),
        ("arrays.npz", "is no scorer"),
        ("scorer.bin", "is no fastText model"),
        ("missing.npz", "cannot be read as a scorer"),
    ):
        with pytest.raises(UserError, match=words):
            load_scorer(tmp_path / name)


@pytest.mark.skipif(not HAS_FASTTEXT, reason="fasttext is not installed (tokenry[data])")
def test_a_model_without_the_label_is_refused(tmp_path):
    import fasttext

    (tmp_path / "lines.txt").write_text("__label__a b c\n__label__d e f\n" * 20)
    model = fasttext.train_supervised(str(tmp_path / "lines.txt"), epoch=1, dim=4, thread=12, verbose=0)
    model.save_model(str(tmp_path / "model.bin"))
    with pytest.raises(UserError, match="has the labels __label__a, __label__d, and __label__1 is needed"):
        load_scorer(tmp_path / "model.bin")
