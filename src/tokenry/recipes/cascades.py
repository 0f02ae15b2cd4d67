"""Language model cascades (arXiv 2404.10136): which score of the small model's own log-probabilities finds the prompts to hand over?

Two character models answer problems in which long answers are easy, short ones hard, and part of every long answer is noise
(`testbeds/character_tasks`). Every rule is fitted on one half of the problems and measured on the other:

    Chow-sum, Chow-average, Chow-quantile (level tuned), debiased Chow-sum
    post-hoc deferral on quantiles, and on quantiles and embeddings of both models

Headline: post-hoc deferral on quantiles has the larger area under the deferral curve than Chow-sum and than Chow-average.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray

from tokenry.core.io.files import without_nan
from tokenry.core.io.progress import part
from tokenry.core.stats import Estimate, all_of, bootstrap, bootstrap_estimate, estimate_of_mean, shown
from tokenry.decoding import (
    ChowAverage,
    ChowQuantile,
    ChowSum,
    DebiasedChow,
    DeferralRule,
    ModelIdentity,
    PostHocDeferral,
    Target,
    auc_df,
    auc_draws,
    deferral_curve,
    diagnose_lengths,
    fit_rule,
    oracle_score,
)
from tokenry.decoding.cascades import array, rank_correlation
from tokenry.decoding.fitted_rule import halves
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.character_pair import CharacterPair
from tokenry.recipes.testbeds.instructed_pair import InstructedPair

RANDOM = "random"
SUM, AVERAGE, QUANTILE, DEBIASED, POST_HOC, EMBEDDED = (
    "Chow-sum",
    "Chow-average",
    "Chow-quantile",
    "debiased Chow-sum",
    "post-hoc",
    "post-hoc + embeddings",
)
RULES: Mapping[str, DeferralRule] = {
    SUM: ChowSum(),
    AVERAGE: ChowAverage(),
    QUANTILE: ChowQuantile(),
    DEBIASED: DebiasedChow(),
    POST_HOC: PostHocDeferral(),
}
BUDGET, SLACK = 0.3, 0.03
MARGIN = 0.01


@dataclass(frozen=True)
class CascadeSizes:
    """Size of the experiment at one scale.

    Attributes:
        pair: the two models and what they answer.
        problems: problems that both answer, half of them to fit rules on.
        draws: resamples behind the intervals.
        seed: random seed of the models and the problems.
    """

    pair: CharacterPair | InstructedPair = field(default_factory=CharacterPair)
    problems: int = 3000
    draws: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came of every rule on the problems that it was not fitted on.

    Attributes:
        q_small: whether the small model was right.
        q_large: whether the large model was right.
        lengths: number of tokens of the small model's answers.
        deferred: whether the rule fitted for the budget defers each.
    """

    scores: Mapping[str, Float[ndarray, "problems"]]
    q_small: Float[ndarray, "problems"]
    q_large: Float[ndarray, "problems"]
    lengths: Float[ndarray, "problems"]
    deferred: Float[ndarray, "problems"]


@recipe(
    "cascades",
    laptop=CascadeSizes(),
    paper=CascadeSizes(InstructedPair(), problems=9815, draws=5000),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Let both models answer, fit every rule, and judge each claim."""
    sizes: CascadeSizes = run.sizes
    outcome = measured(run, sizes)
    matrix = np.stack(list(outcome.scores.values()), axis=1)
    draws = auc_draws(matrix, outcome.q_small, outcome.q_large, sizes.draws, sizes.seed)
    drawn = dict(zip(outcome.scores, draws.T, strict=True))
    run.settings |= {
        "sizes": asdict(sizes),
        "budget": BUDGET,
        "deferred": float(outcome.deferred.mean()),
        "rules": {
            name: without_nan(
                asdict(auc_df(score, outcome.q_small, outcome.q_large))
                | asdict(diagnose_lengths(score, outcome.lengths, outcome.q_small, outcome.q_large))
            )
            for name, score in outcome.scores.items()
        },
    }
    with run.figure(9, 3.8) as figure:
        draw(figure, outcome)
    yield from claims(outcome, drawn, sizes)


def measured(run: RecipeRun, sizes: CascadeSizes) -> Outcome:
    """Answers of both models, and the scores of every rule fitted on half of them."""
    embedded, tasks = sizes.pair.answered(sizes.problems, sizes.seed, part(run.progress, 0.0, 0.86))
    examples, right = replace(embedded, embeddings=None), (embedded.q_small, embedded.q_large)
    run.settings["accuracy"] = {
        task: [float(q[[other == task for other in tasks]].mean()) for q in right]
        for task in dict.fromkeys(tasks)
    }
    learned, held = halves(len(examples), sizes.seed)
    seen, scores = examples.rows(held), {RANDOM: np.zeros(len(held))}
    for number, (name, rule) in enumerate(RULES.items()):
        run.progress(f"fitting {name}", 0.86 + 0.02 * number)
        scores[name] = array(rule.fit(examples.rows(learned)).score(seen.logprobs, seen.mask))
    other = embedded.rows(held)
    scores[EMBEDDED] = array(
        RULES[POST_HOC].fit(embedded.rows(learned)).score(other.logprobs, other.mask, other.embeddings)
    )
    models = ModelIdentity("small"), ModelIdentity("large")
    fitted = fit_rule(
        RULES[POST_HOC], examples.rows(learned), Target(budget=BUDGET), *models, draws=2, seed=sizes.seed
    )
    deferred = fitted.defers(seen.logprobs, seen.mask).astype(float)
    return Outcome(scores, seen.q_small, seen.q_large, seen.lengths, deferred)


def claims(outcome: Outcome, drawn: Mapping[str, ndarray], sizes: CascadeSizes) -> Iterator[Claim]:
    """Put each claim beside its measurement; the units are the held-out problems."""
    count = len(outcome.q_small)
    areas = {name: auc_df(score, outcome.q_small, outcome.q_large) for name, score in outcome.scores.items()}

    def above(one: str, other: str) -> Estimate:
        return bootstrap_estimate(areas[one].auc - areas[other].auc, drawn[one] - drawn[other], count)

    def value(name: str) -> str:
        return f"{areas[name].auc:.3f} ({areas[name].gain_percent:+.1f} % over random)"

    both = above(POST_HOC, SUM), above(POST_HOC, AVERAGE)
    yield Claim(
        "post-hoc deferral on quantiles has a larger AUC-DF than Chow-sum and than Chow-average",
        paper="MNLI 0.711, Chow-sum 0.627, Chow-average 0.642; not on every data set (TyDiQA-SW: Chow-sum)",
        measured=f"{value(POST_HOC)}, {both[0].with_interval('+.3f')} above Chow-sum, {both[1].with_interval('+.3f')} above Chow-average",
        control=f"Chow-sum {value(SUM)}, Chow-average {value(AVERAGE)}; oracle {areas[SUM].oracle:.3f}",
        verdict=all_of(map(shown, both)),
    )
    gain = above(SUM, RANDOM)
    yield Claim(
        f"Chow-sum is at or below random deferral (less than {MARGIN} above it) where length is not difficulty",
        paper="MNLI -2.6 %, TriviaQA -13.1 %",
        measured=f"{gain.with_interval('+.3f')} above random",
        control=f"{areas[RANDOM].auc:.3f} (random)",
        verdict=shown(gain.scaled(-1), -MARGIN),
    )
    columns = outcome.lengths, outcome.scores[SUM], outcome.scores[POST_HOC]
    follows = [abs(rank_correlation(columns[0], score)) for score in columns[1:]]
    difference = bootstrap(_closer_to_length, *columns, draws=min(300, sizes.draws), seed=sizes.seed)
    yield Claim(
        "the score of Chow-sum follows the length of the answer more closely than that of post-hoc deferral",
        paper=None,
        measured=f"|rank correlation| {follows[0]:.2f} (difference {difference.with_interval('+.2f')})",
        control=f"{follows[1]:.2f} (post-hoc)",
        verdict=shown(difference),
    )
    share = estimate_of_mean(outcome.deferred)
    yield Claim(
        f"a threshold fitted for {BUDGET:.0%} defers less than {BUDGET + SLACK:.0%} of new problems",
        paper=None,
        measured=f"{share.scaled(100).with_interval('.1f')} % deferred, n = {count:,}",
        control=f"{BUDGET:.0%} (budget)",
        verdict=shown(share.scaled(-1), -(BUDGET + SLACK)),
    )
    more = above(EMBEDDED, POST_HOC)
    yield Claim(
        "embeddings of both models raise the AUC-DF of post-hoc deferral",
        paper="MNLI 0.722 against 0.711",
        measured=f"{value(EMBEDDED)}, {more.with_interval('+.3f')} above",
        control=f"{value(POST_HOC)} (quantiles alone)",
        verdict=shown(more),
    )


def _closer_to_length(lengths: ndarray, one: ndarray, other: ndarray) -> float:
    return abs(rank_correlation(lengths, one)) - abs(rank_correlation(lengths, other))


def draw(figure: Figure, outcome: Outcome) -> None:
    """Deferral curves of the rules, and the mean length of the answers from the first deferred to the last."""
    curves, lengths = figure.subplots(1, 2)
    lines: dict[str, Any] = {**outcome.scores, "oracle": oracle_score(outcome.q_small, outcome.q_large)}
    styles = ["-", "-", "-.", ":", (0, (5, 2)), "-", "--", "-"]
    for (name, score), style in zip(lines.items(), styles, strict=True):
        rates, quality = deferral_curve(score, outcome.q_small, outcome.q_large)
        colour = {RANDOM: "0.8", "oracle": "0.5"}.get(name)
        curves.plot(rates, quality, label=name, linestyle=style, color=colour, linewidth=1.4)
    curves.set(xlabel="share of the problems deferred", ylabel="share answered correctly")
    curves.legend(fontsize=7)
    diagnoses = {
        name: diagnose_lengths(outcome.scores[name], outcome.lengths, outcome.q_small, outcome.q_large)
        for name in (SUM, AVERAGE, POST_HOC)
    }
    tenths = range(1, 1 + len(diagnoses[SUM].lengths))
    for name, marker in zip(diagnoses, "osD", strict=True):
        lengths.plot(tenths, diagnoses[name].lengths, label=name, marker=marker, markersize=3.5)
    lengths.plot(
        tenths, diagnoses[SUM].oracle_lengths, label="oracle", color="0.5", marker="^", markersize=3.5
    )
    lengths.set(
        xlabel="tenth of the scores, first deferred first", ylabel="mean length of the answer (tokens)"
    )
    lengths.legend(fontsize=7)
