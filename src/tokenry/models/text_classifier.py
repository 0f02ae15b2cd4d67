"""Encoder classifiers of texts: loaded with safetensors only, fine-tuned, and asked for probabilities.

    one label of several     cross-entropy, softmax
    any number of labels     binary cross-entropy, mean over labels and texts; sigmoid (`multi_label`)

Batches hold texts of about one length. Of several epochs, the best on the validation texts is kept: that labels most of them entirely
right, or has the highest macro F1 (`best_by`).

    classifier = load_text_classifier("answerdotai/ModernBERT-base", labels=("cyst", "nodule"), multi_label=True)
    classifier.fine_tune(texts, targets, validation=(other_texts, other_targets))
    classifier.probabilities(new_texts)                                                    # (texts, labels)
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.io.ranks import processes
from tokenry.core.tensors.gate import name_of, position_limit
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.text.truncation import encode_window
from tokenry.core.train.adamw import AdamWSettings
from tokenry.core.train.classifier import FOUR_EPOCHS, ClassifierConfig
from tokenry.core.train.training import LoopConfig, Training
from tokenry.models.checkpoint import as_dtype, find_folder, require_config, require_weights
from tokenry.models.loading import MODEL_PATTERNS, WEIGHTS, load_tokenizer, load_weights, require_complete

Targets: TypeAlias = Sequence[Any] | ndarray
"""The number of the label of each text, (texts,); with `multi_label`, 0 or 1 for each label, (texts, labels)."""

MULTI_LABEL, SINGLE_LABEL = "multi_label_classification", "single_label_classification"
_BATCHES_SORTED_TOGETHER = 50


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuning that has ended.

    Attributes:
        texts: number of texts that were read, those of every epoch.
        seconds: wall-clock time, without that of validation.
        cpu_seconds: CPU time of the process, likewise.
        losses: loss of every step.
        scores: after every epoch, the score on the validation texts (`best_by`); empty without validation.
    """

    texts: int
    seconds: float
    cpu_seconds: float
    losses: tuple[float, ...]
    scores: tuple[float, ...]

    @property
    def best_epoch(self) -> int | None:
        """The epoch that was kept, from 1: the first of the best."""
        return 1 + self.scores.index(max(self.scores)) if self.scores else None


@dataclass(frozen=True)
class TextClassifier:
    """A model of `AutoModelForSequenceClassification` with its tokenizer.

    Attributes:
        model: the model; `problem_type` in its config tells whether a text has one label or any number.
        max_length: maximum number of tokens of a text, special tokens included; longer ones are cut.
        head: of a text that is cut, the number of tokens kept at its beginning, the others at its end; None for the beginning alone.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int = 512
    head: int | None = None

    def __post_init__(self) -> None:
        require_at_least(1, max_length=self.max_length)
        limit = position_limit(self.model)
        if self.max_length > limit:
            raise UserError(
                f"max_length must be at most {limit}, the number of positions of {name_of(self.model)}, got {self.max_length}."
            )
        if self.tokenizer.pad_token_id is None:
            raise UserError(
                f"the tokenizer of {name_of(self.model)} has no padding token: batches of texts need one."
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, in the order of the logits."""
        names = self.model.config.id2label
        return tuple(str(names[number]) for number in sorted(names))

    @property
    def multi_label(self) -> bool:
        """Whether a text may have any number of labels."""
        return bool(self.model.config.problem_type == MULTI_LABEL)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, cut to `max_length`, with the special tokens of the model."""
        if not texts:
            raise UserError("there are no texts: give at least one.")
        return encode_window(self.tokenizer, texts, self.max_length, self.head)

    def padded(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Token ids as one batch on the device of the model."""
        batch = self.tokenizer.pad({"input_ids": [list(row) for row in rows]}, return_tensors="pt")
        return {name: batch[name].to(self.model.device) for name in ("input_ids", "attention_mask")}

    @torch.no_grad()
    def logits_of(
        self, rows: Sequence[Sequence[int]], batch_size: int = 32
    ) -> Float[ndarray, "texts labels"]:
        """Logits in float32 of texts given as token ids."""
        found = np.zeros((len(rows), len(self.labels)), dtype=np.float32)
        with evaluation_mode(self.model):
            for places in length_sorted([len(row) for row in rows], batch_size):
                logits = self.model(**self.padded([rows[place] for place in places])).logits
                found[places] = logits.float().cpu().numpy()
        return found

    def probabilities(self, texts: Sequence[str], batch_size: int = 32) -> Float[ndarray, "texts labels"]:
        """Probability of each label of each text; they sum to 1 unless `multi_label`."""
        logits = torch.from_numpy(self.logits_of(self.encode(texts), batch_size))
        found: ndarray = (logits.sigmoid() if self.multi_label else logits.softmax(-1)).numpy()
        return found

    def share_right(self, texts: Sequence[str], targets: Targets, batch_size: int = 32) -> float:
        """Share of the texts that are labelled entirely right, at a threshold of 0.5 with `multi_label`."""
        expected = self.checked_targets(targets, len(texts))
        logits = self.logits_of(self.encode(texts), batch_size)
        if self.multi_label:
            return float(((logits >= 0) == (expected == 1)).all(axis=1).mean())
        return float((logits.argmax(axis=1) == expected).mean())

    def macro_f1(self, texts: Sequence[str], targets: Targets, batch_size: int = 32) -> float:
        """Mean F1 of the labels; 0 for a label that no text has and none is given."""
        from sklearn.metrics import f1_score

        expected = self.checked_targets(targets, len(texts))
        logits = self.logits_of(self.encode(texts), batch_size)
        given = (logits >= 0).astype(int) if self.multi_label else logits.argmax(axis=1)
        labels = range(len(self.labels))
        return float(f1_score(expected, given, labels=labels, average="macro", zero_division=0))

    def fine_tune(
        self,
        texts: Sequence[str],
        targets: Targets,
        config: ClassifierConfig = FOUR_EPOCHS,
        validation: tuple[Sequence[str], Targets] | None = None,
        progress: Progress = lambda what, share: None,
        **arguments: Any,
    ) -> FineTuned:
        """Train all weights in place; with `validation`, those of the best epoch are kept.

        Args:
            texts: training texts.
            targets: their labels.
            validation: other texts with their labels.
            progress: called before each step.
            **arguments: any other `TrainingArguments`, such as `gradient_checkpointing=True`.
        """
        expected = torch.from_numpy(self.checked_targets(targets, len(texts)))
        ids = self.encode(texts)
        batches = _EpochBatches([len(row) for row in ids], config.batch_size, config.seed)
        steps_per_epoch = -(-batches.per_epoch // processes())
        steps = config.epochs * steps_per_epoch
        rising = round(config.warmup * steps)

        def learning_rate(step: int) -> float:
            return config.learning_rate * (
                (step + 1) / (rising + 1) if step < rising else (steps - step) / (steps - rising)
            )

        def loss(places: Int[ndarray, "batch"]) -> dict[str, Tensor]:
            labels = expected[places].to(self.model.device)
            batch = self.padded([ids[place] for place in places])
            return {"loss": self.model(**batch, labels=labels.float() if self.multi_label else labels).loss}

        best = None if validation is None else _BestEpoch(self, validation, steps_per_epoch, config.best_by)
        training = Training(
            self.model,
            loss,
            batches,
            LoopConfig(
                steps,
                learning_rate,
                AdamWSettings(beta2=0.999, weight_decay=config.weight_decay, max_gradient_norm=1.0),
                bfloat16=config.bfloat16,
                seed=config.seed,
            ),
            callbacks=[] if best is None else [best],
            **arguments,
        )
        started = _clocks()
        self.model.train()
        training.run(progress=progress, stage=lambda step: f"epoch {1 + step // steps_per_epoch}")
        self.model.eval()
        taken = _clocks() - started
        if best is not None:
            self.model.load_state_dict(best.weights)
            taken -= best.taken
        return FineTuned(
            texts=config.epochs * len(texts),
            seconds=float(taken[0]),
            cpu_seconds=float(taken[1]),
            losses=tuple(training.history["loss"]),
            scores=() if best is None else tuple(best.scores),
        )

    def checked_targets(self, targets: Targets, texts: int) -> Int[ndarray, "texts *labels"]:
        """The labels of so many texts as integers; raises `UserError` where they are none of this classifier."""
        found, labels = np.asarray(targets), len(self.labels)
        expected = (texts, labels) if self.multi_label else (texts,)
        if found.shape != expected:
            raise UserError(
                f"the labels of {texts} texts have the shape {expected}, {'one column per label' if self.multi_label else 'one number each'}, "
                f"got {found.shape}."
            )
        highest = 1 if self.multi_label else labels - 1
        if found.dtype.kind not in "biu" or (found.size and not 0 <= found.min() <= found.max() <= highest):
            raise UserError(
                f"labels must be whole numbers from 0 to {highest}, got {found.dtype} such as {found.flat[0]!r}: give numbers, not words."
            )
        return found.astype(np.int64)

    def save(self, folder: str | os.PathLike) -> None:
        """Save model and tokenizer, to be loaded again by `load_text_classifier`."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def load_text_classifier(
    name: str | os.PathLike,
    labels: Sequence[str] | None = None,
    multi_label: bool = False,
    max_length: int | None = None,
    dtype: torch.dtype | str | None = None,
    seed: int = 0,
    revision: str | None = None,
    **kwargs: Any,
) -> TextClassifier:
    """Load a fine-tuned classifier, or an encoder with a new head for `labels`.

    Args:
        name: a local folder, or a name on the Hugging Face hub.
        labels: names of the labels; the head is new where the model has none. None for a classifier as it was trained.
        multi_label: whether a text may have any number of labels; without `labels`, the model says so itself.
        max_length: maximum number of tokens of a text; None for 512, or all positions of a model that has fewer.
        dtype: a torch dtype or its name; None keeps the type in which the weights are stored.
        revision: a branch, tag or commit; for names on the hub.
        **kwargs: passed to `from_pretrained`, such as `attn_implementation`.
    """
    folder = find_folder(name, MODEL_PATTERNS, revision)
    require_config(name, folder)
    require_weights(name, folder, WEIGHTS)
    if labels is not None:
        names = dict(enumerate(labels))
        kwargs |= {
            "id2label": names,
            "label2id": {label: number for number, label in names.items()},
            "num_labels": len(names),
            "problem_type": MULTI_LABEL if multi_label else SINGLE_LABEL,
        }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, loading = load_weights(
            AutoModelForSequenceClassification,
            name,
            folder,
            "a text classifier",
            dtype=as_dtype(dtype),
            **kwargs,
        )
    missing = set(loading["missing_keys"])
    if labels is not None:
        # An encoder is stored without a head, and one that was trained on masked tokens without its pooler.
        missing -= {key for key in missing if _is_head(key, model)}
    require_complete(model, name, missing)
    if model.config.problem_type is None:
        model.config.problem_type = SINGLE_LABEL
    model.name_or_path = str(name)
    length = int(min(512, position_limit(model))) if max_length is None else max_length
    return TextClassifier(model.eval(), load_tokenizer(name, revision), length)


def length_sorted(lengths: Sequence[int] | ndarray, batch_size: int) -> list[Int[ndarray, "batch"]]:
    """The places of texts in batches of about one length: the longest first, which shows a lack of memory at once."""
    require_at_least(1, batch_size=batch_size)
    order = np.argsort(-np.asarray(lengths), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


class _EpochBatches:
    """Batches by number, in a new order every epoch; texts are sorted by length within stretches of 50 batches."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed = np.asarray(lengths), batch_size, seed
        self.per_epoch = -(-len(lengths) // batch_size)
        self._epoch, self._batches = -1, list[ndarray]()

    def __getitem__(self, number: int) -> Int[ndarray, "batch"]:
        epoch, place = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, list(self._shuffled(epoch))
        return self._batches[place]

    def _shuffled(self, epoch: int) -> Iterator[ndarray]:
        generator = np.random.default_rng((self._seed, epoch))
        order, size = generator.permutation(len(self._lengths)), self._batch_size
        stretch = size * _BATCHES_SORTED_TOGETHER
        batches = [
            part[batch]
            for start in range(0, len(order), stretch)
            for part in (order[start : start + stretch],)
            for batch in length_sorted(self._lengths[part], size)
        ]
        return (batches[place] for place in generator.permutation(len(batches)))


class _BestEpoch(TrainerCallback):
    """Scores every epoch on validation texts and keeps the weights of the first of the best."""

    def __init__(
        self,
        classifier: TextClassifier,
        validation: tuple[Sequence[str], Targets],
        steps_per_epoch: int,
        best_by: str,
    ) -> None:
        self._classifier, self._validation, self._steps = classifier, validation, steps_per_epoch
        self._by = best_by
        self.scores: list[float] = []
        self.weights: dict[str, Tensor] = {}
        self.taken = np.zeros(2)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self._steps:
            return
        started, model = _clocks(), self._classifier.model
        scored = self._classifier.macro_f1 if self._by == "macro-f1" else self._classifier.share_right
        score = scored(*self._validation)
        if not self.scores or score > max(self.scores):
            self.weights = {
                name: weight.detach().cpu().clone() for name, weight in model.state_dict().items()
            }
        self.scores.append(score)
        self.taken += _clocks() - started


def _clocks() -> Float[ndarray, "2"]:
    """Wall-clock and CPU seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def _is_head(key: str, model: nn.Module) -> bool:
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    return "pooler" in key or not key.startswith(prefix)
