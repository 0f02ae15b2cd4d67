"""An encoder as a detector: its log-odds, windows of long texts, and what it learns."""

import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification

from tests import tiny
from tests.tiny.tokenizers import ENGLISH, byte_level
from tokenry.core.errors import UserError
from tokenry.data import BertDetector, preprocess_paper
from tokenry.models.text_classifier import ClassifierConfig

TEXTS = ["the cat sat on the mat", "a naïve café", "the log", "", "other towers and the other cats"]


def bert(labels=2, tokenizer=None, **options):
    tokenizer = tokenizer or word_pieces()
    model = tiny.bert(
        BertForSequenceClassification, vocab_size=len(tokenizer), num_labels=labels, initializer_range=0.5
    )
    return BertDetector(model, tokenizer, **{"max_tokens": 64, "name": "tiny"} | options)


def word_pieces():
    return byte_level(
        ENGLISH, bos_token="<s>", eos_token="</s>", pad_token="<p>", cls_token="<s>", sep_token="</s>"
    )


def test_the_score_is_the_log_odds_of_the_machine_label():
    detector = bert()
    found = detector.score(TEXTS)["classifier"]
    probabilities = detector.classifier.probabilities([text for text in TEXTS if text])
    expected = np.log(probabilities[:, 1] / probabilities[:, 0])
    np.testing.assert_allclose(found[[0, 1, 2, 4]], expected, rtol=1e-3, atol=1e-5)
    assert np.isnan(found[3])


def test_a_long_text_has_the_mean_of_its_windows_by_their_tokens():
    detector = bert(max_tokens=9)
    text = " ".join(TEXTS)
    ids = detector.tokenizer(text)["input_ids"]
    parts = [ids[start : start + 9] for start in range(0, len(ids), 9)]
    with torch.no_grad():
        logits = [detector.model(torch.tensor([part])).logits[0] for part in parts]
    scores = [float(row[1] - row[0]) for row in logits]
    expected = np.average(scores, weights=[len(part) for part in parts])
    measured = detector.measure([text])
    assert measured.scores["classifier"][0] == pytest.approx(expected, rel=1e-4)
    assert measured.tokens.tolist() == [len(ids)]
    spans = detector.spans(text)
    assert "".join(piece for piece, _ in spans) == text
    assert [score for _, score in spans] == pytest.approx(scores, rel=1e-4)


def test_the_order_of_the_texts_changes_nothing():
    detector = bert(batch_size=2)
    there, back = detector.score(TEXTS)["classifier"], detector.score(TEXTS[::-1])["classifier"][::-1]
    np.testing.assert_allclose(there, back, rtol=1e-4)
    assert detector.score([])["classifier"].shape == (0,)


def test_it_learns_to_tell_two_kinds_of_text_apart_and_is_calibrated():
    places = ("mat", "log", "tower", "café", "sum", "cat", "dog", "other mat")
    kinds = [[f"the {word} sat on the {place}" for place in places] for word in ("cat", "dog")]
    detector = bert()
    detector.fit(
        [*kinds[0], *kinds[1]] * 5,
        np.repeat([0, 1], 8).tolist() * 5,
        ClassifierConfig(4, 8, learning_rate=1e-2),
    )
    human, machine = (detector.score(texts)["classifier"] for texts in kinds)
    assert human.max() < machine.min()
    calibrated = detector.calibrate(kinds[0], 0.2, machine_texts=kinds[1], method="temperature", shortest=2)
    assert calibrated.calibration.found == 1
    assert [decision.outcome for decision in calibrated.judge(kinds[1])] == ["machine"] * 8


def test_the_papers_preprocessing_is_off_unless_asked_for():
    text = "The CATS were sitting on 3 mats."
    plain = bert()
    assert plain.clean(text) == text
    asked = bert(paper_pipeline=True)
    assert asked.clean(text) == preprocess_paper([text])[0]
    assert asked.settings != plain.settings


@pytest.mark.parametrize(("make", "words"), [
    (lambda: bert(labels=3), "a detector has two labels, human and machine, and a text has one of them: this classifier has LABEL_0, LABEL_1, LABEL_2"),
    (lambda: bert(max_tokens=4096), "max_length must be at most"),
    (lambda: bert().fit(["a", "b"], ["human", "ai"]), "labels are 0 (human) or 1 (machine), got 'human'"),
])  # fmt: skip
def test_what_is_no_detector_is_refused(make, words):
    with pytest.raises(UserError) as raised:
        make()
    assert words in str(raised.value)
