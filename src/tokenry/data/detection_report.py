"""How a calibrated detector does on labelled texts: rates with exact intervals, by domain, length, generator, writer, and under attack.

    false positives   share of the human texts that are called a machine's         found   share of the machine texts that are

The threshold is that of the calibration throughout; an undecidable text is called neither.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenry.core.errors import UserError
from tokenry.core.stats import Estimate, bootstrap, clopper_pearson
from tokenry.data.ai_text import CalibratedDetector, Decision
from tokenry.data.attacks import Paraphrase, attack
from tokenry.data.decisions import auroc, binary_labels, brier, ece, tpr_at_fpr

RATES = (0.001, 0.01, 0.05)
LENGTHS = (50, 100, 200, 400)


@dataclass(frozen=True)
class Counted:
    """Events among texts.

    Attributes:
        events: number of texts to which it happened.
        texts: number of texts.
        share: of the texts; None without any.
        low: lower end of its exact 95 % interval.
        high: upper end of it.
    """

    events: int
    texts: int
    share: float | None
    low: float
    high: float

    @classmethod
    def of(cls, happened: Sequence[bool]) -> "Counted":
        """Count."""
        events, texts = sum(happened), len(happened)
        return cls(events, texts, events / texts if texts else None, *clopper_pearson(events, texts))


@dataclass(frozen=True)
class GroupRates:
    """The rates on a group of texts.

    Attributes:
        by: column that makes the group, such as `domain`; empty for all texts.
        name: value in that column.
        false_positives: human texts called a machine's.
        found: machine texts called a machine's.
        undecidable: texts about which nothing is said.
    """

    by: str
    name: str
    false_positives: Counted
    found: Counted
    undecidable: Counted


@dataclass(frozen=True)
class DetectionReport:
    """What a detector does on labelled texts.

    Attributes:
        overall: rates on all texts.
        groups: rates by column.
        attacks: rates on attacked texts, machine's and human ones; by the name of the attack.
        auroc: probability that a machine text scores above a human one, with a bootstrap interval.
        tpr_at: share of the machine texts above thresholds chosen on these human texts, by the rate, where they are enough for it.
        ece: calibration error of the probabilities; None without probabilities.
        brier: their mean squared error.
        decisions: the decision on every text.
    """

    overall: GroupRates
    groups: tuple[GroupRates, ...]
    attacks: tuple[GroupRates, ...]
    auroc: Estimate
    tpr_at: Mapping[float, float]
    ece: float | None
    brier: float | None
    decisions: tuple[Decision, ...]


def detection_report(
    detector: CalibratedDetector,
    data: Sequence[Mapping[str, Any]],
    attacks: Sequence[str | Paraphrase] = (),
    by: Sequence[str] = ("domain", "length"),
    *,
    rate: float | int | None = None,
    seed: int = 0,
) -> DetectionReport:
    """Judge labelled texts, as they are and attacked.

    Args:
        detector: a calibrated detector.
        data: texts with `text`, `label` (0 human, 1 machine) and any columns.
        attacks: kinds of attack, as in `attack`.
        by: columns by which to report; `length` is made from the number of tokens, and columns that no text has are passed over.
        rate: share of the places that an attack changes; by default RAID's.
        seed: random seed of the attacks and the bootstrap.

    Raises:
        UserError: a text without a label, a label that is neither 0 nor 1, or texts of one label only.
    """
    texts, labels = require_labelled(data)
    decisions = detector.judge(texts)
    scored = [place for place, decision in enumerate(decisions) if not np.isnan(decision.score)]
    scores = np.array([decisions[place].score for place in scored])
    known = labels[scored]
    if len(set(known.tolist())) < 2:
        raise UserError(
            f"{len(scored)} of {len(texts)} texts have a score, and not of both labels: a text of one token has none; give longer texts."
        )
    enough = [fpr for fpr in RATES if fpr * (known == 0).sum() >= 1]
    probabilities = [decisions[place].probability for place in scored]
    has_curve = detector.calibration.curve is not None
    attacked = []
    for kind in attacks:
        found = detector.judge(attack(texts, kind, rate, seed))
        name = kind if isinstance(kind, str) else getattr(kind, "__name__", "paraphrase")
        attacked.append(_rates("attack", name, found, labels))
    return DetectionReport(
        overall=_rates("", "all texts", decisions, labels),
        groups=tuple(_grouped(data, decisions, labels, by)),
        attacks=tuple(attacked),
        auroc=_auroc(scores, known, seed),
        tpr_at={fpr: tpr_at_fpr(scores, known, fpr) for fpr in enough},
        ece=ece(probabilities, known) if has_curve else None,
        brier=brier(probabilities, known) if has_curve else None,
        decisions=tuple(decisions),
    )


def require_labelled(data: Sequence[Mapping[str, Any]]) -> tuple[list[str], Any]:
    """The texts and labels of rows.

    Raises:
        UserError: a row without them, or rows of one label only.
    """
    for number, row in enumerate(data, start=1):
        if not isinstance(row.get("text"), str):
            raise UserError(f"row {number} has no text under `text`.")
        if row.get("label") is None:
            raise UserError(f"row {number} has no label: give 0 for a human text and 1 for a machine's.")
    labels = binary_labels([row["label"] for row in data])
    if len(set(labels.tolist())) < 2:
        raise UserError(
            "all texts have one label: human and machine texts are needed to tell how well they are told apart."
        )
    return [row["text"] for row in data], labels


def _grouped(
    data: Sequence[Mapping[str, Any]], decisions: Sequence[Decision], labels: Any, by: Sequence[str]
) -> list[GroupRates]:
    found = []
    for column in by:
        names = [
            length_bucket(decision.tokens) if column == "length" else row.get(column)
            for row, decision in zip(data, decisions, strict=True)
        ]
        values = [length_bucket(least) for least in (0, *LENGTHS)] if column == "length" else sorted(
            {str(name) for name in names if name is not None}
        )  # fmt: skip
        for value in values:
            places = [place for place, name in enumerate(names) if name is not None and str(name) == value]
            if places:
                found.append(_rates(column, value, [decisions[place] for place in places], labels[places]))
    return found


def length_bucket(tokens: int) -> str:
    """The range of lengths that a text belongs to."""
    edges = (0, *LENGTHS)
    place = int(np.searchsorted(edges, tokens, side="right")) - 1
    return (
        f"{edges[place]} to {edges[place + 1] - 1} tokens"
        if place + 1 < len(edges)
        else f"{edges[-1]} tokens or more"
    )


def _rates(by: str, name: str, decisions: Sequence[Decision], labels: Any) -> GroupRates:
    called = [decision.outcome == "machine" for decision in decisions]
    sides = [[one for one, label in zip(called, labels, strict=True) if label == side] for side in (0, 1)]
    undecidable = [decision.outcome == "undecidable" for decision in decisions]
    return GroupRates(by, name, Counted.of(sides[0]), Counted.of(sides[1]), Counted.of(undecidable))


def _auroc(scores: Any, labels: Any, seed: int) -> Estimate:
    """A draw that has one label only says nothing."""

    def drawn(scores: Any, labels: Any) -> float:
        return auroc(scores, labels) if 0 < labels.sum() < len(labels) else float("nan")

    return bootstrap(drawn, scores, labels, draws=500, seed=seed)
