"""How many tokens a text has, and what parallel text costs in each language: token counts, premiums, and how far they spread.

The texts say the same in every language; a segment is one or more texts (a line, an article), and each text is encoded alone.

    corpus token count (CTC)(l) = tokens of all segments in l, without special tokens
    token premium(l)            = CTC(l) / CTC(reference)
    byte premium(l)             = UTF-8 bytes in l / UTF-8 bytes in the reference

Intervals: percentile bootstrap over segments, drawn together for all languages, since the texts are parallel.

Source: Explaining and Mitigating Crosslingual Tokenizer Inequities (arXiv 2510.21909), section 3; premiums after Petrov et al. 2023.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.stats import Estimate, bootstrap_estimate, resampled_totals
from tokenry.core.text.byte_level import backend_tokenizer
from tokenry.core.text.round_trip import unbounded

Segments = Sequence[Sequence[str]]
"""The texts of each segment."""

_TEXTS_AT_ONCE = 1024


@runtime_checkable
class CountingTokenizer(Protocol):
    """A tokenizer of our own kind, which counts the tokens of a text."""

    def count(self, text: str) -> int:
        """Count the tokens of a text."""
        ...


AnyTokenizer: TypeAlias = Tokenizer | PreTrainedTokenizerBase | CountingTokenizer


@dataclass(frozen=True)
class Dispersion:
    """Spread of the counts over the languages.

    Attributes:
        std: sample standard deviation (ddof 1).
        variance: square of the standard deviation.
        cv: coefficient of variation, std / mean.
        max_min: largest count over the smallest.
        range: largest count − smallest.
        iqr: distance of the quartiles (linear interpolation).
    """

    mean: float
    std: float
    variance: float
    cv: float
    max_min: float
    range: float
    iqr: float


def text_token_counts(
    tokenizer: AnyTokenizer, texts: Iterable[str], special_tokens: bool = False
) -> Int[ndarray, "texts"]:
    """Count the tokens of each text, with or without the special tokens that the tokenizer puts around it."""
    if isinstance(tokenizer, CountingTokenizer):
        return np.array([tokenizer.count(text) for text in texts], dtype=np.int64)
    backend, texts = unbounded(backend_tokenizer(tokenizer)), list(texts)
    counts: list[int] = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        try:
            batch = backend.encode_batch_fast(
                texts[start : start + _TEXTS_AT_ONCE], add_special_tokens=special_tokens
            )
        except Exception as error:  # the tokenizers library raises bare exceptions
            raise UserError(
                f"the tokenizer cannot encode the text ({error}): give it an unknown token, or another text."
            ) from error
        counts += [len(encoding) for encoding in batch]
    return np.array(counts, dtype=np.int64)


def segment_token_counts(tokenizer: AnyTokenizer, segments: Segments) -> Int[ndarray, "segments"]:
    """Count the tokens of each segment: the sum over its texts."""
    texts = [text for segment in segments for text in segment]
    require_text(texts)
    return per_segment(text_token_counts(tokenizer, texts), segments)


def per_segment(counts: Int[ndarray, "texts"], segments: Segments) -> Int[ndarray, "segments"]:
    """Sum the counts of texts over the segments that hold them, in the same order."""
    number = np.repeat(np.arange(len(segments)), [len(segment) for segment in segments])
    return np.bincount(number, counts, minlength=len(segments)).astype(np.int64)


def corpus_token_count(tokenizer: AnyTokenizer, texts: Iterable[str]) -> int:
    """Count the tokens of a corpus, every text encoded alone, without special tokens."""
    texts = list(texts)
    require_text(texts)
    return int(text_token_counts(tokenizer, texts).sum())


def token_premiums(counts: Mapping[str, int | float], reference: str) -> dict[str, float]:
    """Divide the corpus token count of each language by that of the reference."""
    require_reference(counts, reference)
    if not counts[reference] > 0:
        raise UserError(f"the evaluation text of {reference} is empty: there is nothing to compare with.")
    return {language: count / counts[reference] for language, count in counts.items()}


def byte_premium(texts: Iterable[str], reference: Iterable[str]) -> float:
    """Divide the UTF-8 bytes of a text by those of the same text in the reference language."""
    size, of_reference = utf8_bytes(texts), utf8_bytes(reference)
    if of_reference == 0:
        raise UserError(
            "the evaluation text of the reference language is empty: there is nothing to compare with."
        )
    return size / of_reference


def utf8_bytes(texts: Iterable[str]) -> int:
    """Count the UTF-8 bytes of texts."""
    return sum(len(text.encode()) for text in texts)


def dispersion(counts: Mapping[str, int | float]) -> Dispersion:
    """Measure the spread of the counts over the languages."""
    if len(counts) < 2:
        raise UserError(f"{len(counts)} language has no spread: give at least two.")
    values = np.array(list(counts.values()), dtype=float)
    empty = [language for language, count in counts.items() if not count > 0]
    if empty:
        raise UserError(f"the evaluation text of {', '.join(empty)} is empty: give parallel text.")
    mean, std = float(values.mean()), float(values.std(ddof=1))
    lower, upper = np.percentile(values, [25, 75])
    return Dispersion(
        mean=mean,
        std=std,
        variance=std**2,
        cv=std / mean,
        max_min=float(values.max() / values.min()),
        range=float(values.max() - values.min()),
        iqr=float(upper - lower),
    )


def premium_intervals(
    counts: Mapping[str, Int[ndarray, "segments"]],
    reference: str,
    confidence: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Estimate the premium of each language with its interval; that of the reference is 1 with no width.

    Args:
        counts: tokens per segment, the same segments for all languages.
        reference: the language that premiums are relative to.
        confidence: level of the intervals.
        samples: number of draws of the bootstrap.
    """
    values = token_premiums(
        {language: float(segments.sum()) for language, segments in counts.items()}, reference
    )
    totals = resampled_counts(counts, samples, seed)
    of_reference = totals[:, list(counts).index(reference)]
    return {
        language: bootstrap_estimate(
            values[language], totals[:, place] / of_reference, len(counts[reference]), confidence
        )
        for place, language in enumerate(counts)
    }


def dispersion_intervals(
    counts: Mapping[str, Int[ndarray, "segments"]],
    confidence: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Estimate mean, std, cv and max/min of the counts of the languages, with intervals over segments."""
    value = dispersion({language: float(segments.sum()) for language, segments in counts.items()})
    totals = resampled_counts(counts, samples, seed)
    mean, std = totals.mean(axis=1), totals.std(axis=1, ddof=1)
    drawn = {"mean": mean, "std": std, "cv": std / mean, "max_min": totals.max(axis=1) / totals.min(axis=1)}
    segments = len(next(iter(counts.values())))
    return {
        name: bootstrap_estimate(getattr(value, name), figures, segments, confidence)
        for name, figures in drawn.items()
    }


def resampled_counts(
    counts: Mapping[str, Int[ndarray, "segments"]], samples: int = 2000, seed: int = 0
) -> Float[ndarray, "samples languages"]:
    """Resample the segments with replacement, the same ones for all languages, and count each time."""
    require_parallel({language: len(segments) for language, segments in counts.items()})
    return resampled_totals(np.stack([*counts.values()], axis=1).astype(float), samples, seed)


def require_text(texts: Sequence[str]) -> None:
    """Raise `UserError` unless one of the texts is not empty."""
    if not any(texts):
        raise UserError("the evaluation text is empty: give at least one text that holds something.")


def require_reference(languages: Iterable[str], reference: str) -> None:
    """Raise `UserError` unless the reference is among the languages."""
    languages = list(languages)
    if reference not in languages:
        shown = ", ".join(languages[:8]) + (", …" if len(languages) > 8 else "")
        raise UserError(
            f"the reference language {reference!r} is not among the languages ({shown or 'none'}): name one of them."
        )


def require_parallel(segments: Mapping[str, int]) -> None:
    """Raise `UserError` unless all languages have the same number of segments."""
    if len(set(segments.values())) > 1:
        first = next(iter(segments))
        other = next(language for language, number in segments.items() if number != segments[first])
        raise UserError(
            f"the texts are not parallel: {first} has {segments[first]} segments and {other} has {segments[other]}; "
            "give the same segments in every language."
        )
