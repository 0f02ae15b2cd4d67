"""Rates of a calibrated detector on labelled texts: overall, by column, by length, under attack."""

import numpy as np
import pytest

from tests.data.test_ai_text import Written, texts
from tokenry.core.errors import UserError
from tokenry.core.stats import clopper_pearson
from tokenry.data import detection_report
from tokenry.data.detection_report import length_bucket


def rows():
    """Scores 0 to 99 for humans, 60 to 159 for machines; odd ones are news, and of 120 tokens."""
    return [
        {
            "text": f"{score} {120 if score % 2 else 60}",
            "label": label,
            "domain": "news" if score % 2 else "mail",
        }
        for label, scores in ((0, range(100)), (1, range(60, 160)))
        for score in scores
    ]


@pytest.fixture(scope="module")
def detector():
    return Written().calibrate(texts(range(100)), fpr=0.05, machine_texts=texts(range(60, 160)))


def test_rates_are_counts_with_exact_intervals(detector):
    found = detection_report(detector, rows())
    wrong, right = found.overall.false_positives, found.overall.found
    assert (wrong.events, wrong.texts, wrong.share) == (4, 100, 0.04)
    assert (wrong.low, wrong.high) == clopper_pearson(4, 100)
    assert (right.events, right.texts) == (64, 100)
    assert found.overall.undecidable.events == sum(
        decision.outcome == "undecidable" for decision in found.decisions
    )
    assert found.auroc.value == pytest.approx(0.92, abs=0.005)
    assert found.auroc.low < found.auroc.value < found.auroc.high
    assert found.tpr_at == {0.01: 0.61, 0.05: 0.65}
    assert 0 < found.ece < 0.5
    assert 0 < found.brier < 0.25


def test_groups_are_made_by_column_and_by_length(detector):
    found = detection_report(detector, rows(), by=("domain", "length", "native"))
    names = [(group.by, group.name) for group in found.groups]
    assert names == [
        ("domain", "mail"),
        ("domain", "news"),
        ("length", "50 to 99 tokens"),
        ("length", "100 to 199 tokens"),
    ]
    assert sum(group.found.events for group in found.groups[:2]) == found.overall.found.events
    assert [length_bucket(tokens) for tokens in (0, 49, 50, 400)] == [
        *("0 to 49 tokens", "0 to 49 tokens", "50 to 99 tokens", "400 tokens or more")
    ]


def test_an_attack_is_judged_at_the_clean_threshold(detector):
    def lower(text):
        score, length = text.split()
        return f"{float(score) - 50} {length}"

    found = detection_report(detector, rows(), attacks=(lower, "whitespace"))
    assert [group.name for group in found.attacks] == ["lower", "whitespace"]
    assert found.attacks[0].found.events == 14
    assert found.attacks[0].false_positives.events == 0
    assert found.attacks[1].found == found.overall.found


def test_without_machine_texts_in_the_calibration_there_are_no_probabilities():
    found = detection_report(Written().calibrate(texts(range(100)), fpr=0.05), rows())
    assert (found.ece, found.brier) == (None, None)


def test_texts_without_a_score_are_undecidable_and_left_out_of_the_curve(detector):
    found = detection_report(detector, [*rows(), {"text": "nan 60", "label": 0}])
    assert found.overall.false_positives.texts == 101
    assert np.isfinite(found.auroc.value)


def test_labels_of_a_csv_file_are_text(detector):
    written = [row | {"label": str(row["label"])} for row in rows()]
    assert detection_report(detector, written) == detection_report(detector, rows())


@pytest.mark.parametrize(("data", "words"), [
    ([{"text": "1 60", "label": 0}, {"text": "2 60"}], "row 2 has no label: give 0 for a human text and 1 for a machine's"),
    ([{"label": 0}], "row 1 has no text under `text`"),
    ([{"text": "1 60", "label": 1}] * 2, "all texts have one label"),
    ([{"text": "1 60", "label": 0}, {"text": "nan 1", "label": 1}], "1 of 2 texts have a score, and not of both labels"),
    ([{"text": "1 60", "label": "ai"}], "labels are 0 (human) or 1 (machine), got 'ai' for text 1"),
])  # fmt: skip
def test_what_is_not_labelled_is_refused(data, words, detector):
    with pytest.raises(UserError) as raised:
        detection_report(detector, data)
    assert words in str(raised.value)
