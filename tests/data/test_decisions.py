"""Thresholds, rates and probabilities against reference numbers, and what they refuse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.golden import golden_arrays
from tokenry.core.errors import UserError
from tokenry.data import (
    Calibrator,
    auroc,
    brier,
    ece,
    fpr_at_tpr,
    mce,
    raid_threshold,
    threshold_at_fpr,
    tpr_at_fpr,
)

FILES = ("dev-eval.npz", "dev-eval-ties.npz")


@pytest.fixture(params=FILES)
def case(request):
    return {
        name: value.numpy() for name, value in golden_arrays("24-ai-text-detection", request.param).items()
    }


def close(value, expected, rtol=1e-9):
    assert value == pytest.approx(float(expected), rel=rtol, abs=1e-12)


@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.1])
def test_the_threshold_at_a_rate_is_the_reference_one(case, fpr):
    human = case["scores"][case["labels"] == 0]
    threshold = threshold_at_fpr(human, fpr)
    close(threshold, case[f"boundary_human_score_{fpr}"])
    close((human > threshold).mean(), case[f"realised_fpr_{fpr}"])
    close(tpr_at_fpr(case["scores"], case["labels"], fpr), case[f"tpr_at_fpr_{fpr}"])


def test_auroc_and_the_rate_at_a_hit_rate_are_the_reference_ones(case):
    close(auroc(case["scores"], case["labels"]), case["auroc"])
    for tpr in (0.9, 0.95):
        close(fpr_at_tpr(case["scores"], case["labels"], tpr), case[f"fpr_at_tpr_{tpr}"])


def test_raids_search_ends_where_raid_bench_ends(case):
    for fpr in (0.05, 0.1):
        threshold, rate = raid_threshold(case["scores"][case["labels"] == 0], fpr)
        close(threshold, case[f"raid_threshold_{fpr}"])
        close(rate, case[f"raid_fpr_{fpr}"])


@pytest.mark.parametrize(
    ("scores", "fpr", "found"),
    [
        (
            [0.0, 1, 2, 3, 4, 5, 6],
            0.2,
            (5.000000000931323, 1 / 7),
        ),  # the smallest of thresholds with one rate
        ([0.0, 0, 0, 0, 9], 0.1, (8.999999928474427, 0.2)),  # every rate above 0 is too high
        ([1.0, 1, 1], 0.05, (1.0, 1.0)),
    ],
)
def test_raids_search_ends_as_in_raid_bench_where_no_threshold_has_the_rate(scores, fpr, found):
    assert raid_threshold(scores, fpr) == pytest.approx(found, rel=1e-12)


def test_calibration_errors_are_the_reference_ones(case):
    probabilities, labels = case["probs"], case["labels"]
    close(ece(probabilities, labels, bins=15), case["ece15"])
    close(mce(probabilities, labels), case["mce15"])
    close(brier(probabilities, labels), case["brier"])


def test_the_temperature_is_the_reference_one(case):
    curve = Calibrator("temperature").fit(case["logits"], case["labels"])
    close(curve.temperature, case["temperature"], 1e-4)
    probabilities = curve.probability(case["logits"])
    nll = -np.log(np.where(case["labels"] == 1, probabilities, 1 - probabilities)).mean()
    close(nll, case["nll_after_temperature"], 1e-8)


def test_platt_agrees_with_the_minimum_of_its_own_loss(case):
    from scipy.optimize import minimize

    scores, labels = case["scores"], case["labels"]
    target = np.where(labels == 1, (labels.sum() + 1) / (labels.sum() + 2), 1 / ((1 - labels).sum() + 2))

    def loss(curve):
        logits = curve[0] * scores + curve[1]
        return (np.logaddexp(0, logits) - target * logits).sum()

    best = minimize(loss, [1.0, 0.0], tol=1e-12).x
    curve = Calibrator("platt").fit(scores, labels)
    assert [curve.slope, curve.intercept] == pytest.approx(best.tolist(), rel=1e-3, abs=1e-3)


def test_classes_that_scores_separate_have_a_finite_slope():
    curve = Calibrator("platt").fit([0.0, 1.0, 2.0, 3.0], [0, 0, 1, 1])
    assert 0 < curve.slope < 10
    assert (np.diff(curve.probability([0.0, 1.0, 2.0, 3.0])) > 0).all()


def test_isotonic_probabilities_never_fall_and_end_at_the_outer_knots(case):
    curve = Calibrator("isotonic").fit(case["scores"], case["labels"])
    found = curve.probability(np.linspace(-20, 20, 200))
    assert (np.diff(found) >= 0).all()
    assert found[0] == curve.values[0]
    assert found[-1] == curve.values[-1]


numbers = st.lists(st.floats(-5, 5).map(lambda value: round(value, 1)), min_size=1, max_size=60)


@given(numbers, st.floats(0.01, 0.99))
def test_no_more_human_texts_than_the_rate_are_above_its_threshold(scores, fpr):
    above = (np.array(scores) > threshold_at_fpr(scores, fpr)).mean()
    assert above <= fpr + 1e-12


@given(numbers, numbers, st.floats(0.01, 0.99))
def test_fpr_at_tpr_is_the_least_over_all_thresholds(human, machine, tpr):
    scores, labels = [*human, *machine], [0] * len(human) + [1] * len(machine)
    reached = [
        np.mean([score >= threshold for score in human])
        for threshold in scores
        if np.mean([score >= threshold for score in machine]) >= tpr - 1e-12
    ]
    assert fpr_at_tpr(scores, labels, tpr) == pytest.approx(min(reached))


@pytest.mark.parametrize(("call", "words"), [
    (lambda: threshold_at_fpr([1.0], 0.0), "fpr must be between 0 and 1, both left out, got 0.0"),
    (lambda: threshold_at_fpr([1.0], 1.0), "fpr must be between 0 and 1"),
    (lambda: threshold_at_fpr([], 0.1), "human_scores is empty"),
    (lambda: threshold_at_fpr([1.0, float("nan")], 0.1), "human_scores holds nan for text 2"),
    (lambda: tpr_at_fpr([1.0, 2.0], [0, 0], 0.1), "all texts have one label"),
    (lambda: fpr_at_tpr([1.0, 2.0], [0, 1], 1.5), "tpr must be between 0 and 1"),
    (lambda: auroc([1.0, 2.0], [0]), "there are 2 scores for 1 labels"),
    (lambda: auroc([1.0, 2.0], ["human", "ai"]), "labels are 0 (human) or 1 (machine), got 'human' for text 1"),
    (lambda: ece([0.5, 1.5], [0, 1]), "probabilities are in [0, 1], got 0.5 to 1.5"),
    (lambda: Calibrator("spline"), "method must be one of temperature, platt, isotonic, got 'spline'"),
    (lambda: Calibrator("platt").fit([1.0, 2.0], [1, 1]), "all texts have one label"),
    (lambda: raid_threshold([0.1] * 3, 0.05), "the search found no threshold"),
])  # fmt: skip
def test_what_cannot_be_judged_is_refused(call, words):
    with pytest.raises(UserError) as raised:
        call()
    assert words in str(raised.value)
