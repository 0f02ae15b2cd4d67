"""Metrics of texts with any number of labels, and paired differences of two classifiers on the same texts.

    tp, fp, fn          counts of a label over the texts, at a threshold (≥ is positive)
    precision, recall   tp / (tp + fp), tp / (tp + fn)
    F1                  2 tp / (2 tp + fp + fn)                          0 where nothing is there and nothing predicted
    macro, weighted     mean of the labels' F1, plain or by the number of texts that have the label; micro: F1 of the summed counts
    exact match         share of the texts whose labels are all right

All of them are functions of sums over texts, so the bootstrap draws texts and adds up their counts:

    totals (draws, counts) = times drawn (draws, texts) @ counts (texts, counts)

Average precision and the area under the ROC curve rank, and know no threshold: that they fall less than F1 on other texts says that
the threshold is off, not the model. They are nan for a label without positives, or without negatives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.special import expit
from sklearn.metrics import average_precision_score, roc_auc_score

from tokenry.core.errors import UserError, require_one_of
from tokenry.core.stats import (
    Estimate,
    McNemar,
    Verdict,
    bootstrap_estimate,
    holm,
    mcnemar,
    mcnemar_p,
    paired_share_difference,
    resampled_totals,
    shown,
)

Threshold = float | int | Sequence[float] | ndarray | None
"""From which probability a label is given, for all labels or for each; None gives each text its most probable label alone."""

Given: TypeAlias = Bool[ndarray, "_ _"]
"""Which labels each text is given, (texts, labels); refused where that is not the shape of the known labels."""

METRICS = ("exact_match", "macro_f1", "micro_f1", "weighted_f1", "hamming_loss")


@dataclass(frozen=True)
class MultilabelMetrics:
    """What a classifier is worth on texts with known labels.

    Attributes:
        support: number of texts that have each label.
        f1: F1 of each label.
        average_precision: average precision of each label; nan without positives.
        auroc: area under the ROC curve of each label; nan with one class only.
        exact_match: share of the texts whose labels are all right.
        macro_f1: mean of the labels' F1.
        micro_f1: F1 of the counts of all labels.
        weighted_f1: mean of the labels' F1 by their support.
        hamming_loss: share of single labels that are wrong.
    """

    texts: int
    support: Int[ndarray, "labels"]
    precision: Float[ndarray, "labels"]
    recall: Float[ndarray, "labels"]
    f1: Float[ndarray, "labels"]
    average_precision: Float[ndarray, "labels"]
    auroc: Float[ndarray, "labels"]
    exact_match: float
    macro_f1: float
    micro_f1: float
    weighted_f1: float
    hamming_loss: float

    @property
    def macro_average_precision(self) -> float:
        """Mean of the average precision over the labels that have positives; nan if none has."""
        known = self.average_precision[~np.isnan(self.average_precision)]
        return float(known.mean()) if len(known) else float("nan")


@dataclass(frozen=True)
class LabelDifference:
    """One label, as two classifiers give it.

    Attributes:
        f1_a: F1 of a.
        f1_b: F1 of b.
        p: p-value of the exact McNemar test.
        holm: the same, adjusted for the number of labels.
    """

    f1_a: float
    f1_b: float
    p: float
    holm: float


@dataclass(frozen=True)
class PairedComparison:
    """Classifier a against b on the same texts; differences are a − b.

    Attributes:
        exact: texts that only one of them labels entirely right, with the exact McNemar test.
        p_values: p-values of the other forms of the test.
        exact_match: difference of the exact match with Tango's score interval.
        differences: difference of every metric, with bootstrap intervals over texts.
        labels: both on each label.
        margin: share of the texts that a may be worse by.
        not_worse: verdict on a's exact match being not worse by more than the margin.
    """

    exact: McNemar
    p_values: Mapping[str, float]
    exact_match: Estimate
    differences: Mapping[str, Estimate]
    labels: Sequence[LabelDifference]
    margin: float
    not_worse: Verdict

    @property
    def wins(self) -> tuple[int, int, int]:
        """Labels on which the F1 of a is higher, equal, and lower."""
        gaps = [np.sign(label.f1_a - label.f1_b) for label in self.labels]
        return gaps.count(1), gaps.count(0), gaps.count(-1)


def multilabel_metrics(
    y_true: Any, prob: Any, threshold: Threshold = 0.5, logits: bool = False
) -> MultilabelMetrics:
    """Measure probabilities, or logits, of each label against the labels of the texts, 0 or 1.

    Args:
        y_true: labels, (texts, labels).
        prob: probabilities in [0, 1], in the same order of texts and labels.
        threshold: from which a label is given; equal counts as given.
        logits: whether `prob` holds logits of the labels; they are put through a sigmoid.
    """
    truth, scores = checked_labels(y_true), checked_probabilities(prob, logits)
    predicted = decisions(scores, threshold)
    totals = text_counts(truth, predicted).sum(axis=0)[None]
    tp, fp, fn = (part[0] for part in _parts(totals))
    ranked = [(truth[:, label], scores[:, label]) for label in range(truth.shape[1])]
    return MultilabelMetrics(
        texts=len(truth),
        support=(tp + fn).astype(np.int64),
        precision=_share(tp, tp + fp),
        recall=_share(tp, tp + fn),
        f1=_f1(tp, fp, fn),
        average_precision=np.array([average_precision_score(*pair) if pair[0].any() else np.nan for pair in ranked]),
        auroc=np.array([
            roc_auc_score(*pair) if 0 < pair[0].sum() < len(truth) else np.nan for pair in ranked
        ]),
        **{name: float(values[0]) for name, values in figures(totals, len(truth)).items()},
    )  # fmt: skip


def decisions(
    prob: Float[ndarray, "texts labels"], threshold: Threshold = 0.5
) -> Bool[ndarray, "texts labels"]:
    """Which labels each text is given."""
    if threshold is None:
        return np.arange(prob.shape[1]) == prob.argmax(axis=1)[:, None]
    limits = _numbers(threshold, "thresholds")
    if limits.shape not in ((), prob.shape[1:]) or np.isnan(limits).any():
        raise UserError(
            f"a threshold is one number for all labels or one for each of {prob.shape[1]}, got {threshold}."
        )
    return prob >= limits


def tuned_thresholds(y_true: Any, prob: Any) -> Float[ndarray, "labels"]:
    """The threshold of each label with the highest F1 on these texts (validation, never the test); 0.5 without positives."""
    truth, scores = checked_labels(y_true), checked_probabilities(prob)
    _require_same(truth, scores)
    found = np.full(truth.shape[1], 0.5)
    for label in np.flatnonzero(truth.any(axis=0)):
        order = np.argsort(-scores[:, label], kind="stable")
        ranked, right = scores[order, label], truth[order, label].cumsum()
        f1 = 2 * right / (1 + np.arange(len(order)) + right[-1])
        f1[:-1][ranked[:-1] == ranked[1:]] = -1  # equal scores are given together
        found[label] = ranked[f1.argmax()]
    return found


def text_counts(truth: Bool[ndarray, "texts labels"], predicted: Given) -> Float[ndarray, "texts counts"]:
    """What each text adds to tp, fp and fn of every label, and whether its labels are all right."""
    _require_same(truth, predicted)
    right = (truth == predicted).all(axis=1, keepdims=True)
    return np.hstack([truth & predicted, ~truth & predicted, truth & ~predicted, right]).astype(float)


def figures(totals: Float[ndarray, "draws counts"], texts: int) -> dict[str, Float[ndarray, "draws"]]:
    """The metrics of sums of `text_counts`, one for every draw of `texts` texts."""
    tp, fp, fn = _parts(totals)
    f1, support = _f1(tp, fp, fn), tp + fn
    return {
        "exact_match": totals[:, -1] / texts,
        "macro_f1": f1.mean(axis=1),
        "micro_f1": _f1(*(part.sum(axis=1) for part in (tp, fp, fn))),
        "weighted_f1": _share((f1 * support).sum(axis=1), support.sum(axis=1)),
        "hamming_loss": (fp + fn).mean(axis=1) / texts,
    }


def paired_differences(
    truth: Bool[ndarray, "texts labels"],
    a: Given,
    b: Given,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """The difference a − b of every metric, with bootstrap intervals over texts."""
    counts = np.hstack([text_counts(truth, a), text_counts(truth, b)])
    totals = np.vstack([counts.sum(axis=0), resampled_totals(counts, draws, seed)])
    of_a, of_b = (figures(half, len(truth)) for half in np.hsplit(totals, 2))
    gaps = {name: of_a[name] - of_b[name] for name in METRICS}
    return {name: bootstrap_estimate(float(gap[0]), gap[1:], len(truth)) for name, gap in gaps.items()}


def paired_bootstrap(
    metric: str,
    y_true: Any,
    a: Any,
    b: Any,
    draws: int = 2000,
    seed: int = 0,
    threshold: Threshold = 0.5,
) -> Estimate:
    """The difference a − b of one metric of probabilities, with its bootstrap interval."""
    require_one_of(metric, METRICS, "metric")
    of_a, of_b = (decisions(checked_probabilities(prob), threshold) for prob in (a, b))
    return paired_differences(checked_labels(y_true), of_a, of_b, draws, seed)[metric]


def compare_predictions(
    y_true: Any,
    a: Given,
    b: Given,
    margin: float | int = 0.05,
    draws: int = 2000,
    seed: int = 0,
) -> PairedComparison:
    """Compare which labels two classifiers give to the same texts (`decisions` of their probabilities).

    Args:
        y_true: labels of the texts.
        a: labels that a gives.
        b: labels that b gives.
        margin: share of the texts that a may be worse by, in exact match, to count as not worse.
        draws: resamples behind the bootstrap intervals.
    """
    truth = checked_labels(y_true)
    differences = paired_differences(truth, a, b, draws, seed)
    right_a, right_b = ((truth == given) for given in (a, b))
    whole = right_a.all(axis=1), right_b.all(axis=1)
    exact = mcnemar(*whole)
    p_labels = mcnemar_p((right_a & ~right_b).sum(axis=0), (right_b & ~right_a).sum(axis=0))
    f1_a, f1_b = (
        _f1(*(part[0] for part in _parts(text_counts(truth, given).sum(axis=0)[None]))) for given in (a, b)
    )
    exact_match = paired_share_difference(exact.only_a, exact.only_b, len(truth))
    return PairedComparison(
        exact=exact,
        p_values={method: mcnemar(*whole, method).p for method in ("midp", "chi2_cc", "chi2")},
        exact_match=exact_match,
        differences=differences,
        labels=[
            LabelDifference(*map(float, row))
            for row in zip(f1_a, f1_b, p_labels, holm(p_labels), strict=True)
        ],
        margin=margin,
        not_worse=shown(exact_match, -margin),
    )


def checked_labels(y_true: Any) -> Bool[ndarray, "texts labels"]:
    """Labels as a matrix of bools; raises `UserError` if they are not 0 or 1, or there are none."""
    found = _numbers(y_true, "labels", dtype=None)
    if found.ndim != 2 or not found.size:
        raise UserError(
            f"labels are a matrix of texts × labels with at least one of each, got the shape {found.shape}."
        )
    if found.dtype.kind not in "biuf" or not np.isin(found, (0, 1)).all():
        wrong = found.flat[0] if found.dtype.kind not in "biuf" else found[~np.isin(found, (0, 1))][0]
        raise UserError(f"labels must be 0 or 1, got {wrong.item()!r}: one column for each label, not words.")
    return found.astype(bool)


def checked_probabilities(prob: Any, logits: bool = False) -> Float[ndarray, "texts labels"]:
    """Probabilities as a matrix; raises `UserError` if one is outside [0, 1] or not a number."""
    found = _numbers(prob, "probabilities")
    if logits:
        found = expit(found)
    wrong = found[~((found >= 0) & (found <= 1))]
    if wrong.size:
        raise UserError(
            f"probabilities must be in [0, 1], got {wrong[0]}: say logits=True if these are logits."
        )
    return found


def _numbers(values: Any, what: str, dtype: type | None = float) -> ndarray:
    try:
        return np.asarray(values, dtype=dtype)
    except ValueError as error:
        raise UserError(f"{what} must be numbers, in rows of one length: {error}.") from error


def _require_same(truth: ndarray, other: ndarray) -> None:
    if truth.shape != other.shape:
        raise UserError(
            f"predictions of {' × '.join(map(str, other.shape))} do not fit labels of {' × '.join(map(str, truth.shape))} "
            "(texts × labels): give them for the same texts and labels, in the same order."
        )


def _parts(totals: Float[ndarray, "draws counts"]) -> list[Float[ndarray, "draws labels"]]:
    """The tp, fp and fn in sums of `text_counts`."""
    return np.split(totals[:, :-1], 3, axis=1)


def _f1(tp: ndarray, fp: ndarray, fn: ndarray) -> ndarray:
    return _share(2 * tp, 2 * tp + fp + fn)


def _share(part: ndarray, whole: ndarray) -> ndarray:
    return np.divide(part, whole, out=np.zeros_like(part, dtype=float), where=whole > 0)
