"""What a model of words is measured by: bits per byte, which any model of the same text can be compared in, and words spelled right.

    bits per byte   Σ nll(units and ends of all words) / (ln 2 · UTF-8 bytes)            every text begins with the word `begin`
    word accuracy   share of the words of which the most probable unit is right all through, with the end: a prefix is wrong

The paper's perplexity is over units with the padding of the longest word, so that longer words and wider tables lower it.
Source: Learn Your Tokens (arXiv 2310.11628), section 4.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from torch import Tensor

from tokenry.architectures.words import Word, WordCoder
from tokenry.core.errors import UserError
from tokenry.core.stats import Estimate, estimate_of_mean, ratio_estimate
from tokenry.core.text.bits_per_byte import TextLoss, scored_spans


@runtime_checkable
class WordModel(Protocol):
    """A model that scores words: `WordPooledLM` and `FlatLM`."""

    def score_words(
        self, windows: Sequence[Sequence[Word]], batch_size: int = 8
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each window: nll in nats of every word but the first, and whether it is spelled right."""
        ...


@dataclass(frozen=True)
class ScoredWords:
    """What a model says about the words of one text.

    Attributes:
        words: the words.
        nll: of each in nats, with its end.
        right: whether the model spells it right.
    """

    words: list[Word]
    nll: np.ndarray
    right: np.ndarray


def score_text(
    model: WordModel,
    coder: WordCoder,
    text: str,
    max_words: int,
    batch_size: int = 8,
) -> ScoredWords:
    """Score every word of a text; each has at least half a window before it, or all of the text."""
    words = [coder.begin, *coder.words(text)]
    spans = list(scored_spans(len(words), max_words, max(1, max_words // 2)))
    scores = model.score_words([words[begin:end] for begin, end, _ in spans], batch_size)
    parts = [
        tuple(column[first - begin - 1 :] for column in found)
        for (begin, _, first), found in zip(spans, scores, strict=True)
    ]
    nll, right = (np.concatenate(column) for column in zip(*parts, strict=True))
    return ScoredWords(words[1:], nll, right)


def word_loss(coder: WordCoder, texts: Sequence[str], scored: Sequence[ScoredWords]) -> TextLoss:
    """The losses of texts, for bits per byte and differences to another model of the same texts; its tokens are words."""
    return TextLoss(
        np.array([found.nll.sum() for found in scored]),
        np.array([len(found.words) for found in scored]),
        np.array([coder.text_bytes(text) for text in texts]),
    )


def score_texts(
    model: WordModel,
    coder: WordCoder,
    texts: Sequence[str],
    max_words: int,
    batch_size: int = 8,
    progress: Callable[[float], None] = lambda share: None,
) -> list[ScoredWords]:
    """Score every word of some texts."""
    if not texts:
        raise UserError("there is no text to score: give at least one.")
    found = []
    for number, text in enumerate(texts, start=1):
        found.append(score_text(model, coder, text, max_words, batch_size))
        progress(number / len(texts))
    return found


@dataclass(frozen=True)
class FrequencyBin:
    """Words by how often they occur in the training text.

    Attributes:
        least: least count.
        most: highest count; None without a limit.
        accuracy: share of the words spelled right.
        bits_per_byte: nll of the words, in bits, over their bytes (with one for the end where words have lost their spaces).
    """

    least: int
    most: int | None
    accuracy: Estimate
    bits_per_byte: Estimate


BINS = ((0, 0), (1, 2), (3, 10), (11, 100), (101, None))


def by_frequency(
    coder: WordCoder,
    scored: Sequence[ScoredWords],
    counts: Mapping[str, int],
    bins: Sequence[tuple[int, int | None]] = BINS,
) -> list[FrequencyBin]:
    """Measure words by their count in the training text; bins of fewer than two words are left out."""
    texts = [coder.units.decode(word) for found in scored for word in found.words]
    seen = np.array([counts.get(text, 0) for text in texts])
    size = np.array([len(text.encode()) + (not coder.splitter.keeps_text) for text in texts])
    nll = np.concatenate([found.nll for found in scored]) / np.log(2)
    right = np.concatenate([found.right for found in scored]).astype(float)
    measured = []
    for least, most in bins:
        inside = (seen >= least) & (seen <= (np.inf if most is None else most))
        if inside.sum() >= 2:
            bits = ratio_estimate(nll[inside], size[inside])
            measured.append(FrequencyBin(least, most, estimate_of_mean(right[inside]), bits))
    return measured


# --- metrics of the paper, on tables of units ----------------------------------------------------------------------------------------


def next_word_accuracy(
    predicted: Int[Tensor, "*words units"], true: Int[Tensor, "*same_words same_units"], pad_id: int = 0
) -> float:
    """Share of the words of which every unit is right, and the end; rows of nothing but padding are no words."""
    _require_same_shape(predicted, true)
    there = (true != pad_id).any(-1)
    return float((predicted == true).all(-1)[there].double().mean())


def unit_accuracy(
    predicted: Int[Tensor, "*words units"], true: Int[Tensor, "*same_words same_units"], pad_id: int = 0
) -> float:
    """Share of the units that are right, where the true one is no padding."""
    _require_same_shape(predicted, true)
    told = true != pad_id
    return float((predicted == true)[told].double().mean())


def accuracy_by_frequency(
    predicted: Int[Tensor, "words units"],
    true: Int[Tensor, "same_words same_units"],
    counts: Sequence[int],
    bins: Sequence[tuple[int, int | None]] = BINS,
) -> dict[tuple[int, int | None], Estimate]:
    """Share of the words that are right, by the count of each in the training text; bins without a word are left out."""
    _require_same_shape(predicted, true)
    if len(counts) != len(true):
        raise UserError(f"there are {len(true)} words and {len(counts)} counts: give one count per word.")
    right, seen = (predicted == true).all(-1).double().cpu().numpy(), np.asarray(counts)
    inside = {(low, high): (seen >= low) & (seen <= (np.inf if high is None else high)) for low, high in bins}
    return {limits: estimate_of_mean(right[mask]) for limits, mask in inside.items() if mask.any()}


def _require_same_shape(predicted: Tensor, true: Tensor) -> None:
    if predicted.shape != true.shape:
        raise UserError(
            f"predicted words have shape {tuple(predicted.shape)} and true ones {tuple(true.shape)}: give one for each."
        )
