"""Decisions with a bounded false-positive rate: what is promised, what is kept in the file, what is refused."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from tests.tiny.tokenizers import character_tokenizer
from tokenry.core.errors import UserError
from tokenry.core.stats import clopper_pearson
from tokenry.data import CalibratedDetector, Calibration, Detector, TextScores, ZeroShotDetector
from tokenry.models import LocalText
from tokenry.models.identity import ModelIdentity


class Written(Detector):
    """Reads the score that stands in the text: `score length`."""

    names, max_tokens, normalise = ("written",), 512, False
    models = (ModelIdentity("reader"),)

    def measure(self, texts):
        parts = [text.split() for text in texts]
        return TextScores(
            {"written": np.array([float(part[0]) for part in parts])},
            np.array([int(part[1]) for part in parts], dtype=int),
        )

    def spans(self, text):
        return [(text, float(text.split()[0]))]


def texts(scores, length=60):
    return [f"{score} {length}" for score in scores]


def outcomes(detector, *scores):
    return [decision.outcome for decision in detector.judge(texts(scores))]


def test_three_outcomes():
    detector = Written().calibrate(texts(range(200)), fpr=0.05)
    calibration = detector.calibration
    assert calibration.allowed == 9
    assert calibration.machine_above == 190
    assert outcomes(detector, 250, 190.5, 190, 185, 170, -3) == [
        *("machine", "machine", "undecidable", "undecidable", "human", "human")
    ]
    decision = detector.judge(texts([190.5]))[0]
    assert (decision.p_value, decision.probability, decision.tokens) == (pytest.approx(10 / 201), None, 60)
    least = next(count for count in range(200) if clopper_pearson(count, 200)[0] > 0.05)
    assert calibration.human_up_to == 200 - least


def test_short_texts_and_texts_without_a_score_are_undecidable_whatever_they_score():
    detector = Written().calibrate(texts(range(200)), fpr=0.05)
    short = detector.judge(["1000 49", "-1000 49", "nan 100", "1000 50"])
    assert [decision.outcome for decision in short] == ["undecidable"] * 3 + ["machine"]
    assert math.isnan(short[2].p_value)


def test_the_bound_is_that_of_the_threshold_that_was_chosen():
    calibration = Written().calibrate(texts(range(200)), fpr=0.05).calibration
    assert calibration.false_positives == (9, clopper_pearson(9, 200)[1])
    draws = np.random.default_rng(0)
    rates = [1 - np.sort(draws.random(200))[::-1][calibration.allowed] for _ in range(4000)]
    assert np.quantile(rates, 0.975) == pytest.approx(calibration.false_positives[1], rel=0.03)
    assert np.mean(rates) <= 0.05


rounded = st.lists(st.integers(-9, 9), min_size=20, max_size=80)


@given(rounded, st.sampled_from([0.05, 0.1, 0.3]))
def test_the_realised_rate_is_at_most_the_target_on_the_calibration_texts(scores, fpr):
    detector = Written().calibrate(texts(scores), fpr=fpr)
    judged = detector.judge(texts(scores))
    assert sum(decision.outcome == "machine" for decision in judged) <= fpr * len(scores)
    p_values = [decision.p_value for decision in judged]
    assert all((decision.outcome == "machine") == (decision.p_value <= fpr) for decision in judged)
    order = np.argsort(scores)
    assert (np.diff(np.array(p_values)[order]) <= 0).all()


@given(rounded, st.randoms())
def test_the_order_of_the_human_texts_changes_nothing(scores, draws):
    mixed = draws.sample(scores, len(scores))
    one, other = (Written().calibrate(texts(order), fpr=0.1).calibration for order in (scores, mixed))
    assert one == other


def test_machine_texts_add_the_share_that_is_found_and_probabilities():
    detector = Written().calibrate(texts(range(100)), fpr=0.1, machine_texts=texts(range(80, 180)))
    assert detector.calibration.found == pytest.approx(
        np.mean(np.arange(80, 180) > detector.calibration.machine_above)
    )
    probabilities = [decision.probability for decision in detector.judge(texts([0, 90, 170]))]
    assert probabilities == sorted(probabilities)
    assert probabilities[0] < 0.1 < 0.9 < probabilities[2]
    assert detector.judge(["nan 60"])[0].probability is None
    assert Written().calibrate(texts(range(100)), fpr=0.1).calibration.found is None


def test_a_forced_calibration_calls_only_what_is_above_all_human_texts_a_machines():
    detector = Written().calibrate(texts([1, 2, 3]), fpr=0.01, forced=True)
    assert outcomes(detector, 3, 3.1) == ["undecidable", "machine"]
    assert detector.calibration.false_positives == (0, clopper_pearson(0, 3)[1])


@pytest.mark.parametrize("method", ["platt", "isotonic", "temperature"])
def test_the_file_holds_all_that_decides(method, tmp_path):
    detector = Written().calibrate(texts(range(50)), 0.1, machine_texts=texts(range(40, 90)), method=method)
    detector.calibration.save(tmp_path / "calibration.json")
    loaded = Calibration.load(tmp_path / "calibration.json")
    assert loaded == detector.calibration
    again = CalibratedDetector(Written(), loaded)
    assert again.judge(texts([10, 60, 88])) == detector.judge(texts([10, 60, 88]))


# --- real detectors ----------------------------------------------------------------------------------------------------


def zero_shot(seed=0, **options):
    tokenizer = character_tokenizer()
    model = tiny.llama(seed, vocab_size=len(tokenizer), initializer_range=0.5)
    return ZeroShotDetector(LocalText(model, tokenizer, name="tiny"), **options)


HUMAN = [
    f"{word} " * 8
    for word in ("the cat", "a dog", "some log", "no tower", "one mat", "old cats", "red hat", "tin can")
]


def test_a_zero_shot_detector_is_calibrated_and_judges():
    detector = zero_shot().calibrate(HUMAN, fpr=0.2)
    judged = detector.judge([*HUMAN, "short", ""])
    assert sum(decision.outcome == "machine" for decision in judged[:8]) <= 1
    assert [decision.outcome for decision in judged[8:]] == ["undecidable"] * 2


@pytest.mark.parametrize(("other", "words"), [
    (lambda: zero_shot(seed=1), "the model tiny has other weights than tiny, for which the calibration was made"),
    (lambda: zero_shot(scores=("rank",)), "the score rank decides here, but the calibration was made for fast_detectgpt"),
    (lambda: zero_shot(max_tokens=99), "calibrate for these settings"),
    (lambda: ZeroShotDetector(zero_shot().scorer, zero_shot(seed=1).scorer, scores=("fast_detectgpt",)),
     "the calibration was made with 1 models and 2 are given"),
    (Written, "the score written decides here"),
])  # fmt: skip
def test_a_calibration_of_another_detector_is_refused(other, words):
    calibration = zero_shot().calibrate(HUMAN, fpr=0.2).calibration
    with pytest.raises(UserError) as raised:
        CalibratedDetector(other(), calibration)
    assert words in str(raised.value)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: Written().calibrate(texts(range(99)), 0.01), "cannot be measured on 99 human texts of at least 50 tokens (0 of those given are shorter or have no score): at least 100 are needed"),
    (lambda: Written().calibrate(texts(range(100)) + texts(range(9), 10), 0.001), "on 100 human texts of at least 50 tokens (9 of those given"),
    (lambda: Written().calibrate([], 0.5, forced=True), "on 0 human texts"),
    (lambda: Written().calibrate(texts(range(9)), 1.0), "fpr must be between 0 and 1"),
    (lambda: Written().calibrate(texts(range(9)), 0.5, shortest=0), "shortest must be at least 1, got 0"),
    (lambda: Written().calibrate(texts(range(9)), 0.5, machine_texts=texts([1]), method="spline"), "method must be one of"),
])  # fmt: skip
def test_what_cannot_be_calibrated_is_refused(call, words):
    with pytest.raises(UserError) as raised:
        call()
    assert words in str(raised.value)


@pytest.mark.parametrize(("content", "words"), [
    ({"kind": "other"}, "holds no calibration of a detector: `tokenry detect calibrate` writes one"),
    ({"fpr": "high"}, "is no whole calibration of a detector: fpr"),
])  # fmt: skip
def test_a_file_that_is_no_calibration_is_refused(content, words, tmp_path):
    stored = replace(Written().calibrate(texts(range(9)), 0.5).calibration).as_json() | content
    (tmp_path / "file.json").write_text(json.dumps(stored))
    with pytest.raises(UserError) as raised:
        Calibration.load(tmp_path / "file.json")
    assert words in str(raised.value)
