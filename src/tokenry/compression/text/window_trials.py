"""What short windows cost: the same classifier fine-tuned on texts at any window, scored by macro F1, in minutes, and text by text.

Source: Simple Hack for Transformers against Heavy Long-Text Classification (arXiv 2403.12563).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Int
from numpy import ndarray

from tokenry.compression.text.long_text import TextHacks
from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress
from tokenry.core.text.token_counts import AnyTokenizer
from tokenry.core.train.classifier import ClassifierConfig
from tokenry.models.text_classifier import TextClassifier

NEWS = ClassifierConfig(epochs=5, batch_size=16, learning_rate=2e-5, warmup=0.0, weight_decay=0.0, seed=42, best_by="macro-f1")  # fmt: skip
"""Fine-tuning in an earlier study of the same author, mirzaalimm/TruncationVsSummarization."""


@dataclass(frozen=True)
class ClassifiedTexts:
    """Texts with the number of the label of each."""

    texts: Sequence[str]
    labels: Int[ndarray, "texts"]

    def __post_init__(self) -> None:
        if not len(self.texts) or len(self.texts) != len(self.labels):
            raise UserError(
                f"there are {len(self.texts)} texts and {len(self.labels)} labels: give at least one text, and a label to each."
            )


@dataclass(frozen=True)
class TextSplits:
    """Texts to fine-tune on, to choose by, and to test on.

    Attributes:
        train: texts that hacks and weights are fitted on.
        validation: texts that choose the epoch and the hyper-parameters.
        test: texts that nothing is chosen on.
    """

    names: tuple[str, ...]
    train: ClassifiedTexts
    validation: ClassifiedTexts
    test: ClassifiedTexts

    def shortened(
        self, hacks: TextHacks, tokenizer: AnyTokenizer | None = None, max_length: int | None = None
    ) -> "TextSplits":
        """The same documents after the hacks, which are fitted on the training texts; arguments as of `TextHacks.transform`."""
        hacks.fit(self.train.texts)
        train, validation, test = (
            ClassifiedTexts(hacks.transform(part.texts, tokenizer, max_length), part.labels)
            for part in (self.train, self.validation, self.test)
        )
        return TextSplits(self.names, train, validation, test)


@dataclass(frozen=True)
class WindowTrial:
    """One fine-tuning.

    Attributes:
        validation_f1: macro F1 on the validation texts, in the best epoch.
        test_f1: macro F1 on the test texts.
        right: whether each test text got its label.
        seconds: wall-clock time of the training.
        cpu_seconds: its CPU time.
    """

    validation_f1: float
    test_f1: float
    right: Bool[ndarray, "texts"]
    seconds: float
    cpu_seconds: float


def window_trial(
    classifier: TextClassifier,
    data: TextSplits,
    config: ClassifierConfig = NEWS,
    progress: Progress = lambda what, share: None,
) -> WindowTrial:
    """Fine-tune a classifier, whose `max_length` is the window, and score it."""
    if classifier.labels != data.names:
        raise UserError(
            f"the classifier gives the labels {', '.join(classifier.labels)}, and the texts have {', '.join(data.names)}: load it with "
            "these labels."
        )
    tuned = classifier.fine_tune(
        data.train.texts,
        data.train.labels,
        config,
        validation=(data.validation.texts, data.validation.labels),
        progress=progress,
    )
    given = classifier.probabilities(data.test.texts).argmax(axis=1)
    return WindowTrial(
        validation_f1=max(tuned.scores),
        test_f1=classifier.macro_f1(data.test.texts, data.test.labels),
        right=given == data.test.labels,
        seconds=tuned.seconds,
        cpu_seconds=tuned.cpu_seconds,
    )
