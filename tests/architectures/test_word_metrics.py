"""Bits per byte of words, metrics of the paper, and words by how often training has seen them."""

import math

import numpy as np
import pytest
import torch

from tests.golden import golden_arrays
from tests.tiny.words import flat_lm, word_pooled
from tokenry.architectures import (
    CharacterSpelling,
    ScoredWords,
    WordCoder,
    accuracy_by_frequency,
    by_frequency,
    lossless,
    next_word_accuracy,
    score_text,
    score_texts,
    unit_accuracy,
    word_loss,
)
from tokenry.core.errors import UserError

CODER = WordCoder(CharacterSpelling("abcdefgh "), lossless(), 5)


@pytest.mark.parametrize("file", ["dev-model-a.npz", "dev-model-b.npz"])
def test_metrics_are_the_reference(file):
    golden = golden_arrays("18-word-pooled", file)
    predicted, true = golden["metric_pred"], golden["metric_true"]
    assert next_word_accuracy(predicted, true) == pytest.approx(float(golden["metric_word_acc"]), abs=1e-6)
    assert unit_accuracy(predicted, true) == pytest.approx(float(golden["metric_unit_acc_nonpad"]), abs=1e-6)


def test_places_without_a_word_count_neither_as_right_nor_as_wrong():
    true = torch.tensor([[[1, 2, 0], [3, 0, 0], [0, 0, 0]]])
    predicted = torch.tensor([[[1, 2, 0], [3, 1, 0], [0, 0, 0]]])
    assert next_word_accuracy(predicted, true, 0) == 0.5
    assert unit_accuracy(predicted, true, 0) == 1.0


@pytest.mark.parametrize("make", [word_pooled, flat_lm])
def test_every_word_of_a_text_is_scored_once_with_words_before_it(make):
    model = make(max_units=200) if make is flat_lm else make()
    text = "abc de abc fgh a " * 8
    whole = [CODER.begin, *CODER.words(text)]
    scored = score_text(model, CODER, text, max_words=12)
    assert scored.words == whole[1:]
    first = model.score_words([whole[:12]])[0][0]
    assert scored.nll[:11] == pytest.approx(first, abs=1e-4)
    last = model.score_words([whole[-12 + (len(whole) % 6 and 6 - len(whole) % 6) :]])[0][0]
    assert scored.nll[-1] == pytest.approx(last[-1], abs=1e-4)


def test_bits_per_byte_are_those_of_the_text():
    texts = ["abc de", "fgh abc a"]
    scored = score_texts(word_pooled(), CODER, texts, 12)
    loss = word_loss(CODER, texts, scored)
    bits = sum(found.nll.sum() for found in scored) / math.log(2)
    assert loss.bits_per_byte.value == pytest.approx(bits / len("".join(texts)))
    assert loss.tokens.tolist() == [2, 3]


def test_words_are_counted_in_bins():
    words = CODER.words("abc abc de abc fgh de")
    scored = [ScoredWords(words, np.arange(6) * math.log(2), np.array([1, 0, 1, 1, 0, 0], dtype=bool))]
    counts = {"abc": 1, " abc": 3, " de": 3}
    found = by_frequency(CODER, scored, counts, [(0, 1), (2, None), (100, None)])
    assert [(row.least, row.most, row.accuracy.samples) for row in found] == [(0, 1, 2), (2, None, 4)]
    assert found[0].accuracy.value == 0.5
    assert found[0].bits_per_byte.value == (0 + 4) / (3 + 4)


def test_tables_of_words_are_counted_in_bins_too():
    predicted, true = torch.tensor([[1, 0], [2, 2], [3, 0]]), torch.tensor([[1, 0], [2, 0], [3, 0]])
    found = accuracy_by_frequency(predicted, true, [1, 2, 30], [(0, 2), (3, None), (100, None)])
    assert {limits: estimate.value for limits, estimate in found.items()} == {(0, 2): 0.5, (3, None): 1.0}


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        (
            lambda: next_word_accuracy(torch.zeros(2, 2).long(), torch.zeros(2, 3).long()),
            "predicted words have shape (2, 2)",
        ),
        (
            lambda: accuracy_by_frequency(torch.ones(2, 1).long(), torch.ones(2, 1).long(), [1]),
            "2 words and 1 counts",
        ),
        (lambda: score_texts(word_pooled(), CODER, [], 12), "there is no text to score"),
        (lambda: score_text(word_pooled(), CODER, "abc de", 1), "max_length must be at least 2, got 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(measure, words):
    with pytest.raises(UserError) as error:
        measure()
    assert words in str(error.value)
