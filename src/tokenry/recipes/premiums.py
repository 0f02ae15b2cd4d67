"""Crosslingual tokenizer inequities (arXiv 2510.21909): the cost of the same text in 24 languages, and remedies.

The Universal Declaration of Human Rights: tokenizers are trained on the preamble and two thirds of the articles of one language, and
evaluated on the other third. Every figure with an interval comes from a bootstrap over the articles, drawn together for all languages.

    fixed      one vocabulary for all languages, with equal content and with equal bytes of training text
    optimal    for each language the vocabulary at which its fitted curve meets one count of tokens
    remedies   SuperBPE, BoundlessBPE, and Unigram beside BPE; marks among the letters of the pre-tokenizer, or not

Headline: the remedy that the abstract proposes, a vocabulary for each language. Of the paper only the abstract could be read: the claims
are about directions.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray

from tokenry.core.io.progress import Progress, part
from tokenry.core.stats import absent, all_of, bootstrap_estimate, estimate_of_mean, exactly, shown
from tokenry.core.text.token_counts import dispersion_intervals, resampled_counts
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.parallel_corpora import Corpus, declaration, flores
from tokenry.recipes.testbeds.vocabulary_trial import Counts, VocabularyTrial, measure
from tokenry.tokenization.premiums.tokenizer_grid import counts_of, curves_of

MARKED = 0.05
NO_EFFECT = 0.5
"""A correlation that is certainly smaller explains less than a quarter of the variance."""


@recipe("premiums", laptop=declaration, paper=flores)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Train, count, fit, train at the optimal sizes, and judge each claim."""
    load: Callable[[Progress], Corpus] = run.sizes
    corpus = load(part(run.progress, 0.0, 0.05))
    found = measure(corpus, run.output, part(run.progress, 0.05, 1.0))
    fixed = counts_of(found.cells, "bpe", "scaled", corpus.base)
    run.settings |= {
        "languages": dict(corpus.names),
        "evaluation_segments": len(next(iter(corpus.evaluation.values()))),
        "vocab_sizes": list(corpus.grid.vocab_sizes),
        "base_vocab_size": corpus.base,
        "target_tokens": found.target,
        "optimal_vocab_sizes": dict(found.optimal),
        "out_of_reach": list(found.out_of_reach),
        "r2": {language: curve.r2 for language, curve in found.curves.items()},
        "tokens_fixed": {language: int(counts.sum()) for language, counts in fixed.items()},
        "tokens_optimal": {language: int(counts.sum()) for language, counts in found.optimal_counts.items()},
        "spread_on_articles_the_curves_have_not_seen": [
            float(_std(_totals(counts))[0]) for counts in found.unseen
        ],
        "spread": {name: _spread(counts) for name, counts in settings_compared(corpus, found).items()},
    }
    with run.figure(15, 6) as figure:
        draw(figure, corpus, found)
    yield from judge(corpus, found)


def judge(corpus: Corpus, found: VocabularyTrial) -> Iterator[Claim]:
    """Put each claim beside its measurement."""
    base, largest = corpus.base, corpus.grid.vocab_sizes[-1]
    at = {size: counts_of(found.cells, "bpe", "scaled", size) for size in (base, largest)}
    supers = {size: counts_of(found.cells, "superbpe", "scaled", size) for size in at}
    equal = counts_of(found.equal_bytes, "bpe", "unscaled", largest)
    yield _less_spread(
        f"a vocabulary for each language ({min(found.optimal.values())} to {max(found.optimal.values())}) lowers the spread of the "
        "counts (standard deviation, tokens)",
        [(found.optimal_counts, at[base])],
        f"V = {base} for all",
        _std,
    )
    ratios = [dispersion_intervals(counts)["max_min"] for counts in (at[largest], equal, at[base])]
    yield Claim(
        f"with a vocabulary of {largest} for all, the most expensive language costs at least 1.5 times as much as the cheapest, with "
        "equal content and with equal bytes (max / min)",
        None,
        measured=" and ".join(ratio.with_interval() for ratio in ratios[:2]),
        control=f"{ratios[2].value:.2f} (V = {base}, equal content)",
        verdict=all_of(shown(ratio, least=1.5) for ratio in ratios[:2]),
    )
    saved = [estimate_of_mean(1 - _totals(supers[size])[0] / _totals(at[size])[0]) for size in at]
    yield Claim(
        f"SuperBPE needs fewer tokens at V = {base} and {largest} (tokens saved, mean over the languages)",
        None,
        measured=" and ".join(f"{share:.1%}" for share in saved) + f", n = {saved[0].samples}",
        control=f"0 (BPE, mean count {' and '.join(f'{_totals(counts).mean():.0f}' for counts in at.values())})",
        verdict=all_of(map(shown, saved)),
    )
    yield _less_spread(
        f"SuperBPE lowers the relative spread at V = {base} and {largest} (coefficient of variation)",
        [(supers[size], at[size]) for size in at],
        "BPE",
        _cv,
    )
    yield _marks_matter(found, at[base])
    similarity, gain = found.similarity
    yield Claim(
        "how similar training and evaluation text are goes with nothing (cosine of character trigrams with the mean count; its "
        f"correlation is within ± {NO_EFFECT})",
        "no effect (abstract)",
        measured=f"r = {similarity.with_interval('+.2f')}, n = {similarity.samples}; adds {gain:.2f} to the R² of the vocabulary",
        control="0",
        verdict=absent(similarity, NO_EFFECT),
    )


def settings_compared(corpus: Corpus, found: VocabularyTrial) -> dict[str, Counts]:
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


def _less_spread(
    claim: str,
    pairs: Sequence[tuple[Counts, Counts]],
    name: str,
    spread: Callable[[Float[ndarray, "samples languages"]], Float[ndarray, "samples"]],
) -> Claim:
    """A claim judged by the ratio of both spreads, over the same draws of the articles."""
    ratios, ours_at, theirs_at = [], [], []
    for ours, theirs in pairs:
        together = {f"ours {language}": counts for language, counts in ours.items()}
        together |= {f"theirs {language}": counts for language, counts in theirs.items()}
        drawn = resampled_counts(together)
        values = [float(spread(_totals(counts))[0]) for counts in (ours, theirs)]
        share = spread(drawn[:, : len(ours)]) / spread(drawn[:, len(ours) :])
        units = len(next(iter(ours.values())))
        ratios.append(bootstrap_estimate(values[0] / values[1], share, units))
        ours_at.append(f"{values[0]:.3g} at mean {_totals(ours).mean():.0f}")
        theirs_at.append(f"{values[1]:.3g} at mean {_totals(theirs).mean():.0f}")
    said = (ratio.with_interval() for ratio in ratios)
    return Claim(
        claim,
        None,
        measured=f"{' and '.join(ours_at)}; ratio {' and '.join(said)}",
        control=f"{' and '.join(theirs_at)} ({name})",
        verdict=all_of(shown(ratio.scaled(-1), least=-1.0) for ratio in ratios),
    )


def _marks_matter(found: VocabularyTrial, marked: Counts) -> Claim:
    cost = {language: found.unmarked[language].sum() / marked[language].sum() for language in marked}
    with_marks = [cost[language] for language in cost if found.marks[language] >= MARKED]
    without = [cost[language] for language in cost if found.marks[language] < MARKED]
    return Claim(
        f"pre-tokenization matters: without \\p{{M}} every language with at least {MARKED:.0%} combining marks costs 10 % more "
        "(tokens, relative to BPE with it)",
        None,
        measured=f"{min(with_marks):.2f} to {max(with_marks):.2f} ({len(with_marks)} languages)",
        control=f"{min(without):.2f} to {max(without):.2f} ({len(without)} languages with fewer marks)",
        verdict=exactly(bool(min(with_marks) >= 1.1)),
    )


def _totals(counts: Counts) -> Float[ndarray, "one languages"]:
    return np.array([[float(segments.sum()) for segments in counts.values()]])


def _std(totals: Float[ndarray, "samples languages"]) -> Float[ndarray, "samples"]:
    return totals.std(axis=1, ddof=1)


def _cv(totals: Float[ndarray, "samples languages"]) -> Float[ndarray, "samples"]:
    return _std(totals) / totals.mean(axis=1)


def _spread(counts: Counts) -> dict[str, list[float]]:
    """Value, low and high of each figure."""
    return {
        name: [figure.value, figure.low, figure.high] for name, figure in dispersion_intervals(counts).items()
    }


def draw(figure: Figure, corpus: Corpus, found: VocabularyTrial) -> None:
    """The counts of every language with one and with its own vocabulary, some curves, and the spread under each setting."""
    dots, curves, spread = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
    _draw_dots(dots, corpus, found)
    _draw_curves(curves, corpus, found)
    _draw_spread(spread, corpus, found)


def _draw_dots(panel: Any, corpus: Corpus, found: VocabularyTrial) -> None:
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
        f"{corpus.names[language]}  {found.optimal[language]}{'*' * (language in found.out_of_reach)}"
        for language in order
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


def _draw_curves(panel: Any, corpus: Corpus, found: VocabularyTrial) -> None:
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


def _draw_spread(panel: Any, corpus: Corpus, found: VocabularyTrial) -> None:
    compared = settings_compared(corpus, found)
    values = [dispersion_intervals(counts)["cv"] for counts in compared.values()]
    places = np.arange(len(values))
    panel.hlines(
        places, [value.low for value in values], [value.high for value in values], color="0.5", linewidth=1.2
    )
    panel.plot([value.value for value in values], places, "o", color="C0", markersize=5)
    panel.set_yticks(places, list(compared), fontsize=8)
    panel.invert_yaxis()
    panel.set_xlim(left=0)
    panel.set(xlabel="standard deviation / mean (95 %)", title="Spread over the languages")
    panel.grid(axis="y", color="0.93", linewidth=0.8)
