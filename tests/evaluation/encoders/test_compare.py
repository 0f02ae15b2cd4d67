"""Encoders side by side: trained alike, measured on the same texts, compared with the first."""

import json

import numpy as np
import pytest

from tests.evaluation.encoders.tiny_task import NAMES, encoder, labelled, task
from tokenry.core.errors import UserError
from tokenry.evaluation.encoders import (
    EncoderData,
    LabelledTexts,
    compare_encoders,
    compare_predictions,
    compare_with_first,
    decisions,
    multilabel_metrics,
    texts_to_settle,
)
from tokenry.models import ClassifierConfig

FAST = ClassifierConfig(epochs=2, batch_size=8, learning_rate=1e-2)


@pytest.mark.parametrize("multi_label", [True, False])
def test_encoders_are_compared_on_the_same_texts(multi_label):
    data, told = task(multi_label), []
    pair = {"large": encoder(multi_label), "small": encoder(multi_label, num_hidden_layers=1)}
    report = compare_encoders(
        pair,
        data,
        FAST,
        margin=0.1,
        rounds=1,
        draws=50,
        progress=lambda what, share: told.append((share, what)),
    )
    assert told == sorted(told, key=lambda pair: pair[0])
    assert any(what == "small: epoch 2" for _, what in told)
    small = report.encoders["small"]
    assert small.training.texts == 2 * 64
    assert small.tokens.documents == small.speed.texts == small.metrics["test"].texts == 30
    assert small.metrics["external"].texts == 20
    assert ("test, tuned" in small.metrics) is multi_label
    assert report.encoders["large"].speed_up is None
    assert small.speed_up is not None
    prob = pair["small"].probabilities(data.test.texts)
    np.testing.assert_allclose(small.probabilities["test"], prob, atol=1e-6)
    assert (
        small.metrics["test"].exact_match
        == multilabel_metrics(data.test.labels, prob, data.threshold).exact_match
    )
    for compared, part_name, texts in (
        (report.comparisons["small"], "test", data.test),
        (report.external["small"], "external", data.external),
    ):
        given = [
            decisions(report.encoders[name].probabilities[part_name], data.threshold)
            for name in ("small", "large")
        ]
        assert compared == compare_predictions(texts.labels, *given, margin=0.1, draws=50)
    stored = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert [row["name"] for row in stored["encoders"]] == ["large", "small"]
    assert stored["comparisons"][0]["exact"]["p"] == report.comparisons["small"].exact.p
    assert stored["labels"] == list(NAMES)


def test_stored_probabilities_are_compared_with_the_first():
    truth = np.eye(4, 3, dtype=int)
    probabilities = {"a": truth * 0.9, "b": 1 - truth * 0.9, "c": truth * 0.9}
    found = compare_with_first(truth, probabilities, draws=10)
    assert list(found) == ["b", "c"]
    assert (found["b"].exact.only_a, found["b"].exact.only_b) == (0, 4)
    assert found["b"].wins == (0, 0, 3)
    assert found["c"].exact.p == 1
    assert texts_to_settle(found["c"]) is None
    assert texts_to_settle(found["b"]) <= 4


def test_the_texts_to_settle_the_case_of_the_paper():
    """10 against 7 of 150: thousands of reports would be needed to tell a gap of two points."""
    truth = np.ones((150, 1), dtype=int)
    a, b = (np.repeat([True, wins, not wins, False], [102, 10, 7, 31])[:, None] for wins in (True, False))
    found = compare_predictions(truth, a, b, draws=10)
    assert f"{found.exact.p:.4f}" == "0.6291"
    assert 2000 < texts_to_settle(found) < 2500
    assert found.not_worse == "shown"
    assert compare_predictions(truth, a, b, margin=0.03, draws=10).not_worse == "not shown"


# --- what is refused ---------------------------------------------------------------------------------------------------


def test_one_encoder_and_encoders_of_other_labels_are_refused():
    with pytest.raises(UserError, match="at least two encoders, got 1"):
        compare_encoders({"a": encoder()}, task())
    other = encoder(id2label={0: "nodule", 1: "cyst", 2: "effusion"})
    with pytest.raises(
        UserError,
        match=r"b gives the labels nodule, cyst, effusion, and the data have cyst, nodule, effusion: load it",
    ):
        compare_encoders({"a": encoder(), "b": other}, task())
    with pytest.raises(UserError, match="multi_label=True"):
        compare_encoders({"a": encoder(), "b": encoder(multi_label=False)}, task())
    with pytest.raises(UserError, match=r"margin must be in \[0, 1\], got 5"):
        compare_encoders({"a": encoder(), "b": encoder()}, task(), margin=5)


def test_data_that_do_not_fit_together_are_refused():
    with pytest.raises(UserError, match="there are 1 texts and labels for 2"):
        LabelledTexts(["w1"], np.array([[0], [1]]))
    texts = labelled(4)
    with pytest.raises(UserError, match="the training texts have 3 labels and the task has 2"):
        EncoderData(NAMES[:2], texts, texts, texts)
    with pytest.raises(UserError, match="each of the training texts must have exactly one label"):
        EncoderData(NAMES, texts, texts, texts, multi_label=False)
