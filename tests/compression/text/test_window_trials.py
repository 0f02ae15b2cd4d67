"""Fine-tuning at a window: what is scored, what the hacks are fitted on, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from tests.evaluation.encoders.tiny_task import NAMES, encoder, labelled
from tokenry.compression.text import NEWS, ClassifiedTexts, TextHacks, TextSplits, window_trial
from tokenry.core.errors import UserError

FAST = replace(NEWS, epochs=3, batch_size=8, learning_rate=1e-2)


def part(count, seed):
    found = labelled(count, multi_label=False, seed=seed)
    return ClassifiedTexts(found.texts, found.labels.argmax(axis=1))


SPLITS = TextSplits(NAMES, part(48, 0), part(16, 1), part(20, 2))


def test_a_trial_is_scored_on_texts_that_chose_nothing():
    subject = replace(encoder(multi_label=False), max_length=4)
    found = window_trial(subject, SPLITS, FAST)
    given = subject.probabilities(SPLITS.test.texts).argmax(axis=1)
    assert np.array_equal(found.right, given == SPLITS.test.labels)
    expected = f1_score(SPLITS.test.labels, given, labels=[0, 1, 2], average="macro", zero_division=0)
    assert found.test_f1 == pytest.approx(expected)
    on_validation = subject.macro_f1(SPLITS.validation.texts, SPLITS.validation.labels)
    assert found.validation_f1 == pytest.approx(on_validation)
    assert found.seconds > 0


def test_hacks_are_fitted_on_the_training_texts_alone():
    splits = TextSplits(
        ("no", "yes"),
        *(ClassifiedTexts(texts, np.array([0])) for texts in (["a a b"], ["b b c"], ["a c c"])),
    )
    short = splits.shortened(TextHacks(min_count=2))
    assert [part.texts for part in (short.train, short.validation, short.test)] == [["a a"], ["b b c"], ["a"]]
    assert short.names == splits.names


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(UserError, match="there are 2 texts and 1 labels"):
        ClassifiedTexts(["a", "b"], np.array([0]))
    with pytest.raises(UserError, match="there are 0 texts"):
        ClassifiedTexts([], np.array([], dtype=int))
    with pytest.raises(
        UserError, match="the classifier gives the labels cyst, nodule, effusion, and the texts have"
    ):
        window_trial(encoder(multi_label=False), replace(SPLITS, names=("a", "b", "c")))
    with pytest.raises(UserError, match="head must be from 0 to the 4 tokens that are kept, got 5"):
        window_trial(replace(encoder(multi_label=False), max_length=4, head=5), SPLITS, FAST)
