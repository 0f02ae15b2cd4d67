"""A fine-tuned encoder as a detector: the log-odds of its two labels, 0 human and 1 machine.

    score = logit(machine) − logit(human)        of a longer text, the mean over its windows, weighted by their tokens

On text like its training text it is the best detector there is; on another generator or another kind of text it may be no better than chance.

Source: arXiv 2405.16422, a fine-tuned BERT base; training settings are ours. The paper's preprocessing (`paper_pipeline`) is off by default.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.data.ai_text import Detector, TextScores
from tokenry.data.decisions import binary_labels
from tokenry.data.paper_pipeline import preprocess_paper
from tokenry.models.identity import ModelIdentity
from tokenry.models.text_classifier import ClassifierConfig, FineTuned, TextClassifier

SCORE = "classifier"
PAPER = ClassifierConfig(epochs=3, batch_size=16, learning_rate=2e-5, warmup=0.0)
"""The sheet's settings for BERT base."""


@dataclass(frozen=True)
class Window:
    """A stretch of a text that the encoder reads at once.

    Attributes:
        text: number of the text.
        ids: token ids, special ones included.
        tokens: number of the tokens of the text among them.
        start: place of its first character in the text.
    """

    text: int
    ids: list[int]
    tokens: int
    start: int


class BertDetector(Detector):
    """An encoder with two labels.

    Args:
        model: of `AutoModelForSequenceClassification` with two labels, human first.
        tokenizer: its fast tokenizer.
        max_tokens: length of a window, special tokens included.
        normalise: undo look-alike letters, invisible characters and compatibility forms first (`normalize_text`).
        paper_pipeline: preprocess as the paper does.
        batch_size: number of windows that are read at once.
        name: name in reports and calibrations; by default the model's own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_tokens: int = 512,
        normalise: bool = False,
        paper_pipeline: bool = False,
        batch_size: int = 32,
        name: str | None = None,
    ) -> None:
        self.classifier = TextClassifier(model, tokenizer, max_tokens)
        if len(self.classifier.labels) != 2 or self.classifier.multi_label:
            raise UserError(
                f"a detector has two labels, human and machine, and a text has one of them: this classifier has {', '.join(self.classifier.labels)}."
            )
        if not tokenizer.is_fast:
            raise UserError("this tokenizer does not say where its tokens stand: load its fast version.")
        self.names, self.max_tokens, self.normalise = (SCORE,), max_tokens, normalise
        self.paper_pipeline, self.batch_size = paper_pipeline, batch_size
        self.model, self.tokenizer = model, tokenizer
        self.name = name or str(getattr(model, "name_or_path", "")) or type(model).__name__

    @property
    def models(self) -> tuple[ModelIdentity, ...]:
        """The encoder."""
        return (ModelIdentity.of(self),)

    @property
    def settings(self) -> dict[str, Any]:
        """What the scores depend on beside the model."""
        return {**super().settings, "paper_pipeline": self.paper_pipeline}

    def clean(self, text: str) -> str:
        """The text as it is read."""
        plain = super().clean(text)
        return preprocess_paper([plain])[0] if self.paper_pipeline else plain

    def fit(
        self, texts: Sequence[str], labels: Sequence[Any], config: ClassifierConfig = PAPER, **options: Any
    ) -> FineTuned:
        """Fine-tune the encoder in place.

        Args:
            texts: training texts; what is beyond one window is cut off.
            labels: 0 for a human text, 1 for a machine's.
            config: the training.
            **options: further arguments of `TextClassifier.fine_tune`, such as `validation`.
        """
        return self.classifier.fine_tune(
            [self.clean(text) for text in texts], binary_labels(labels), config, **options
        )

    def measure(self, texts: Sequence[str]) -> TextScores:
        """Score texts; a text without tokens scores nan."""
        windows = list(self._windows([self.clean(text) for text in texts]))
        totals, tokens = np.zeros(len(texts)), np.zeros(len(texts), dtype=int)
        for window, score in zip(windows, self._scores(windows), strict=True):
            totals[window.text] += window.tokens * score
            tokens[window.text] += window.tokens
        return TextScores({SCORE: totals / np.where(tokens > 0, tokens, np.nan)}, tokens)

    def spans(self, text: str) -> list[tuple[str, float]]:
        """Cut a text into its windows, each with its score."""
        text = self.clean(text)
        windows = list(self._windows([text]))
        cuts = [0, *(window.start for window in windows[1:]), len(text)]
        return [
            (text[cuts[place] : cuts[place + 1]], score)
            for place, score in enumerate(self._scores(windows).tolist())
        ]

    def _windows(self, texts: Sequence[str]) -> Iterator[Window]:
        if not texts:
            return
        encoded = self.tokenizer(
            list(texts),
            truncation=True,
            max_length=self.max_tokens,
            return_overflowing_tokens=True,
            return_special_tokens_mask=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        for number, text in enumerate(encoded["overflow_to_sample_mapping"]):
            special = np.array(encoded["special_tokens_mask"][number], dtype=bool)
            starts = [start for start, _ in np.array(encoded["offset_mapping"][number])[~special].tolist()]
            if starts:
                yield Window(int(text), list(encoded["input_ids"][number]), len(starts), starts[0])

    def _scores(self, windows: Sequence[Window]) -> np.ndarray:
        logits = self.classifier.logits_of([window.ids for window in windows], self.batch_size)
        scores: np.ndarray = logits[:, 1].astype(float) - logits[:, 0]
        return scores
