"""Metrics of labels against reference numbers and scikit-learn, and paired differences by sums over texts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score, precision_recall_fscore_support

from tests.golden import golden_arrays
from tokenry.core.errors import UserError
from tokenry.core.stats import holm, mcnemar, mcnemar_p
from tokenry.evaluation.encoders import (
    compare_predictions,
    decisions,
    multilabel_metrics,
    paired_bootstrap,
    tuned_thresholds,
)
from tokenry.evaluation.encoders.multilabel import METRICS, figures, text_counts

FILES = ("dev-multilabel.npz", "dev-multilabel-degenerate.npz")
MATRICES = arrays(np.int64, (12, 4), elements=st.integers(0, 1))


@pytest.fixture(params=FILES)
def case(request):
    return {
        name: value.numpy() for name, value in golden_arrays("07-clinical-efficiency", request.param).items()
    }


@pytest.mark.parametrize("model", ["a", "b"])
def test_metrics_are_those_of_the_reference(case, model):
    found = multilabel_metrics(case["y_true"], case[f"prob_{model}"])
    names = {"ap": "average_precision", "hamming": "hamming_loss"}
    for name in (
        "f1",
        "precision",
        "recall",
        "macro_f1",
        "micro_f1",
        "weighted_f1",
        "exact_match",
        "hamming",
        "ap",
        "auroc",
    ):
        np.testing.assert_allclose(
            getattr(found, names.get(name, name)),
            case[f"{name}_{model}"],
            rtol=1e-9,
            atol=1e-15,
            err_msg=name,
        )
    assert (found.support == case["y_true"].sum(axis=0)).all()
    assert found.texts == len(case["y_true"])


def test_paired_tests_are_those_of_the_reference(case):
    a, b = (decisions(case[f"prob_{model}"]) for model in "ab")
    found = compare_predictions(case["y_true"], a, b, draws=20)
    assert (found.exact.only_a, found.exact.only_b) == (case["mcnemar_only_a"], case["mcnemar_only_b"])
    assert found.exact.p == pytest.approx(float(case["mcnemar_exact"]), rel=1e-9)
    for method in ("chi2_cc", "chi2", "midp"):
        assert found.p_values[method] == pytest.approx(float(case[f"mcnemar_{method}"]), rel=1e-9)
    assert [label.p for label in found.labels] == pytest.approx(case["mcnemar_per_label_exact"], rel=1e-9)
    assert [label.holm for label in found.labels] == pytest.approx(case["holm_per_label"], rel=1e-9)
    assert [label.f1_a for label in found.labels] == pytest.approx(case["f1_a"], rel=1e-9)
    assert sum(found.wins) == len(found.labels)


def test_bootstrap_draws_are_those_of_the_reference(case):
    truth, index = case["y_true"].astype(bool), case["bootstrap_index"]
    times = np.array([np.bincount(row, minlength=len(truth)) for row in index])
    drawn = [
        figures(times @ text_counts(truth, decisions(case[f"prob_{model}"])), len(truth))["exact_match"]
        for model in "ab"
    ]
    difference = drawn[0] - drawn[1]
    assert difference == pytest.approx(case["bootstrap_em_diff"], abs=1e-12)
    assert np.percentile(difference, [2.5, 97.5]) == pytest.approx(case["bootstrap_em_ci95"], abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(MATRICES, MATRICES)
def test_every_f1_is_that_of_scikit_learn(truth, given_labels):
    found = multilabel_metrics(truth, given_labels.astype(float))
    expected = precision_recall_fscore_support(truth, given_labels, zero_division=0)
    for ours, theirs in zip((found.precision, found.recall, found.f1, found.support), expected, strict=True):
        assert ours == pytest.approx(theirs)
    for average in ("macro", "micro", "weighted"):
        theirs = f1_score(truth, given_labels, average=average, zero_division=0)
        assert getattr(found, f"{average}_f1") == pytest.approx(theirs)


@settings(max_examples=30, deadline=None)
@given(MATRICES, MATRICES, MATRICES, st.randoms(use_true_random=False))
def test_the_order_of_texts_and_labels_and_of_the_classifiers_changes_nothing(truth, a, b, random):
    given_labels = [matrix.astype(bool) for matrix in (a, b)]
    found = compare_predictions(truth, *given_labels, draws=30)
    texts, labels = random.sample(range(12), 12), random.sample(range(4), 4)
    shuffled = compare_predictions(
        truth[texts][:, labels], *(m[texts][:, labels] for m in given_labels), draws=30
    )
    turned = compare_predictions(truth, *given_labels[::-1], draws=30)
    assert shuffled.exact == found.exact
    for name in METRICS:
        assert shuffled.differences[name].value == pytest.approx(found.differences[name].value)
        assert turned.differences[name].value == pytest.approx(-found.differences[name].value)
        assert turned.differences[name].low == pytest.approx(-found.differences[name].high)
    assert turned.wins == found.wins[::-1]
    assert turned.exact.p == pytest.approx(found.exact.p)


def test_the_bootstrap_of_a_metric_is_that_of_resampled_texts():
    generator = np.random.default_rng(0)
    truth, a, b = generator.integers(0, 2, (40, 3)), *generator.random((2, 40, 3))
    found = paired_bootstrap("macro_f1", truth, a, b, draws=800)
    by_hand = []
    for _ in range(400):
        rows = generator.integers(0, 40, 40)
        scores = [
            f1_score(truth[rows], prob[rows] >= 0.5, average="macro", zero_division=0) for prob in (a, b)
        ]
        by_hand.append(scores[0] - scores[1])
    assert found.value == pytest.approx(
        multilabel_metrics(truth, a).macro_f1 - multilabel_metrics(truth, b).macro_f1
    )
    assert found.standard_error == pytest.approx(np.std(by_hand), rel=0.12)
    assert (found.low, found.high) == pytest.approx(np.percentile(by_hand, [2.5, 97.5]), abs=0.03)


def test_what_is_not_worse_is_shown_with_enough_texts_only():
    truth = np.ones((1000, 1), dtype=int)
    a, b = (np.arange(1000)[:, None] % 10 != other for other in (0, 1))
    assert compare_predictions(truth, a, b, margin=0.05, draws=10).not_worse == "shown"
    few = compare_predictions(truth[:60], a[:60], b[:60], margin=0.05, draws=10)
    assert few.not_worse == "not shown"
    assert few.exact.p == 1
    worse = compare_predictions(truth, a & (np.arange(1000)[:, None] % 5 != 3), b, margin=0.05, draws=10)
    assert worse.not_worse == "opposite"


# --- thresholds --------------------------------------------------------------------------------------------------------


def test_a_score_at_the_threshold_counts_as_given():
    assert decisions(np.array([[0.5, 0.499]])).tolist() == [[True, False]]
    assert decisions(np.array([[0.5, 0.499]]), [0.6, 0.4]).tolist() == [[False, True]]
    assert decisions(np.array([[0.2, 0.3, 0.1]]), None).tolist() == [[False, True, False]]


@settings(max_examples=40, deadline=None)
@given(MATRICES, arrays(np.float64, (12, 4), elements=st.sampled_from([0.1, 0.3, 0.4, 0.8, 0.9])))
def test_tuned_thresholds_have_the_highest_f1_there_is(truth, prob):
    found = multilabel_metrics(truth, prob, tuned_thresholds(truth, prob)).f1
    for threshold in (0.1, 0.3, 0.4, 0.8, 0.9):
        assert (found >= multilabel_metrics(truth, prob, threshold).f1 - 1e-12).all()


# --- what must work, and what is refused -------------------------------------------------------------------------------


def test_one_text_one_label_and_labels_without_positives_or_negatives():
    one = multilabel_metrics([[1]], [[0.5]])
    assert (one.exact_match, one.macro_f1, one.average_precision[0]) == (1, 1, 1)
    assert np.isnan(one.auroc[0])
    none = multilabel_metrics([[0, 1], [0, 1]], [[0.1, 0.9], [0.6, 0.2]])
    assert none.f1.tolist() == [0, pytest.approx(2 / 3)]
    assert np.isnan(none.average_precision).tolist() == [True, False]
    assert none.macro_average_precision == 1
    same = mcnemar([True, False], [True, False])
    assert (same.only_a, same.only_b, same.p) == (0, 0, 1)
    assert holm(mcnemar_p([0, 0], [0, 0])).tolist() == [1, 1]


def test_logits_are_put_through_a_sigmoid():
    logits = np.array([[2.0, -1.0], [0.0, 3.0]])
    truth = [[1, 0], [1, 1]]
    assert multilabel_metrics(truth, logits, logits=True).exact_match == 1


@pytest.mark.parametrize(
    ("truth", "prob", "words"),
    [
        ([[1, 0]], [[0.2, 0.3], [0.1, 0.2]], r"predictions of 2 × 2 do not fit labels of 1 × 2 \(texts × labels\)"),
        ([[1, 0]], [[0.2, 0.3, 0.1]], "for the same texts and labels, in the same order"),
        ([[1, 2]], [[0.2, 0.3]], "labels must be 0 or 1, got 2"),
        ([["cyst", "none"]], [[0.2, 0.3]], "labels must be 0 or 1, got 'cyst': one column for each label, not words"),
        ([[1, 0]], [[0.2, 1.3]], r"probabilities must be in \[0, 1\], got 1.3: say logits=True"),
        ([[1, 0]], [[0.2, np.nan]], r"in \[0, 1\], got nan"),
        (np.zeros((0, 3)), np.zeros((0, 3)), r"at least one of each, got the shape \(0, 3\)"),
        ([[1, 0], [1]], [[0.2, 0.3]], "labels must be numbers, in rows of one length"),
        ([[1, 0]], [["low", "high"]], "probabilities must be numbers"),
        ([1, 0], [0.2, 0.3], r"a matrix of texts × labels with at least one of each, got the shape \(2,\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(truth, prob, words):
    with pytest.raises(UserError, match=words):
        multilabel_metrics(truth, np.array(prob))


@pytest.mark.parametrize("threshold", [[0.5, 0.5, 0.5], float("nan"), np.full((1, 2), 0.5)])
def test_a_threshold_is_one_number_or_one_for_each_label(threshold):
    with pytest.raises(UserError, match="one number for all labels or one for each of 2, got"):
        multilabel_metrics([[1, 0]], [[0.2, 0.3]], threshold)


def test_an_unknown_metric_is_refused():
    with pytest.raises(UserError, match=r"metric must be one of exact_match, macro_f1, .*, got 'accuracy'"):
        paired_bootstrap("accuracy", [[1]], [[0.5]], [[0.5]])
