"""SIFT (arXiv 2502.14922): does answering from a note of the facts, and from both, beat answering plainly?

A tiny transformer learns to read problems that are worded in two ways, in every role of SIFT, on equally many texts of each
(`testbeds/fact_reader`). It answers new problems plainly, through the stages of SIFT, and by voting with as many calls, in four settings:

    the trained reader                   greedy: what it misreads, it misreads each time
    the trained reader with slips        some numbers are misread in addition, anew in every call
    a simulated reader                   misreadings at known rates, all of them systematic, or all of them independent

Headline: the trained reader through stage 3 against its own plain answers. The simulated reader shows the mechanism; neither speaks for
real models on real problems.
"""

import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray

from tokenry.core.io.progress import named, part
from tokenry.core.stats import estimate_of_mean
from tokenry.core.text.answers import equal_answers, final_answer
from tokenry.decoding import SIFT, self_consistency
from tokenry.models import Sampling
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.fact_reader import PROMPTS, Exam, FactReader, Slips
from tokenry.recipes.testbeds.simulated_reader import SimulatedReader
from tokenry.recipes.testbeds.word_problems import WordProblems

PLAIN, VOTING = "plain", "voting"
STAGES = ("stage 1", "stage 2", "stage 3")
LAST = STAGES[-1]
READER, SLIPS, SYSTEMATIC, INDEPENDENT = (
    "reader",
    "reader with slips",
    "simulated, systematic",
    "simulated, independent",
)

Right = Mapping[str, Float[ndarray, "problems"]]
"""Whether each problem is answered rightly, in per cent, by way of answering."""


@dataclass(frozen=True)
class SiftSizes:
    """Size of the experiment at one scale.

    Attributes:
        reader: what is trained, or loaded.
        slips: share of the numbers that are misread anew in every call.
        simulated: problems of the simulated reader.
    """

    reader: FactReader | WordProblems = field(default_factory=FactReader)
    problems: int = 1500
    slips: float = 0.05
    simulated: int = 1500
    seed: int = 0


@recipe("sift", laptop=SiftSizes(), paper=SiftSizes(WordProblems(), problems=1319, simulated=4000))
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Train the reader, answer in every setting and way, and judge each claim."""
    sizes: SiftSizes = run.sizes
    training, answering = part(run.progress, 0.0, 0.6), part(run.progress, 0.6, 1.0)
    exam = sizes.reader.prepared(sizes.problems, sizes.seed, named(training, "training the reader"))
    words: dict[str, Any] = {"extract": final_answer, "equivalent": equal_answers}
    facts: dict[str, Any] = {"extract": str, "equivalent": operator.eq}
    exams = {READER: (exam, words)}
    exams[SLIPS] = (
        Exam(
            Slips(exam.model, sizes.slips, sizes.seed),
            exam.queries,
            exam.answers,
            exam.prompts,
            exam.max_new_tokens,
        ),
        words,
    )
    for name, share in ((SYSTEMATIC, 1.0), (INDEPENDENT, 0.0)):
        simulated = SimulatedReader(sizes.simulated, share, sizes.seed)
        numbers = range(sizes.simulated)
        exams[name] = Exam(simulated, [f"#{number}" for number in numbers], [f"{number}:0,0,0,0" for number in numbers], PROMPTS, 1), facts  # fmt: skip
    found: dict[str, Right] = {}
    run.settings |= {"sizes": asdict(sizes), "settings": {}}
    for number, (name, (asked, reading)) in enumerate(exams.items()):
        answering(f"{name}: answers", number / len(exams))
        found[name], calls = answered(asked, reading, sizes.seed)
        shares = {way: round(float(right.mean()), 2) for way, right in found[name].items()}
        run.settings["settings"][name] = {"right_percent": shares, "calls": round(calls, 3)}
    with run.figure(7.2, 3.6) as figure:
        draw(figure, found)
    yield from claims(found)


def answered(exam: Exam, reading: Mapping[str, Any], seed: int) -> tuple[Right, float]:
    """Answers of every way, right or not, and the calls per problem through stage 3; voting has as many for every problem, rounded up."""
    once = Sampling(exam.max_new_tokens, log_probs=False)
    warm = Sampling(exam.max_new_tokens, 0.6, 0.9, seed=seed, log_probs=False)
    options = {"prompts": exam.prompts, **reading}
    results = SIFT(exam.model, sampling=once, **options).run(exam.queries)
    plain = self_consistency(exam.model, exam.queries, 1, sampling=once, **options)
    calls = float(np.mean([len(result.calls) for result in results]))
    voted = self_consistency(exam.model, exam.queries, math.ceil(calls), sampling=warm, **options)
    # What is not accepted up to a stage is answered plainly.
    answers = {PLAIN: plain, VOTING: voted} | {
        way: [
            result if 1 <= result.stage <= stage else other
            for result, other in zip(results, plain, strict=True)
        ]
        for stage, way in enumerate(STAGES, start=1)
    }
    right = {
        way: np.array([100.0 * reading["equivalent"](result.answer, answer) for result, answer in zip(given, exam.answers, strict=True)])
        for way, given in answers.items()
    }  # fmt: skip
    return right, calls


def claims(found: Mapping[str, Right]) -> Iterator[Claim]:
    """Put each claim beside its measurement; the units are the problems."""
    reader, slips, systematic, independent = (
        found[name] for name in (READER, SLIPS, SYSTEMATIC, INDEPENDENT)
    )

    def above(claim: str, right: Right, ours: str, theirs: str, paper: str | None = None) -> Claim:
        return Claim.above(claim, right[ours], right[theirs], theirs, unit=" %", paper=paper)

    yield above(
        "through stage 3 the trained reader is right more often than by plain answers",
        reader, LAST, PLAIN, "GSM8K, Llama-3.2-3B: 79.2 against 74.4 %",
    )  # fmt: skip
    yield above(
        "stage 3 beats voting with as many calls where the trained reader misreads the same each time",
        reader, LAST, VOTING, "the accuracy of voting at two thirds of its output tokens",
    )  # fmt: skip
    yield above(
        "voting with as many calls beats stage 3 where numbers are misread anew in every call",
        slips, VOTING, LAST,
    )  # fmt: skip
    yield Claim.above_everywhere(
        "simulated reader, systematic misreadings: each stage is right more often than the one before, and the first than plain answers",
        [systematic[way] for way in STAGES],
        [systematic[way] for way in (PLAIN, *STAGES[:-1])],
        "plain answers, stage 1, stage 2",
        paper="GSM8K, Llama-3.2-3B: 74.4, 77.6, 78.6, 79.2 %",
    )
    yield above(
        "simulated reader, systematic misreadings: stage 3 beats voting with as many calls",
        systematic,
        LAST,
        VOTING,
    )
    yield above(
        "simulated reader, independent misreadings: voting with as many calls beats stage 3",
        independent,
        VOTING,
        LAST,
    )


def draw(figure: Figure, found: Mapping[str, Right]) -> None:
    """Share of right answers by setting and way, with intervals."""
    axes = figure.subplots()
    for place, (way, marker) in enumerate(zip((PLAIN, *STAGES, VOTING), "osD^x", strict=True)):
        estimates = [estimate_of_mean(right[way]) for right in found.values()]
        values = [estimate.value for estimate in estimates]
        errors = np.abs(
            [[estimate.value - estimate.low, estimate.high - estimate.value] for estimate in estimates]
        ).T
        x = np.arange(len(found)) + 0.1 * (place - 2)
        axes.errorbar(
            x, values, yerr=errors, label=way, marker=marker, markersize=5, linestyle="none", capsize=2
        )
    axes.set_xticks(range(len(found)), list(found), fontsize=8)
    axes.set(ylabel="right answers (%)")
    axes.legend(fontsize=7, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.12))
