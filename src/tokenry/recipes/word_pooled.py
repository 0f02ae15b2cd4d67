"""Word-pooled language models (arXiv 2310.11628) against flat models of the same letters, in equal time and with positions.

    repeated words   a list of five made-up words, again and again: the next word is known to whoever tells words apart
    docstrings       words that training has seen at most twice, and mistyped words in the context, beside a flat model of bytes and one of
                     whole words, which spells rare ones in bytes

Headline: ahead of the flat model with positions in equal time. The paper's 300 % is against flat models whose code has no positions.
Steps stand for time: a step of the pooled model takes less than half of one of the flat model (both are measured); on docstrings, steps are
such that all arms compute equally many multiply-adds.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tokenry.core.io.progress import part
from tokenry.core.stats import all_of, estimate_of_mean, exactly, paired_difference, shown
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.word_trial import (
    BARE,
    FLAT,
    POOLED,
    RARE,
    SHORT,
    WHOLE,
    WordRuns,
    WordSizes,
    try_docstrings,
    try_repeated_words,
)

MARGIN, SOLVED = 0.3, 0.9


@recipe(
    "word-pooled",
    laptop=WordSizes(),
    paper=WordSizes((0, 1, 2), 20_000, 10_000, 20_000, 4096, 512, 64, 20_000, 512, 8, 32, 2000),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Train every arm and judge each claim."""
    sizes: WordSizes = run.sizes
    runs = WordRuns()
    for number, seed in enumerate(sizes.seeds):
        share = 0.7 / len(sizes.seeds)
        try_repeated_words(runs, sizes, seed, part(run.progress, number * share, (number + 1) * share))
    try_docstrings(runs, sizes, part(run.progress, 0.7, 1.0))
    run.settings |= {
        "seeds": list(sizes.seeds),
        "steps": {POOLED: sizes.pooled_steps, FLAT: sizes.flat_steps, "docstrings": runs.steps},
        "cpu_seconds_per_step": runs.seconds,
        "trunk_positions": runs.positions,
        "accuracy": {
            f"{arm}, {steps} steps": float(found.mean()) for (arm, steps), found in runs.right.items()
        },
        "bits_per_byte": {arm: float(found.mean()) for arm, found in runs.bits.items()},
        "bits_of_mistyping": {arm: float(found.mean()) for arm, found in runs.typos.items()},
    }
    with run.figure(11, 4) as figure:
        draw(figure, runs, sizes)
    yield from claims(runs, sizes)


def claims(runs: WordRuns, sizes: WordSizes) -> Iterator[Claim]:
    """Judge what was measured."""
    pooled = runs.right[POOLED, sizes.pooled_steps]
    seeds = f"{len(sizes.seeds)} seeds, texts as units"
    later = sizes.later_steps
    yield _more(
        f"in the time of {sizes.flat_steps} steps of the flat model with positions, the pooled model ({sizes.pooled_steps} steps) spells more "
        f"words right ({seeds})",
        pooled,
        runs.right[FLAT, sizes.flat_steps],
        "flat, positions",
        paper="over 300 % above all flat models",
    )
    yield _more(
        f"after {later} steps the released flat model without positions spells {MARGIN:.0%} of the words less right than the one with them",
        runs.right[FLAT, later],
        runs.right[BARE, later],
        "flat, no positions",
        least=MARGIN,
    )
    yield _more(
        f"with {runs.positions[POOLED]:.0f} positions in its trunk the pooled model is ahead of a flat one with 24, in equal steps",
        pooled,
        runs.right[SHORT, sizes.pooled_steps],
        "flat, 24 positions",
    )
    solved, fewer = estimate_of_mean(pooled), runs.positions[FLAT] / runs.positions[POOLED]
    yield Claim(
        f"the pooled model solves the task (more than {SOLVED:.0%}) with at least 4 times fewer positions in its trunk",
        None,
        measured=f"{100 * solved.value:.1f} % ± {100 * solved.standard_error:.1f}, {fewer:.1f} times fewer",
        control=f"{SOLVED:.0%}, 4 times",
        verdict=all_of([shown(solved, SOLVED), exactly(fewer >= 4)]),
    )
    rare = {arm: bits[runs.rare] for arm, bits in runs.bits.items()}
    fewer_bits = {arm: paired_difference(rare[arm], rare[POOLED]) for arm in (FLAT, WHOLE)}
    yield Claim(
        f"docstrings, equal compute: the pooled model needs fewer bits per byte for words that training has seen at most {RARE} times than "
        "flat models of bytes and of whole words, each",
        "30 times as accurate on rare words",
        measured=f"{rare[POOLED].mean():.3f} (fewer by "
        + ", ".join(f"{found:.3f}" for found in fewer_bits.values())
        + f", n = {len(rare[POOLED]):,})",
        control=", ".join(f"{rare[arm].mean():.3f} ({arm})" for arm in fewer_bits),
        verdict=all_of(map(shown, fewer_bits.values())),
    )
    yield Claim.above(
        "where a fifth of the words before it are mistyped, the next word costs the pooled model fewer bits more than the flat model of whole "
        "words",
        runs.typos[POOLED],
        runs.typos[WHOLE],
        f"whole words; bytes: {runs.typos[FLAT].mean():+.2f}",
        lower=True,
        spec=".2f",
        unit=" bits",
    )


def _more(claim: str, ours: np.ndarray, theirs: np.ndarray, against: str, **options: Any) -> Claim:
    percent = {"unit": " %", **options, "least": 100 * options.get("least", 0.0)}
    return Claim.above(claim, 100 * ours, 100 * theirs, against, **percent)


def draw(figure: Figure, runs: WordRuns, sizes: WordSizes) -> None:
    """Words spelled right by each arm, and bits per byte on docstrings by how often a word was seen."""
    left, right = figure.subplots(1, 2)
    arms = {
        f"pooled\n{sizes.pooled_steps} steps": (POOLED, sizes.pooled_steps),
        f"flat\n{sizes.flat_steps} steps": (FLAT, sizes.flat_steps),
        f"flat\n{sizes.later_steps} steps": (FLAT, sizes.later_steps),
        f"no positions\n{sizes.later_steps} steps": (BARE, sizes.later_steps),
        f"24 positions\n{sizes.pooled_steps} steps": (SHORT, sizes.pooled_steps),
    }
    heights = [100 * runs.right[key].mean() for key in arms.values()]
    left.bar(range(len(arms)), heights, color=["#4477aa", *["0.6"] * 4])
    left.set_xticks(range(len(arms)), [*arms], fontsize=8)
    left.set(ylabel="words spelled right, %", title="repeated words")
    groups = {f"seen at most {RARE} times": runs.rare, "seen more often": ~runs.rare}
    for place, (arm, color) in enumerate(((POOLED, "#4477aa"), (FLAT, "0.6"), (WHOLE, "0.8"))):
        values = [runs.bits[arm][mask].mean() if mask.any() else 0.0 for mask in groups.values()]
        right.bar([number + 0.27 * place for number in range(2)], values, 0.25, color=color, label=arm)
    right.set_xticks([0.27, 1.27], [*groups])
    right.set(ylabel="bits per byte", title="docstrings, equal compute")
    right.legend(frameon=False)
