"""Crosslingual tokenizer inequities (arXiv 2510.21909): what the same text costs in 24 languages, and what makes it cost the same.

The Universal Declaration of Human Rights: tokenizers are trained on the preamble and two thirds of the articles of one language, and
counted on the other third. Every figure with an interval comes from a bootstrap over the articles, drawn together for all languages.

    fixed      one vocabulary for all languages, with equal content and with equal bytes of training text
    optimal    for each language the vocabulary at which its fitted curve meets one count of tokens
    remedies   SuperBPE, BoundlessBPE, and Unigram beside BPE; marks among the letters of the pre-tokenizer, or not

The paper's figures were not readable for us beyond its abstract; they are claims of direction.
"""

import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from tokenry.recipes.recipe import Claim, Progress, Reproduction, Scale, verdict
from tokenry.tokenization.premiums.many_sizes import SIZES
from tokenry.tokenization.premiums.parallel_text import load_udhr, udhr_languages, udhr_path, udhr_split
from tokenry.tokenization.premiums.premium_factors import factor_report, premium_factors, trigram_similarity
from tokenry.tokenization.premiums.tokenizer_grid import Cell, GridConfig, counts_of, curves_of, run_grid
from tokenry.tokenization.premiums.vocabulary_curve import PowerLaw, fit_vocab_curve, optimal_vocab_sizes
from tokenry.tokenization.token_counts import (
    Segments,
    dispersion_intervals,
    resampled_counts,
    segment_token_counts,
)
from tokenry.tokenization.training.byte_level_training import GPT2_PATTERN, train_bpe

LANGUAGES = [
    "eng",
    "deu_1996",
    "fra",
    "spa",
    "ita",
    "rus",
    "ell_monotonic",
    "fin",
    "hun",
    "tur",
    "vie",
    "swh",
    "yor",
    "amh",
    "arb",
    "heb",
    "hin",
    "tam",
    "mya",
    "tha",
    "jpn",
    "kor",
    "cmn_hans",
    "kat",
]
NO_FIGURE = "claimed in the abstract, no figure that we could read"
MARKED = 0.05

Counts = Mapping[str, Int[ndarray, "segments"]]
UnseenCounts = Mapping[str, Int[ndarray, "unseen"]]


@dataclass(frozen=True)
class Corpus:
    """What a scale is run on.

    Attributes:
        train: texts of each language.
        evaluation: parallel segments of each language.
        names: of the languages, in English.
        base: the vocabulary at which languages are compared.
        largest: the vocabulary that one language may have.
        grid: sizes and settings.
    """

    train: Mapping[str, Sequence[str]]
    evaluation: Mapping[str, Segments]
    names: Mapping[str, str]
    base: int
    largest: int
    grid: GridConfig


@dataclass(frozen=True)
class Measured:
    """Everything the claims are judged from.

    Attributes:
        cells: of the grids with equal content.
        equal_bytes: BPE cells of the grid with equal bytes.
        curves: fitted to BPE.
        optimal: vocabulary of each language; the largest measured where the target is out of reach.
        out_of_reach: languages that no vocabulary brings to the target.
        target: tokens.
        optimal_counts: with those vocabularies.
        unseen: (fixed, optimal) counts of every second segment, with curves fitted to the others.
        unmarked: BPE at the base size with GPT-2's pre-tokenizer.
        marks: share of combining marks among the characters of each language.
        similarity: correlation of train-eval similarity with the counts, and its p value and gain in R².
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
    similarity: tuple[float, float, float]


@dataclass(frozen=True)
class _PremiumsRecipe:
    slug: str = "premiums"
    title: str = "Explaining and Mitigating Crosslingual Tokenizer Inequities"

    def run(self, scale: Scale, output: Path, progress: Progress) -> Reproduction:
        """Train, count, fit, train at the optimal sizes, and judge each claim."""
        started = time.perf_counter()
        corpus = _CORPORA[scale](lambda what, share: progress(what, 0.05 * share))
        found = measure(corpus, output, lambda what, share: progress(what, 0.05 + 0.95 * share))
        fixed = counts_of(found.cells, "bpe", "scaled", corpus.base)
        return Reproduction(
            slug=self.slug,
            claims=judge(corpus, found),
            settings={
                "scale": scale,
                "languages": dict(corpus.names),
                "evaluation_segments": len(next(iter(corpus.evaluation.values()))),
                "vocab_sizes": list(corpus.grid.vocab_sizes),
                "base_vocab_size": corpus.base,
                "target_tokens": found.target,
                "optimal_vocab_sizes": dict(found.optimal),
                "out_of_reach": list(found.out_of_reach),
                "r2": {language: curve.r2 for language, curve in found.curves.items()},
                "tokens_fixed": {language: int(each.sum()) for language, each in fixed.items()},
                "tokens_optimal": {
                    language: int(each.sum()) for language, each in found.optimal_counts.items()
                },
                "spread": {name: _spread(each) for name, each in settings_compared(corpus, found).items()},
            },
            seconds=time.perf_counter() - started,
            plots=(_plot(corpus, found, output),),
        )


def measure(corpus: Corpus, output: Path, progress: Progress) -> Measured:
    """Run the grids and everything that builds on them."""
    everything = replace(corpus.grid, amounts=("scaled",))
    equal = replace(everything, amounts=("unscaled",), algorithms=("bpe",), train_bytes=None)
    cells = run_grid(
        corpus.train, corpus.evaluation, output / "grid", everything, lambda w, s: progress(w, 0.6 * s)
    )
    equal_bytes = run_grid(
        corpus.train,
        corpus.evaluation,
        output / "equal-bytes",
        equal,
        lambda w, s: progress(w, 0.6 + 0.1 * s),
    )
    # With pairs that occur once, BoundlessBPE makes whole words of them and deletes what it has made them of.
    boundless = replace(everything, algorithms=("boundless",), min_frequency=2)
    cells += run_grid(
        corpus.train,
        corpus.evaluation,
        output / "boundless",
        boundless,
        lambda w, s: progress(w, 0.7 + 0.05 * s),
    )
    progress("vocabularies that cost the same", 0.75)
    by_size = {size: counts_of(cells, "bpe", "scaled", size) for size in corpus.grid.vocab_sizes}
    curves, optimal, missed, target = _optimal(corpus, by_size, slice(None))
    optimal_counts = _trained_counts(corpus, optimal)
    progress("the same for articles that the curves have not seen", 0.8)
    _, of_seen, _, _ = _optimal(corpus, by_size, slice(0, None, 2))
    unseen = (
        {language: each[1::2] for language, each in by_size[corpus.base].items()},
        {language: each[1::2] for language, each in _trained_counts(corpus, of_seen).items()},
    )
    progress("other pre-tokenizers", 0.9)
    unmarked = _trained_counts(corpus, dict.fromkeys(corpus.train, corpus.base), GPT2_PATTERN)
    return Measured(
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


def judge(corpus: Corpus, found: Measured) -> tuple[Claim, ...]:
    """Put each claim beside its measurement."""
    sizes, base = corpus.grid.vocab_sizes, corpus.base
    at = {size: counts_of(found.cells, "bpe", "scaled", size) for size in sizes}
    supers = {size: counts_of(found.cells, "superbpe", "scaled", size) for size in (base, sizes[-1])}
    equal = counts_of(found.equal_bytes, "bpe", "unscaled", sizes[-1])
    return (
        _premiums_remain(
            f"with equal content and a vocabulary of {sizes[-1]} for all", at[sizes[-1]], at[base], base
        ),
        _premiums_remain(f"with equal bytes and a vocabulary of {sizes[-1]} for all", equal, at[base], base),
        _less_spread(
            f"a vocabulary for each language ({min(found.optimal.values())} to {max(found.optimal.values())}) lowers the spread of the "
            "counts (standard deviation, tokens)",
            found.optimal_counts,
            at[base],
            f"V = {base} for all",
            _std,
        ),
        _less_spread(
            "beyond the paper: it does so on articles that the curves were not fitted to (standard deviation, tokens)",
            found.unseen[1],
            found.unseen[0],
            f"V = {base} for all",
            _std,
        ),
        *(_fewer_tokens(size, supers[size], at[size]) for size in supers),
        *(
            _less_spread(
                f"SuperBPE lowers the relative spread at V = {size} (coefficient of variation)",
                supers[size],
                at[size],
                "BPE",
                _cv,
            )
            for size in supers
        ),
        _marks_matter(found, at[base]),
        _similarity_does_not(found.similarity),
    )


def settings_compared(corpus: Corpus, found: Measured) -> dict[str, Counts]:
    """The counts under each setting, by name."""
    sizes, base = corpus.grid.vocab_sizes, corpus.base
    shown: dict[str, Counts] = {
        f"BPE, V = {size}": counts_of(found.cells, "bpe", "scaled", size)
        for size in (sizes[0], base, sizes[-1])
    }
    shown["BPE, optimal V"] = found.optimal_counts
    for algorithm, name in (("superbpe", "SuperBPE"), ("boundless", "BoundlessBPE"), ("unigram", "Unigram")):
        for size in (base, sizes[-1]):
            shown[f"{name}, V = {size}"] = counts_of(found.cells, algorithm, "scaled", size)
    return shown


def _optimal(
    corpus: Corpus, by_size: Mapping[int, Counts], seen: slice
) -> tuple[dict[str, PowerLaw], dict[str, int], list[str], float]:
    """Curves through the counts of the segments seen, and the vocabulary of each language."""
    sizes = list(by_size)
    curves = {
        language: fit_vocab_curve(sizes, [float(by_size[size][language][seen].sum()) for size in sizes])
        for language in corpus.train
    }
    chosen = optimal_vocab_sizes(curves, base_size=corpus.base, largest=corpus.largest)
    missed = [language for language, each in chosen.items() if each.vocab_size is None]
    # Nothing reaches the target there: as near as a vocabulary that was measured comes.
    optimal = {language: each.vocab_size or sizes[-1] for language, each in chosen.items()}
    return curves, optimal, missed, next(iter(chosen.values())).target


def _trained_counts(corpus: Corpus, sizes: Mapping[str, int], pattern: str | None = None) -> dict[str, Any]:
    pattern = pattern or corpus.grid.pattern
    return {
        language: segment_token_counts(
            train_bpe(corpus.train[language], size, pattern), corpus.evaluation[language]
        )
        for language, size in sizes.items()
    }


def _similarity(corpus: Corpus, curves: Mapping[str, Mapping[int, int]]) -> tuple[float, float, float]:
    features = {}
    for language, segments in corpus.evaluation.items():
        texts = [text for segment in segments for text in segment]
        similar = trigram_similarity(corpus.train[language], texts)
        features[language] = {**premium_factors(texts).numbers(), "similarity": similar}
    (test,) = (each for each in factor_report(features, curves) if each.factor == "similarity")
    return test.pearson_r, test.p_value, test.r2_gain


def _marks(segments: Segments) -> float:
    text = "".join(text for segment in segments for text in segment)
    return sum(unicodedata.category(character)[0] == "M" for character in text) / len(text)


def _premiums_remain(claim: str, counts: Counts, control: Counts, base: int) -> Claim:
    ratio, before = (dispersion_intervals(each)["max_min"] for each in (counts, control))
    return Claim(
        claim=f"{claim}, the dearest language costs at least 1.5 times the cheapest (max / min)",
        paper=NO_FIGURE,
        measured=f"{ratio.value:.2f} (95 %: {ratio.low:.2f} to {ratio.high:.2f})",
        control=f"{before.value:.2f} (V = {base}, equal content)",
        verdict=verdict(ratio.low >= 1.5),
    )


def _less_spread(
    claim: str,
    ours: Counts,
    theirs: Counts,
    name: str,
    spread: Callable[[Float[ndarray, "samples languages"]], Float[ndarray, "samples"]],
) -> Claim:
    """Judged by the ratio of both spreads, over the same draws of the articles."""
    together = {f"ours {language}": each for language, each in ours.items()}
    together |= {f"theirs {language}": each for language, each in theirs.items()}
    drawn = resampled_counts(together)
    low, high = np.percentile(spread(drawn[:, : len(ours)]) / spread(drawn[:, len(ours) :]), [2.5, 97.5])
    values = [float(spread(_totals(each))[0]) for each in (ours, theirs)]
    means = [float(_totals(each).mean()) for each in (ours, theirs)]
    return Claim(
        claim=claim,
        paper=NO_FIGURE,
        measured=f"{values[0]:.3g} at mean {means[0]:.0f} (ratio {values[0] / values[1]:.2f}, 95 %: {low:.2f} to {high:.2f})",
        control=f"{values[1]:.3g} at mean {means[1]:.0f} ({name})",
        verdict=verdict(bool(high < 1)),
    )


def _fewer_tokens(size: int, ours: Counts, theirs: Counts) -> Claim:
    saved = 1 - _totals(ours)[0] / _totals(theirs)[0]
    error = saved.std(ddof=1) / len(saved) ** 0.5
    return Claim(
        claim=f"SuperBPE needs fewer tokens at V = {size} (tokens saved, mean over the languages)",
        paper=NO_FIGURE,
        measured=f"{saved.mean():.1%} ± {error:.1%}, in {int((saved > 0).sum())} of {len(saved)} languages",
        control=f"0 (BPE, mean count {_totals(theirs).mean():.0f})",
        verdict=verdict(bool(saved.mean() > 2 * error)),
    )


def _marks_matter(found: Measured, marked: Counts) -> Claim:
    cost = {language: found.unmarked[language].sum() / marked[language].sum() for language in marked}
    with_marks = [cost[language] for language in cost if found.marks[language] >= MARKED]
    without = [cost[language] for language in cost if found.marks[language] < MARKED]
    return Claim(
        claim=f"pre-tokenization matters: without \\p{{M}} every language with at least {MARKED:.0%} combining marks costs 10 % more "
        "(tokens, relative to BPE with it)",
        paper=NO_FIGURE,
        measured=f"{min(with_marks):.2f} to {max(with_marks):.2f} ({len(with_marks)} languages)",
        control=f"{min(without):.2f} to {max(without):.2f} ({len(without)} languages with fewer marks)",
        verdict=verdict(bool(min(with_marks) >= 1.1)),
    )


def _similarity_does_not(similarity: tuple[float, float, float]) -> Claim:
    r, p, gain = similarity
    return Claim(
        claim="how similar training and evaluation text are goes with nothing (cosine of character trigrams with the mean count)",
        paper="no effect (abstract)",
        measured=f"r = {r:+.2f}, p = {p:.2f}; adds {gain:.2f} to the R² of the vocabulary",
        control="p > 0.05",
        verdict=verdict(p > 0.05),
    )


def _totals(counts: Counts) -> Float[ndarray, "one languages"]:
    return np.array([[float(each.sum()) for each in counts.values()]])


def _std(totals: Float[ndarray, "samples languages"]) -> Float[ndarray, "samples"]:
    return totals.std(axis=1, ddof=1)


def _cv(totals: Float[ndarray, "samples languages"]) -> Float[ndarray, "samples"]:
    return _std(totals) / totals.mean(axis=1)


def _spread(counts: Counts) -> dict[str, list[float]]:
    """Value, low and high of each figure."""
    return {name: [each.value, each.low, each.high] for name, each in dispersion_intervals(counts).items()}


def _declaration(progress: Progress) -> Corpus:
    progress("reading the declaration", 0.0)
    path = udhr_path()
    train, evaluation = udhr_split(load_udhr(path, LANGUAGES))
    names = {code: each.name for code, each in udhr_languages(path, LANGUAGES).items()}
    return Corpus(
        train=train,
        evaluation=evaluation,
        names=names,
        base=512,
        largest=4096,
        grid=GridConfig(
            algorithms=("bpe", "superbpe", "unigram"),
            vocab_sizes=(320, 384, 448, 512, 640, 768, 896, 1024),
            # All there is: the articles have the same content in every language.
            train_bytes=10**9,
        ),
    )


def _flores(progress: Progress) -> Corpus:
    """FLORES-200, and 300 MB of FineWeb-2 per language by byte premium; both must be accessible. The paper's own training text may differ."""
    from datasets import load_dataset

    codes = {"eng": "eng_Latn", "deu": "deu_Latn", "ell": "ell_Grek", "hin": "hin_Deva", "tam": "tam_Taml"}
    codes |= {"mya": "mya_Mymr", "tha": "tha_Thai", "jpn": "jpn_Jpan", "kor": "kor_Hang", "arb": "arb_Arab"}
    train, evaluation = {}, {}
    for place, (language, code) in enumerate(codes.items()):
        progress(f"reading {code}", place / len(codes))
        rows = load_dataset("openlanguagedata/flores_plus", code, split="devtest")
        evaluation[language] = [[row["text"]] for row in rows]
        name = "HuggingFaceFW/fineweb" if language == "eng" else "HuggingFaceFW/fineweb-2"
        config = "sample-10BT" if language == "eng" else code
        texts, read = [], 0
        for row in load_dataset(name, config, split="train", streaming=True):
            texts.append(row["text"])
            read += len(row["text"].encode())
            if read > 1_200_000_000:  # the largest byte premium is about four
                break
        train[language] = texts
    grid = GridConfig(algorithms=("bpe", "superbpe", "unigram"), vocab_sizes=SIZES, train_bytes=300_000_000)
    return Corpus(train, evaluation, codes, base=32768, largest=114688, grid=grid)


_CORPORA: dict[Scale, Callable[[Progress], Corpus]] = {"laptop": _declaration, "paper": _flores}


def _plot(corpus: Corpus, found: Measured, output: Path) -> Path:
    """Draw the counts of every language with one and with its own vocabulary, some curves, and the spread under each setting."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (dots, curves, spread) = plt.subplots(
        1, 3, figsize=(15, 6), width_ratios=(1.25, 1, 1), layout="constrained"
    )
    _draw_dots(dots, corpus, found)
    _draw_curves(curves, corpus, found)
    _draw_spread(spread, corpus, found)
    path = output / "premiums.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return Path(path.name)


def _draw_dots(panel: Any, corpus: Corpus, found: Measured) -> None:
    fixed = counts_of(found.cells, "bpe", "scaled", corpus.base)
    order = sorted(fixed, key=lambda language: fixed[language].sum())
    places = np.arange(len(order))
    drawings = (
        (fixed, "0.55", "s", f"V = {corpus.base} for all"),
        (found.optimal_counts, "C0", "o", "own V"),
    )
    for counts, colour, marker, label in drawings:
        totals = np.array([counts[language].sum() for language in order])
        drawn = resampled_counts({language: counts[language] for language in order})
        low, high = (
            np.percentile(drawn / drawn.mean(axis=1, keepdims=True), [2.5, 97.5], axis=0) * totals.mean()
        )
        panel.hlines(places, low, high, color=colour, linewidth=1.2, alpha=0.6)
        panel.plot(totals, places, marker, color=colour, markersize=5, label=label)
    panel.axvline(found.target, color="black", linewidth=0.8, linestyle=":")
    names = [
        f"{corpus.names[each]}  {found.optimal[each]}{'*' * (each in found.out_of_reach)}" for each in order
    ]
    panel.set_yticks(places, names, fontsize=8)
    panel.legend(frameon=False, loc="lower right")
    panel.set(
        xlabel="tokens of the same text (95 %, relative to the mean of the languages)",
        title="What each language costs, and its own vocabulary (* target out of reach)",
    )
    panel.title.set_fontsize(10)
    panel.grid(axis="y", color="0.93", linewidth=0.8)
    panel.set_axisbelow(True)


def _draw_curves(panel: Any, corpus: Corpus, found: Measured) -> None:
    measured = curves_of(found.cells, "bpe", "scaled")
    order = sorted(measured, key=lambda language: measured[language][corpus.base])
    shown = [order[round(share * (len(order) - 1))] for share in (0, 0.25, 0.5, 0.75, 1)]
    sizes = np.geomspace(corpus.grid.vocab_sizes[0], corpus.grid.vocab_sizes[-1], 60)
    for number, language in enumerate(shown):
        curve = measured[language]
        panel.plot(list(curve), list(curve.values()), "o", color=f"C{number}", markersize=4)
        line = [found.curves[language].predict(float(size)) for size in sizes]
        panel.plot(sizes, line, color=f"C{number}", linewidth=1, label=corpus.names[language])
    panel.axhline(found.target, color="black", linewidth=0.8, linestyle=":")
    panel.set(xlabel="vocabulary", ylabel="tokens", title="a · (V/V0)^−b + c", xscale="log")
    panel.legend(frameon=False, fontsize=8)


def _draw_spread(panel: Any, corpus: Corpus, found: Measured) -> None:
    compared = settings_compared(corpus, found)
    values = [dispersion_intervals(counts)["cv"] for counts in compared.values()]
    places = np.arange(len(values))
    panel.hlines(
        places, [each.low for each in values], [each.high for each in values], color="0.5", linewidth=1.2
    )
    panel.plot([each.value for each in values], places, "o", color="C0", markersize=5)
    panel.set_yticks(places, list(compared), fontsize=8)
    panel.invert_yaxis()
    panel.set_xlim(left=0)
    panel.set(xlabel="standard deviation / mean (95 %)", title="Spread over the languages")
    panel.grid(axis="y", color="0.93", linewidth=0.8)


RECIPE = _PremiumsRecipe()
