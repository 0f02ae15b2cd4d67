"""The premium map: for each tokenizer and language the tokens of the same text, the premium with its interval, and how far all spread.

    premium(language) = tokens(language) / tokens(reference)        95 % intervals by a bootstrap over the segments

A table belongs to one tokenizer for all languages, or to one setting of the grid, where each language has its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Int
from numpy import ndarray

from tokenry.core.text.round_trip import RoundTrip, round_trip
from tokenry.core.text.token_counts import (
    AnyTokenizer,
    Estimate,
    Segments,
    byte_premium,
    dispersion_intervals,
    premium_intervals,
    require_parallel,
    require_reference,
    segment_token_counts,
    utf8_bytes,
)
from tokenry.tokenization.premiums.tokenizer_grid import GridCell, counts_of


@dataclass(frozen=True)
class LanguageCost:
    """Cost of the text in one language.

    Attributes:
        language: code of the language.
        tokens: corpus token count.
        premium: tokens relative to those of the reference.
        byte_premium: UTF-8 bytes relative to those of the reference, a property of the text alone.
        bytes_per_token: UTF-8 bytes over tokens.
        text_back: whether the tokenizer gives the texts back; None where that is not measured (the byte-level tokenizers of a grid).
    """

    language: str
    tokens: int
    premium: Estimate
    byte_premium: float
    bytes_per_token: float
    text_back: RoundTrip | None = None


@dataclass(frozen=True)
class PremiumTable:
    """Cost of the text in all languages.

    Attributes:
        group: name of the chart that holds the table, such as an algorithm with its amount of text; empty for given tokenizers.
        name: name of the tokenizer or setting within its group.
        languages: cost per language, the most expensive first.
        spread: mean, std, cv and max_min of the counts.
    """

    group: str
    name: str
    languages: tuple[LanguageCost, ...]
    spread: Mapping[str, Estimate]

    def as_json(self) -> dict[str, Any]:
        """Plain numbers and names."""

        def figure(estimate: Estimate) -> dict[str, float]:
            return {"value": estimate.value, "low": estimate.low, "high": estimate.high}

        def language(row: LanguageCost) -> dict[str, Any]:
            back = None if row.text_back is None else row.text_back.as_json()
            return {**asdict(row), "premium": figure(row.premium), "text_back": back}

        return {
            **asdict(self),
            "languages": list(map(language, self.languages)),
            "spread": {name: figure(estimate) for name, estimate in self.spread.items()},
        }


def measure_premiums(
    tokenizers: Mapping[str, AnyTokenizer], evaluation: Mapping[str, Segments], reference: str
) -> list[PremiumTable]:
    """Measure tokenizers that are used for all languages.

    Args:
        evaluation: parallel segments by language.
        reference: the language that premiums are relative to.
    """
    require_reference(evaluation, reference)
    require_parallel({language: len(segments) for language, segments in evaluation.items()})
    return [
        premium_table(
            "",
            name,
            {
                language: segment_token_counts(tokenizer, segments)
                for language, segments in evaluation.items()
            },
            evaluation,
            reference,
            {
                language: round_trip(tokenizer, (text for segment in segments for text in segment))
                for language, segments in evaluation.items()
            },
        )
        for name, tokenizer in tokenizers.items()
    ]


def grid_premiums(
    cells: Sequence[GridCell], evaluation: Mapping[str, Segments], reference: str
) -> list[PremiumTable]:
    """Make a table per algorithm, amount of text and vocabulary size of a grid, in which each language has its own tokenizer."""
    settings = sorted({(cell.algorithm, cell.amount, cell.vocab_size) for cell in cells})
    return [
        premium_table(
            f"{algorithm}, {amount}",
            f"V = {size}",
            counts_of(cells, algorithm, amount, size),
            evaluation,
            reference,
        )
        for algorithm, amount, size in settings
    ]


def premium_table(
    group: str,
    name: str,
    counts: Mapping[str, Int[ndarray, "segments"]],
    evaluation: Mapping[str, Segments],
    reference: str,
    text_back: Mapping[str, RoundTrip | None] | None = None,
) -> PremiumTable:
    """Put counts per segment, and whether the texts come back, into one table."""
    texts = {language: [text for segment in evaluation[language] for text in segment] for language in counts}
    premiums = premium_intervals(counts, reference)
    rows = []
    for language, segments in counts.items():
        tokens = int(segments.sum())
        rows.append(
            LanguageCost(
                language,
                tokens,
                premiums[language],
                byte_premium(texts[language], texts[reference]),
                utf8_bytes(texts[language]) / max(tokens, 1),
                (text_back or {}).get(language),
            )
        )
    rows.sort(key=lambda row: -row.tokens)
    return PremiumTable(group, name, tuple(rows), dispersion_intervals(counts))
