"""PreSelect (arXiv 2503.00808): is a model better taught by the documents on which losses order a family of models rightly?

The corpus mixes docstrings with licences, number tables, base64, shuffled words and other languages, as many of each. The family is one
small model that learns docstrings of another package, late in its training: six checkpoints, ranked by a third package. For each seed:

    corpus     strength of its documents; a fifth of the characters is kept by strength, at random, by the lowest perplexity under the last
               checkpoint, or by length
    training   one small model on each, for the same tokens

Headline: the model taught by strength has fewer bits per byte on docstrings of files that the corpus does not hold than each of the three
others. The other claims ask for what is kept, for a corpus of known quality, for what fastText learns from both ends, and for SmolLM2 cut to
four depths as a family.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np
from matplotlib.figure import Figure

from tokenry.core.stats import (
    FEWEST_SEEDS,
    Estimate,
    all_of,
    estimate_of_correlation,
    estimate_of_mean,
    independent_difference,
    paired_difference,
    shown,
)
from tokenry.models import EMBEDDED_TITLE
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.selection_trial import (
    CONTROLS,
    PERPLEXITY,
    RANDOM,
    STRENGTH,
    PreSelectSizes,
    Selected,
    SelectionRound,
    measured,
)

ARMS = (STRENGTH, *CONTROLS)
AGREES = 0.5


@recipe(
    "preselect",
    laptop=PreSelectSizes(),
    paper=PreSelectSizes(
        family=("sklearn", "torch", "transformers"),
        pool=("scipy", "pandas", "statsmodels", "sympy"),
        longest=2000,
        vocabulary=8000,
        family_steps=20_000,
        corpus=20_000,
        steps=20_000,
        batch_size=256,
        depth_sample=1000,
        depth_length=2000,
    ),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Measure, choose and train by every rule and seed, and judge each claim."""
    sizes: PreSelectSizes = run.sizes
    found = measured(sizes, run.progress)
    bits = {name: found.over_seeds("bits", name).tolist() for name in ARMS}
    strength = by_kind(found.rounds)
    run.settings |= {
        "sizes": asdict(sizes),
        "bits_per_byte": bits,
        "docstrings_among_kept": {name: found.over_seeds("docstrings", name).tolist() for name in ARMS},
        "strength": {kind: asdict(estimate) for kind, estimate in strength.items()},
    }
    with run.figure(9, 3.6) as figure:
        draw(figure, bits, strength)
    yield from claims(found)


def by_kind(rounds: Sequence[SelectionRound]) -> dict[str, Estimate]:
    """Mean strength of every kind of document, over the samples of all seeds."""
    strength = np.concatenate([found.strength for found in rounds])
    kinds = np.concatenate([found.kinds for found in rounds])
    return {str(kind): estimate_of_mean(strength[kinds == kind]) for kind in np.unique(kinds)}


def claims(found: Selected) -> Iterator[Claim]:
    """Put each claim beside its measurement; the units are seeds in the first two and documents in the others."""
    ours = found.over_seeds("bits", STRENGTH)
    theirs = {name: found.over_seeds("bits", name) for name in CONTROLS}
    gains = {name: paired_difference(bits, ours) for name, bits in theirs.items()}
    said = "; ".join(
        f"{-gain.value:+.3f} ± {gain.standard_error:.3f} to {name}" for name, gain in gains.items()
    )
    yield Claim(
        "a model taught by documents of high strength has fewer bits per byte on docstrings held out than one taught by as many tokens of "
        "random, lowest-perplexity or longest documents (each, over seeds)",
        "average of benchmarks 33.4 against 28.1 (random) and 29.1 (perplexity filter); 1B parameters, 30B tokens",
        measured=f"{ours.mean():.3f} ({said}; n = {len(ours)} seeds)",
        control=", ".join(f"{bits.mean():.3f} ({name})" for name, bits in theirs.items()),
        verdict=all_of(shown(gain, fewest=FEWEST_SEEDS) for gain in gains.values()),
    )
    yield Claim.above(
        "strength finds the docstrings: more of what it keeps is docstrings than of a random choice (seeds)",
        100 * found.over_seeds("docstrings", STRENGTH),
        100 * found.over_seeds("docstrings", RANDOM),
        RANDOM,
        fewest=FEWEST_SEEDS,
        unit=" %",
    )
    strong, lowest = (estimate_of_mean(found.planted[name]) for name in (STRENGTH, PERPLEXITY))
    yield _apart(
        "planted documents kept by strength are better than those kept by the lowest loss (quality in 0 to 1)",
        strong,
        lowest,
        PERPLEXITY,
    )
    held = [(each.strength[each.unseen], each.score[each.unseen]) for each in found.rounds]
    strength, score = (np.concatenate(side) for side in zip(*held, strict=True))
    agreement = estimate_of_correlation(float(np.corrcoef(strength, score)[0, 1]), len(score))
    yield Claim(
        f"the classifier carries strength over to documents that no model has read: correlation above {AGREES}",
        None,
        measured=f"{agreement.with_interval()}, n = {len(score):,}",
        control="0 (no relation)",
        verdict=shown(agreement, least=AGREES),
    )
    natural, rest = (estimate_of_mean(found.depth_strength[mask]) for mask in (found.natural, ~found.natural))
    yield _apart(
        f"under {EMBEDDED_TITLE} cut to four depths, docstrings and licences are stronger than the other kinds",
        natural,
        rest,
        "the others",
    )


def _apart(claim: str, ours: Estimate, theirs: Estimate, against: str) -> Claim:
    difference = independent_difference(ours, theirs)
    return Claim(
        claim,
        None,
        measured=f"{ours.value:.3f} (difference {difference:+.3f}, n = {ours.samples:,} and {theirs.samples:,})",
        control=f"{theirs.value:.3f} ({against})",
        verdict=shown(difference),
    )


def draw(figure: Figure, bits: Mapping[str, Sequence[float]], strength: Mapping[str, Estimate]) -> None:
    """Bits per byte by rule and seed, and strength by kind of document."""
    left, right = figure.subplots(1, 2)
    for place, (name, of_seeds) in enumerate(bits.items()):
        left.scatter(of_seeds, [place] * len(of_seeds), color="C0" if name == STRENGTH else "0.35", zorder=3)
        left.plot([np.mean(of_seeds)] * 2, [place - 0.25, place + 0.25], color="0.35", linewidth=1)
    left.set_yticks(range(len(bits)), bits)
    left.set(xlabel="bits per byte on docstrings held out", title="trained on documents by (dots: seeds)")
    left.invert_yaxis()
    kinds = sorted(strength.items(), key=lambda entry: entry[1].value)
    values, errors = (
        [getattr(estimate, what) for _, estimate in kinds] for what in ("value", "standard_error")
    )
    right.barh([kind for kind, _ in kinds], values, xerr=errors, color="C0", ecolor="0.35")
    right.set(xlabel="mean strength (lines: standard error)", title="kinds of documents", xlim=(0, 1.05))
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
        axes.title.set_fontsize(10)
