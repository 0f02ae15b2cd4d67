"""Compare encoders and their tokenizers on one task: tokens, speed, accuracy, and whether the differences are more than noise.

    for every encoder       token statistics · fine-tuning, the same for all · throughput · metrics on the test and on an external set
    against the first one   paired tests on the same texts · the speed-up and its factors

A threshold of 0.5 is used everywhere; beside it, metrics at thresholds tuned on the validation texts say what better ones would give.

    report = compare_encoders({"bert": bert, "modernbert": modernbert}, data, ClassifierConfig(epochs=4))
    report.comparisons["modernbert"].not_worse

Source: ModernBERT is More Efficient than Conventional BERT for Chest CT Findings Classification (arXiv 2503.05060).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from tokenry.core.errors import UserError, require_fraction
from tokenry.core.io.files import without_nan
from tokenry.core.io.progress import Progress, in_turn, part
from tokenry.core.stats import items_needed
from tokenry.core.text.token_statistics import TokenStats, token_stats
from tokenry.core.train.classifier import FOUR_EPOCHS, ClassifierConfig
from tokenry.evaluation.encoders.multilabel import (
    MultilabelMetrics,
    PairedComparison,
    Threshold,
    checked_labels,
    compare_predictions,
    decisions,
    multilabel_metrics,
    tuned_thresholds,
)
from tokenry.evaluation.encoders.throughput import SpeedUp, Throughput, speed_ups
from tokenry.models.text_classifier import FineTuned, TextClassifier


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with a matrix of labels, 0 or 1, also where each text has exactly one.

    Attributes:
        labels: (texts, labels).
    """

    texts: Sequence[str]
    labels: Int[ndarray, "texts labels"]

    def __post_init__(self) -> None:
        if len(checked_labels(self.labels)) != len(self.texts):
            raise UserError(
                f"there are {len(self.texts)} texts and labels for {len(self.labels)}: give one row per text."
            )


@dataclass(frozen=True)
class EncoderData:
    """The task on which encoders are compared.

    Attributes:
        train: texts to fine-tune on.
        validation: texts that choose the epoch and the thresholds.
        test: texts that nothing is chosen on.
        external: texts from elsewhere, with the same labels; None for none.
        multi_label: whether a text may have any number of labels.
    """

    names: tuple[str, ...]
    train: LabelledTexts
    validation: LabelledTexts
    test: LabelledTexts
    external: LabelledTexts | None = None
    multi_label: bool = True

    def __post_init__(self) -> None:
        for part_name, texts in self.parts().items():
            if texts.labels.shape[1] != len(self.names):
                raise UserError(
                    f"the {part_name} texts have {texts.labels.shape[1]} labels and the task has {len(self.names)}: give the same ones in the "
                    "same order."
                )
            if not self.multi_label and (texts.labels.sum(axis=1) != 1).any():
                raise UserError(
                    f"each of the {part_name} texts must have exactly one label where the task is not multi-label."
                )

    def parts(self) -> dict[str, LabelledTexts]:
        """The texts by the name of their part."""
        found = {"training": self.train, "validation": self.validation, "test": self.test}
        return found if self.external is None else found | {"external": self.external}

    @property
    def threshold(self) -> Threshold:
        """The threshold without tuning."""
        return 0.5 if self.multi_label else None


@dataclass(frozen=True)
class EncoderResult:
    """One encoder on the task.

    Attributes:
        tokens: token statistics of the test texts.
        training: its fine-tuning.
        speed: its speed on test texts.
        speed_up: speed-up over the first encoder; None for that one.
        metrics: metrics on the `test` and the `external` texts, and of each at thresholds tuned on validation (`test, tuned`).
        probabilities: probabilities of the test and external texts.
    """

    tokens: TokenStats
    training: FineTuned
    speed: Throughput
    speed_up: SpeedUp | None
    metrics: Mapping[str, MultilabelMetrics]
    probabilities: Mapping[str, Float[ndarray, "texts labels"]]


@dataclass(frozen=True)
class EfficiencyReport:
    """Encoders side by side.

    Attributes:
        encoders: the result of each, the baseline first.
        comparisons: each of the others against the baseline, on the test texts.
        external: likewise on the external texts; empty without them.
    """

    names: tuple[str, ...]
    encoders: Mapping[str, EncoderResult]
    comparisons: Mapping[str, PairedComparison]
    external: Mapping[str, PairedComparison]

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, without the probabilities and the losses of single steps."""
        first = next(iter(self.encoders.values()))
        encoders = [
            {
                "name": name,
                "tokens": asdict(found.tokens) | {"reduction": found.tokens.reduction_from(first.tokens)},
                "training": asdict(replace(found.training, losses=()))
                | {"best_epoch": found.training.best_epoch},
                "speed": asdict(found.speed) | {"texts_per_second": found.speed.texts_per_second},
                "speed_up": None
                if found.speed_up is None
                else asdict(found.speed_up) | {"total": found.speed_up.total},
                "metrics": {part_name: metrics_json(metrics) for part_name, metrics in found.metrics.items()},
            }
            for name, found in self.encoders.items()
        ]
        return without_nan(
            {
                "labels": list(self.names),
                "encoders": encoders,
                "comparisons": comparisons_json(self.comparisons),
                "external": comparisons_json(self.external),
            }
        )


def compare_encoders(
    classifiers: Mapping[str, TextClassifier],
    data: EncoderData,
    config: ClassifierConfig = FOUR_EPOCHS,
    *,
    margin: float | int = 0.05,
    inference_batch_size: int = 32,
    rounds: int = 5,
    timed_texts: int = 200,
    draws: int = 2000,
    progress: Progress = lambda what, share: None,
) -> EfficiencyReport:
    """Fine-tune every encoder in the same way, and compare them.

    Args:
        classifiers: encoders with new heads for the labels, the baseline first; they are trained in place.
        config: the fine-tuning of all of them.
        margin: share of the texts that an encoder may be worse by, in exact match, to count as not worse.
        inference_batch_size: texts of a batch when probabilities and speed are measured.
        rounds: rounds of the speed measurement.
        timed_texts: number of test texts that it reads.
        draws: resamples behind the bootstrap intervals.
        progress: receives the present stage and the share done.
    """
    require_fraction(margin, "margin")
    if len(classifiers) < 2:
        raise UserError(f"a comparison needs at least two encoders, got {len(classifiers)}.")
    for name, classifier in classifiers.items():
        if classifier.labels != data.names or classifier.multi_label != data.multi_label:
            raise UserError(
                f"{name} gives the labels {', '.join(classifier.labels)}, and the data have {', '.join(data.names)}: load it with these labels "
                f"and multi_label={data.multi_label}."
            )
    trained = {}
    for (name, classifier), stage in in_turn(classifiers.items(), progress, 0.0, 0.8):
        trained[name] = classifier.fine_tune(
            data.train.texts,
            _targets(data, data.train),
            config,
            validation=(data.validation.texts, _targets(data, data.validation)),
            progress=_of(name, stage),
        )
    speed, split = speed_ups(
        classifiers, data.test.texts, inference_batch_size, rounds, part(progress, 0.8, 0.95)
    )
    progress("metrics", 0.95)
    encoders = {}
    for name, classifier in classifiers.items():
        metrics, probabilities = _measured(classifier, data, inference_batch_size)
        encoders[name] = EncoderResult(
            tokens=token_stats(
                classifier.tokenizer, data.test.texts, max_length=classifier.max_length, batch_size=inference_batch_size
            ),
            training=trained[name],
            speed=speed[name],
            speed_up=split.get(name),
            metrics=metrics,
            probabilities=probabilities,
        )  # fmt: skip
    compared = {
        part_name: compare_with_first(
            texts.labels,
            {name: found.probabilities[part_name] for name, found in encoders.items()},
            data.threshold,
            margin,
            draws,
        )
        for part_name, texts in _measured_parts(data).items()
    }
    progress("done", 1.0)
    return EfficiencyReport(data.names, encoders, compared["test"], compared.get("external", {}))


def compare_with_first(
    y_true: Int[ndarray, "texts labels"],
    probabilities: Mapping[str, ndarray],
    threshold: Threshold = 0.5,
    margin: float | int = 0.05,
    draws: int = 2000,
) -> dict[str, PairedComparison]:
    """Compare probabilities of the same texts, stored ones too, each with those of the first."""
    given = {name: decisions(np.asarray(prob), threshold) for name, prob in probabilities.items()}
    first, *others = given
    return {name: compare_predictions(y_true, given[name], given[first], margin, draws) for name in others}


def texts_to_settle(comparison: PairedComparison) -> int | None:
    """Test texts with which a true difference as large as the measured one is found in 4 of 5 tests; None without a difference."""
    difference, texts = comparison.exact_match.value, comparison.exact_match.samples
    if not difference:
        return None
    return items_needed(abs(difference), (comparison.exact.only_a + comparison.exact.only_b) / texts)


def _of(name: str, progress: Progress) -> Progress:
    return lambda what, share: progress(f"{name}: {what}", share)


def _measured_parts(data: EncoderData) -> dict[str, LabelledTexts]:
    return {name: texts for name, texts in data.parts().items() if name in ("test", "external")}


def _targets(data: EncoderData, texts: LabelledTexts) -> Int[ndarray, "texts *labels"]:
    return texts.labels if data.multi_label else texts.labels.argmax(axis=1)


def _measured(
    classifier: TextClassifier, data: EncoderData, batch_size: int
) -> tuple[dict[str, MultilabelMetrics], dict[str, ndarray]]:
    """Metrics and probabilities of the test and the external texts."""
    tuned = None
    if data.multi_label:
        validation = classifier.probabilities(data.validation.texts, batch_size)
        tuned = tuned_thresholds(data.validation.labels, validation)
    metrics, probabilities = {}, {}
    for name, texts in _measured_parts(data).items():
        prob = classifier.probabilities(texts.texts, batch_size)
        probabilities[name] = prob
        metrics[name] = multilabel_metrics(texts.labels, prob, data.threshold)
        if tuned is not None:
            metrics[f"{name}, tuned"] = multilabel_metrics(texts.labels, prob, tuned)
    return metrics, probabilities


def metrics_json(metrics: MultilabelMetrics) -> dict[str, Any]:
    """Metrics as plain numbers and lists."""
    return {
        name: value.tolist() if isinstance(value, ndarray) else value
        for name, value in asdict(metrics).items()
    } | {"macro_average_precision": metrics.macro_average_precision}


def comparisons_json(comparisons: Mapping[str, PairedComparison]) -> list[dict[str, Any]]:
    """Comparisons with the first encoder as plain numbers."""
    return [
        asdict(found) | {"name": name, "wins": list(found.wins), "texts_to_settle": texts_to_settle(found)}
        for name, found in comparisons.items()
    ]
