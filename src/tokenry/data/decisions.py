"""From scores to decisions: thresholds at a false-positive rate, calibrated probabilities, and the figures that judge them.

Scores are higher for text that looks more like a machine's; labels are 0 (human) and 1 (machine).

    threshold at rate f     h[k], h the human scores in descending order, k = ⌊f · N⌋; machine if score > h[k]: at most k of N human texts
    RAID's threshold        search from the mean, until the rate is within 0.0005 of f; machine if score >= threshold
    temperature             p = σ(score / T)              Platt         p = σ(slope · score + intercept), targets smoothed
    isotonic                p = the monotone fit          ECE           Σ over bins: share of the texts · |mean p − share of machine texts|

Sources: Platt (1999); Guo et al. (2017), arXiv 1706.04599; the RAID benchmark, arXiv 2405.07940.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.special import expit

from tokenry.core.errors import UserError, require_one_of
from tokenry.core.stats import Values

METHODS = ("temperature", "platt", "isotonic")

_ROUNDING = 1e-12
_LOG_TEMPERATURES = (-4.0, 4.0)


def threshold_at_fpr(human_scores: Values, fpr: float) -> float:
    """The score above which at most the share `fpr` of the human texts lies."""
    require_rate(fpr)
    scores = np.sort(_numbers(human_scores, "human_scores"))[::-1]
    return float(scores[math.floor(fpr * len(scores) + _ROUNDING)])


def tpr_at_fpr(scores: Values, labels: Sequence[Any] | ndarray, fpr: float) -> float:
    """The share of the machine texts above that threshold."""
    human, machine = by_label(scores, labels)
    return float((machine > threshold_at_fpr(human, fpr)).mean())


def fpr_at_tpr(scores: Values, labels: Sequence[Any] | ndarray, tpr: float) -> float:
    """The smallest share of the human texts that is called machine where at least the share `tpr` of the machine texts is."""
    require_rate(tpr, "tpr")
    human, machine = by_label(scores, labels)
    lowest = np.sort(machine)[::-1][math.ceil(tpr * len(machine) - _ROUNDING) - 1]
    return float((human >= lowest).mean())


def auroc(scores: Values, labels: Sequence[Any] | ndarray) -> float:
    """The probability that a machine text scores above a human one; ties count half."""
    from scipy.stats import rankdata  # most of a second, which every --help would pay

    human, machine = by_label(scores, labels)
    ranks = rankdata(np.concatenate([machine, human]))[: len(machine)]
    return float((ranks.mean() - (len(machine) + 1) / 2) / len(human))


def raid_threshold(human_scores: Values, fpr: float = 0.05) -> tuple[float, float]:
    """The threshold that the RAID benchmark's search finds, and its rate of human texts at or above it."""
    require_rate(fpr)
    scores = _numbers(human_scores, "human_scores")
    threshold, step, before = sum(scores.tolist()) / len(scores), 0.5, 0.0
    tried: list[tuple[float, float]] = []
    for _ in range(50):
        rate = 1 - float((scores < threshold).mean())
        tried.append((threshold, rate))
        distance = fpr - rate
        if abs(distance) <= 0.0005:
            return tried[-1]
        if before and (distance < 0) != (before < 0):
            step *= -0.5
        elif before and abs(distance) - abs(before) > 0.01:
            step = -step
        threshold += step
        before = distance
    gaps = [(fpr - rate, threshold) for threshold, rate in tried if rate > 0]
    if not gaps:
        raise UserError(
            f"the search found no threshold with a rate above 0 near {fpr}: there are too few or too many equal scores."
        )
    best = min((gap for gap in gaps if gap[0] >= 0), default=max(gaps))
    return best[1], fpr - best[0]


# --- probabilities -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SigmoidCurve:
    """p = σ(slope · score + intercept)."""

    slope: float
    intercept: float

    @property
    def temperature(self) -> float:
        """What the scores are divided by."""
        return 1 / self.slope

    def probability(self, scores: Values) -> Float[ndarray, "texts"]:
        """The probability that each text is a machine's."""
        probabilities: ndarray = expit(self.slope * np.asarray(scores, dtype=float) + self.intercept)
        return probabilities


@dataclass(frozen=True)
class MonotoneCurve:
    """p between the knots of an isotonic fit, and constant beyond them."""

    knots: tuple[float, ...]
    values: tuple[float, ...]

    def probability(self, scores: Values) -> Float[ndarray, "texts"]:
        """The probability that each text is a machine's."""
        return np.interp(np.asarray(scores, dtype=float), self.knots, self.values)


@dataclass(frozen=True)
class Calibrator:
    """Fits the map from scores to probabilities, on texts that nothing is tested on.

    Attributes:
        method: `temperature` for scores that are logits already, `platt` for scores of any scale, `isotonic` for some thousand texts.
    """

    method: str = "temperature"

    def __post_init__(self) -> None:
        require_one_of(self.method, METHODS, "method")

    def fit(self, scores: Values, labels: Sequence[Any] | ndarray) -> SigmoidCurve | MonotoneCurve:
        """Fit the curve that makes the labels most probable."""
        by_label(scores, labels)
        numbers, classes = np.asarray(scores, dtype=float), binary_labels(labels)
        if self.method == "isotonic":
            return _isotonic(numbers, classes)
        return (_platt if self.method == "platt" else _temperature)(numbers, classes)


def _temperature(scores: ndarray, labels: ndarray) -> SigmoidCurve:
    from scipy.optimize import minimize_scalar

    signs = np.where(labels == 1, 1.0, -1.0)

    def nll(log_temperature: float) -> float:
        return float(np.logaddexp(0, -signs * scores / math.exp(log_temperature)).mean())

    found = minimize_scalar(nll, bounds=_LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-10})
    return SigmoidCurve(math.exp(-found.x), 0.0)


def _platt(scores: ndarray, labels: ndarray) -> SigmoidCurve:
    """Every text counts as both classes, in the shares of Platt's smoothed targets: separable classes keep a finite slope."""
    from sklearn.linear_model import LogisticRegression

    machines, humans = labels.sum(), (1 - labels).sum()
    target = np.where(labels == 1, (machines + 1) / (machines + 2), 1 / (humans + 2))
    centre, scale = float(scores.mean()), float(scores.std()) or 1.0
    column = np.tile((scores - centre) / scale, 2)[:, None]
    both = np.repeat([1, 0], len(scores))
    fitted = LogisticRegression(C=np.inf, max_iter=1000, tol=1e-8).fit(
        column, both, sample_weight=np.concatenate([target, 1 - target])
    )
    slope = float(fitted.coef_[0, 0]) / scale
    return SigmoidCurve(slope, float(fitted.intercept_[0]) - slope * centre)


def _isotonic(scores: ndarray, labels: ndarray) -> MonotoneCurve:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, labels)
    return MonotoneCurve(tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist()))


def ece(probabilities: Values, labels: Sequence[Any] | ndarray, bins: int = 15) -> float:
    """The expected calibration error over bins of equal width."""
    gaps, sizes = _gaps(probabilities, labels, bins)
    return float((sizes * gaps).sum())


def mce(probabilities: Values, labels: Sequence[Any] | ndarray, bins: int = 15) -> float:
    """The largest error of a bin."""
    return float(_gaps(probabilities, labels, bins)[0].max())


def brier(probabilities: Values, labels: Sequence[Any] | ndarray) -> float:
    """The mean squared error of the probabilities."""
    return float(np.square(_probabilities(probabilities) - binary_labels(labels)).mean())


def _gaps(probabilities: Values, labels: Sequence[Any] | ndarray, bins: int) -> tuple[ndarray, ndarray]:
    """|mean p − share of machine texts| of every bin, and the share of the texts in it."""
    values, targets = _probabilities(probabilities), binary_labels(labels)
    places = np.minimum((values * bins).astype(int), bins - 1)
    counts = np.bincount(places, minlength=bins)
    gaps = np.abs(np.bincount(places, values - targets, minlength=bins)) / np.maximum(counts, 1)
    return gaps, counts / len(values)


# --- what is refused ---------------------------------------------------------------------------------------------------


def require_rate(rate: float, name: str = "fpr") -> None:
    """Raise `UserError` unless the rate is inside (0, 1)."""
    if not 0 < rate < 1:
        raise UserError(f"{name} must be between 0 and 1, both left out, got {rate}.")


def binary_labels(labels: Sequence[Any] | ndarray) -> Int[ndarray, "texts"]:
    """Labels as 0 and 1, also where a table holds them as text.

    Raises:
        UserError: another label, such as a word.
    """
    numbers = [int(label) if label in ("0", "1") else label for label in labels]
    for place, label in enumerate(numbers):
        if isinstance(label, str) or label not in (0, 1):
            raise UserError(f"labels are 0 (human) or 1 (machine), got {label!r} for text {place + 1}.")
    return np.array(numbers, dtype=int)


def by_label(scores: Values, labels: Sequence[Any] | ndarray) -> tuple[ndarray, ndarray]:
    """The scores of the human and of the machine texts.

    Raises:
        UserError: scores and labels of different lengths, a score that is no number, or one class only.
    """
    numbers, classes = _numbers(scores, "scores"), binary_labels(labels)
    if len(numbers) != len(classes):
        raise UserError(
            f"there are {len(numbers)} scores for {len(classes)} labels: give one label per text."
        )
    if len(set(classes.tolist())) < 2:
        raise UserError(
            "all texts have one label: human and machine texts are needed to tell how well they are told apart."
        )
    return numbers[classes == 0], numbers[classes == 1]


def _numbers(scores: Values, name: str) -> ndarray:
    numbers = np.asarray(scores, dtype=float)
    if not len(numbers):
        raise UserError(f"{name} is empty: give scores of some texts.")
    if np.isnan(numbers).any():
        raise UserError(
            f"{name} holds nan for text {int(np.isnan(numbers).argmax()) + 1}: leave out texts without a score."
        )
    return numbers


def _probabilities(values: Values) -> ndarray:
    numbers = _numbers(values, "probabilities")
    if numbers.min() < 0 or numbers.max() > 1:
        raise UserError(f"probabilities are in [0, 1], got {numbers.min():g} to {numbers.max():g}.")
    return numbers
