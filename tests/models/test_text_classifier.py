"""Encoder classifiers: loaded, fine-tuned to the best epoch, and asked in batches that change nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM, BertForSequenceClassification

from tests import tiny
from tests.tiny.tokenizers import word_tokenizer
from tokenry.core.errors import UserError
from tokenry.models import ClassifierConfig, TextClassifier, load_text_classifier
from tokenry.models.text_classifier import MULTI_LABEL, SINGLE_LABEL, _EpochBatches, length_sorted

FAST = ClassifierConfig(epochs=8, batch_size=8, learning_rate=1e-2)


def classifier(multi_label=False, max_length=32, **settings):
    problem_type = MULTI_LABEL if multi_label else SINGLE_LABEL
    model = tiny.bert(
        BertForSequenceClassification,
        num_labels=3,
        problem_type=problem_type,
        **({"pad_token_id": 0} | settings),
    )
    return TextClassifier(model, word_tokenizer(), max_length)


def sentences(count=120, seed=0):
    """Texts of 3 to 12 words; the labels are the words w1, w2 and w3, which stand first."""
    generator = np.random.default_rng(seed)
    words = [generator.integers(4, 30, generator.integers(3, 13)) for _ in range(count)]
    several = generator.integers(0, 2, (count, 3))
    one = generator.integers(0, 3, count)
    texts = [
        [
            " ".join(f"w{number}" for number in [*(1 + np.flatnonzero(chosen)), *row])
            for row, chosen in zip(words, marks, strict=True)
        ]
        for marks in (several, np.eye(3, dtype=int)[one])
    ]
    return {True: (texts[0], several), False: (texts[1], one)}


@pytest.mark.parametrize(("multi_label", "least"), [(False, 0.9), (True, 0.3)])
def test_a_classifier_learns_and_its_best_epoch_is_kept(multi_label, least):
    texts, targets = sentences()[multi_label]
    subject = classifier(multi_label)
    told = []
    tuned = subject.fine_tune(
        texts[:90],
        targets[:90],
        FAST,
        (texts[90:], targets[90:]),
        progress=lambda what, share: told.append(what),
    )
    assert tuned.texts == 8 * 90
    assert len(tuned.losses) == 8 * 12
    assert tuned.losses[-1] < 0.75 * tuned.losses[0]
    assert len(tuned.scores) == 8
    assert subject.share_right(texts[90:], targets[90:]) == max(tuned.scores) >= least
    assert (
        tuned.scores[tuned.best_epoch - 1]
        == max(tuned.scores)
        > max([*tuned.scores[: tuned.best_epoch - 1], 0])
    )
    assert tuned.seconds > 0
    assert tuned.cpu_seconds > 0
    assert told[0] == "epoch 1"
    assert not subject.model.training


def test_the_weights_of_an_early_best_epoch_come_back(monkeypatch):
    texts, targets = sentences(16)[False]
    subject = classifier()
    seen, scores = [], iter([0.2, 0.9, 0.9, 0.1])

    def scored(self, *_):
        seen.append(self.model.classifier.weight.clone())
        return next(scores)

    monkeypatch.setattr(TextClassifier, "share_right", scored)
    tuned = subject.fine_tune(
        texts, targets, ClassifierConfig(epochs=4, learning_rate=1e-2), (texts, targets)
    )
    assert tuned.best_epoch == 2
    assert torch.equal(subject.model.classifier.weight, seen[1])
    assert not torch.equal(seen[1], seen[3])


def test_the_same_seed_trains_the_same_weights():
    texts, targets = sentences(20)[True]
    weights = []
    for seed in (0, 0, 1):
        subject = classifier(multi_label=True)
        subject.fine_tune(
            texts, targets, ClassifierConfig(epochs=1, batch_size=4, learning_rate=1e-2, seed=seed)
        )
        weights.append(subject.model.classifier.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("multi_label", [False, True])
def test_batches_padding_and_order_change_no_probability(multi_label):
    texts, _ = sentences(20)[multi_label]
    subject = classifier(multi_label)
    found = subject.probabilities(texts)
    np.testing.assert_allclose(subject.probabilities(texts, batch_size=1), found, atol=1e-6)
    np.testing.assert_allclose(subject.probabilities(texts[::-1])[::-1], found, atol=1e-6)
    assert found.shape == (20, 3)
    assert multi_label or found.sum(axis=1) == pytest.approx(1)


def test_long_texts_are_cut():
    subject = classifier(max_length=4)
    assert subject.encode(["w1 w2 w3 w4 w5 w6", "w1"]) == [[7, 8, 9, 10], [7]]


def test_every_epoch_reads_every_text_once_in_an_order_of_its_own():
    lengths = np.random.default_rng(0).integers(1, 50, 45).tolist()
    batches = _EpochBatches(lengths, 4, seed=0)
    epochs = [[batches[number] for number in range(start, start + 12)] for start in (0, 12)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch)) == list(range(45))
        assert max(np.ptp([lengths[place] for place in batch]) for batch in epoch) < 15
    assert [list(batch) for batch in epochs[0]] != [list(batch) for batch in epochs[1]]
    assert [list(batch) for batch in length_sorted([1, 3, 2], 2)] == [[1, 2], [0]]


def test_a_saved_classifier_is_loaded_as_it_was(tmp_path):
    texts, _ = sentences(6)[True]
    subject = classifier(multi_label=True, id2label={0: "cyst", 1: "nodule", 2: "effusion"})
    subject.save(tmp_path)
    loaded = load_text_classifier(tmp_path, max_length=32)
    assert loaded.labels == ("cyst", "nodule", "effusion")
    assert loaded.multi_label
    np.testing.assert_array_equal(loaded.probabilities(texts), subject.probabilities(texts))


def test_an_encoder_gets_a_new_head_from_the_seed(tmp_path):
    tiny.bert(BertForMaskedLM, max_position_embeddings=48).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    made = [
        load_text_classifier(tmp_path, ["a", "b"], multi_label=True, max_length=32, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert made[0].labels == ("a", "b")
    assert made[0].multi_label
    assert load_text_classifier(tmp_path, ["a", "b"]).max_length == 48
    weights = [subject.model.classifier.weight for subject in made]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    with pytest.raises(UserError, match="lack"):
        load_text_classifier(tmp_path)


def test_what_cannot_be_a_classifier_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"max_length must be at most 512, the number of positions of .*, got 600"
    ):
        classifier(max_length=600)
    no_padding = word_tokenizer()
    no_padding.pad_token = None
    with pytest.raises(UserError, match="has no padding token"):
        TextClassifier(classifier().model, no_padding)
    with pytest.raises(UserError, match=r"has no config\.json"):
        load_text_classifier(tmp_path)


@pytest.mark.parametrize(
    ("multi_label", "targets", "words"),
    [
        (False, [0, 1], r"the labels of 3 texts have the shape \(3,\), one number each, got \(2,\)"),
        (True, [0, 1, 1], r"have the shape \(3, 3\), one column per label, got \(3,\)"),
        (False, [0, 1, 3], r"whole numbers from 0 to 2, got int64 such as np.int64\(0\)"),
        (True, [[0, 2, 0]] * 3, "whole numbers from 0 to 1"),
        (False, ["yes", "no", "no"], r"got <U3 such as np.str_\('yes'\): give numbers, not words"),
        (False, [0.5, 1.0, 0.0], "whole numbers from 0 to 2, got float64"),
    ],
)
def test_labels_of_another_kind_are_refused(multi_label, targets, words):
    with pytest.raises(UserError, match=words):
        classifier(multi_label).share_right(["w1", "w2", "w3"], np.array(targets))


def test_no_texts_and_impossible_settings_are_refused():
    with pytest.raises(UserError, match="there are no texts"):
        classifier().probabilities([])
    with pytest.raises(UserError, match="epochs must be at least 1, got 0"):
        ClassifierConfig(epochs=0)
    with pytest.raises(UserError, match=r"warmup must be in \[0, 1\], got 2"):
        ClassifierConfig(warmup=2.0)


def test_the_end_of_a_long_text_can_be_kept():
    subject = classifier(max_length=4)
    both = TextClassifier(subject.model, subject.tokenizer, 4, head=1)
    assert both.encode(["w1 w2 w3 w4 w5 w6", "w1"]) == [[7, 10, 11, 12], [7]]


def test_macro_f1_is_the_mean_of_the_labels_and_can_choose_the_epoch():
    for multi_label in (False, True):
        texts, targets = sentences(24)[multi_label]
        subject = classifier(multi_label)
        prob = subject.probabilities(texts)
        given, true = (
            (prob >= 0.5, targets) if multi_label else (np.eye(3)[prob.argmax(axis=1)], np.eye(3)[targets])
        )
        hits, all_of_them = (given * true).sum(axis=0), given.sum(axis=0) + true.sum(axis=0)
        expected = np.mean(np.divide(2 * hits, all_of_them, out=np.zeros(3), where=all_of_them > 0))
        assert subject.macro_f1(texts, targets) == pytest.approx(expected)
    texts, targets = sentences()[False]
    subject = classifier()
    tuned = subject.fine_tune(
        texts[:90], targets[:90], replace(FAST, best_by="macro-f1"), (texts[90:], targets[90:])
    )
    assert subject.macro_f1(texts[90:], targets[90:]) == pytest.approx(max(tuned.scores))
    with pytest.raises(UserError, match="best_by must be one of share-right, macro-f1, got 'loss'"):
        ClassifierConfig(best_by="loss")
