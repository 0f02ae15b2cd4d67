"""Token counts of parallel text in every language, with every tokenizer of a grid and with vocabularies of equal cost."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Int
from numpy import ndarray

from tokenry.core.io.progress import Progress, part
from tokenry.core.stats import Estimate, estimate_of_correlation
from tokenry.core.text.token_counts import Segments, segment_token_counts
from tokenry.recipes.testbeds.parallel_corpora import Corpus
from tokenry.tokenization.premiums.premium_factors import factor_report, premium_factors, trigram_similarity
from tokenry.tokenization.premiums.tokenizer_grid import Cell, counts_of, curves_of, run_grid
from tokenry.tokenization.premiums.vocabulary_choice import optimal_vocab_sizes
from tokenry.tokenization.premiums.vocabulary_curve import PowerLaw, fit_vocab_curve
from tokenry.tokenization.training.byte_level_training import GPT2_PATTERN, train_bpe

Counts = Mapping[str, Int[ndarray, "segments"]]
UnseenCounts = Mapping[str, Int[ndarray, "unseen"]]


@dataclass(frozen=True)
class VocabularyTrial:
    """All counts of the recipe.

    Attributes:
        cells: cells of the grids with equal content.
        equal_bytes: BPE cells of the grid with equal bytes.
        curves: curves fitted to the BPE counts.
        optimal: vocabulary of each language; the largest measured size where the target is out of reach.
        out_of_reach: languages that no vocabulary brings to the target.
        unseen: (fixed, optimal) counts of every second segment, with curves fitted to the others.
        unmarked: counts of BPE at the base size with GPT-2's pre-tokenizer.
        marks: share of combining marks among the characters of each language.
        similarity: correlation of train-eval similarity with the counts over the languages, and its gain in R².
    """

    cells: Sequence[Cell]
    equal_bytes: Sequence[Cell]
    curves: Mapping[str, PowerLaw]
    optimal: Mapping[str, int]
    out_of_reach: Sequence[str]
    target: float
    optimal_counts: Counts
    unseen: tuple[UnseenCounts, UnseenCounts]
    unmarked: Counts
    marks: Mapping[str, float]
    similarity: tuple[Estimate, float]


def measure(corpus: Corpus, output: Path, progress: Progress) -> VocabularyTrial:
    """Run the grids and everything that builds on them."""
    everything = replace(corpus.grid, amounts=("scaled",))
    equal = replace(everything, amounts=("unscaled",), algorithms=("bpe",), train_bytes=None)
    cells = run_grid(corpus.train, corpus.evaluation, output / "grid", everything, part(progress, 0.0, 0.6))
    equal_bytes = run_grid(
        corpus.train, corpus.evaluation, output / "equal-bytes", equal, part(progress, 0.6, 0.7)
    )
    # From pairs that occur once, BoundlessBPE would make whole words and delete the parts again.
    boundless = replace(everything, algorithms=("boundless",), min_frequency=2)
    cells += run_grid(
        corpus.train, corpus.evaluation, output / "boundless", boundless, part(progress, 0.7, 0.75)
    )
    progress("vocabularies that cost the same", 0.75)
    by_size = {size: counts_of(cells, "bpe", "scaled", size) for size in corpus.grid.vocab_sizes}
    curves, optimal, missed, target = _optimal(corpus, by_size, slice(None))
    optimal_counts = _trained_counts(corpus, optimal)
    progress("the same for articles that the curves have not seen", 0.8)
    _, of_seen, _, _ = _optimal(corpus, by_size, slice(0, None, 2))
    unseen = (
        {language: counts[1::2] for language, counts in by_size[corpus.base].items()},
        {language: counts[1::2] for language, counts in _trained_counts(corpus, of_seen).items()},
    )
    progress("other pre-tokenizers", 0.9)
    unmarked = _trained_counts(corpus, dict.fromkeys(corpus.train, corpus.base), GPT2_PATTERN)
    return VocabularyTrial(
        cells=cells,
        equal_bytes=equal_bytes,
        curves=curves,
        optimal=optimal,
        out_of_reach=missed,
        target=target,
        optimal_counts=optimal_counts,
        unseen=unseen,
        unmarked=unmarked,
        marks={language: _marks(segments) for language, segments in corpus.evaluation.items()},
        similarity=_similarity(corpus, curves_of(cells, "bpe", "scaled")),
    )


def _optimal(
    corpus: Corpus, by_size: Mapping[int, Counts], seen: slice
) -> tuple[dict[str, PowerLaw], dict[str, int], list[str], float]:
    """Curves through the counts of the seen segments, and the vocabulary of each language."""
    sizes = list(by_size)
    curves = {
        language: fit_vocab_curve(sizes, [float(by_size[size][language][seen].sum()) for size in sizes])
        for language in corpus.train
    }
    chosen = optimal_vocab_sizes(curves, base_size=corpus.base, largest=corpus.largest)
    missed = [language for language, size in chosen.items() if size.vocab_size is None]
    # Where no vocabulary reaches the target, the largest measured one comes nearest.
    optimal = {language: size.vocab_size or sizes[-1] for language, size in chosen.items()}
    return curves, optimal, missed, next(iter(chosen.values())).target


def _trained_counts(corpus: Corpus, sizes: Mapping[str, int], pattern: str | None = None) -> dict[str, Any]:
    pattern = pattern or corpus.grid.pattern
    return {
        language: segment_token_counts(
            train_bpe(corpus.train[language], size, pattern), corpus.evaluation[language]
        )
        for language, size in sizes.items()
    }


def _similarity(corpus: Corpus, curves: Mapping[str, Mapping[int, int]]) -> tuple[Estimate, float]:
    features = {}
    for language, segments in corpus.evaluation.items():
        texts = [text for segment in segments for text in segment]
        similar = trigram_similarity(corpus.train[language], texts)
        features[language] = {**premium_factors(texts).numbers(), "similarity": similar}
    (test,) = (test for test in factor_report(features, curves) if test.factor == "similarity")
    return estimate_of_correlation(test.pearson_r, test.languages), test.r2_gain


def _marks(segments: Segments) -> float:
    text = "".join(text for segment in segments for text in segment)
    return sum(unicodedata.category(character)[0] == "M" for character in text) / len(text)
