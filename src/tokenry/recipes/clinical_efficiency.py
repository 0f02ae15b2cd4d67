"""ModernBERT or BERT for reports (arXiv 2503.05060): does a tokenizer with fewer tokens pay, and would the test set tell a difference?

The reports are medical data, so the documents are docstrings and their labels the sections that they have, told from the text without
the headings. Two byte-level BPE tokenizers, of 500 and of up to 8,000 tokens (as many as the training texts give); the same ModernBERT of
four layers, trained from nothing in the same way.

    speed       CPU time, the encoders taking turns; nothing is truncated
    accuracy    exact match on files that were held out; on another package without any training on it

Headline: fewer tokens give at least 1.3 times the throughput, and exact match is not worse by more than 5 points. One training each: the
intervals are over texts, not over seeds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from matplotlib.figure import Figure
from numpy import ndarray

from tokenry.core.io.progress import part
from tokenry.core.stats import (
    FEWEST_SEEDS,
    Estimate,
    all_of,
    exactly,
    independent_difference,
    mcnemar,
    mcnemar_p,
    mcnemar_power,
    shown,
)
from tokenry.core.train.classifier import ClassifierConfig
from tokenry.evaluation.encoders import EfficiencyReport, EncoderData, compare_encoders, decisions
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.docstring_sections import SectionSetting, section_data
from tokenry.recipes.testbeds.tiny_encoder import EncoderSizes, encoder_tokenizer, tiny_encoder

MANY, FEW = "500 tokens", "8,000 tokens"
"""The encoders by the vocabulary of their tokenizer: many tokens for a text, and few."""
FASTER, MARGIN = 1.3, 0.05
REPORTS, GAP, PAPER_GAP, DISCORDANT = 150, 0.08, 0.02, 0.12
"""The paper's test set, the gap that it can settle, the gap that it measured, and a share of texts that divide the encoders (paper: 17 of 150)."""


@dataclass(frozen=True)
class ClinicalSizes:
    """Size of the experiment at one scale."""

    documents: SectionSetting = field(default_factory=SectionSetting)
    vocabularies: tuple[int, int] = (500, 8000)
    encoder: EncoderSizes = field(default_factory=EncoderSizes)
    training: ClassifierConfig = field(
        default_factory=lambda: ClassifierConfig(epochs=4, batch_size=8, learning_rate=1e-3)
    )
    rounds: int = 3
    timed_texts: int = 96
    draws: int = 2000


@recipe(
    "clinical-efficiency",
    laptop=ClinicalSizes(),
    paper=ClinicalSizes(
        documents=SectionSetting(
            ("scipy", "sklearn", "numpy"), longest=2000, train=20_000, validation=1000, test=5000
        ),
        vocabularies=(2000, 100_000),
        encoder=EncoderSizes(layers=12, width=768, heads=12, feed_forward=3072, positions=2048),
        training=ClassifierConfig(epochs=20, learning_rate=1e-4, bfloat16=True),
        timed_texts=2000,
    ),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Train both encoders, compare them, and judge each claim."""
    sizes: ClinicalSizes = run.sizes
    run.progress("documents", 0.0)
    data = section_data(sizes.documents)
    run.progress("tokenizers", 0.1)
    classifiers = {
        name: tiny_encoder(encoder_tokenizer(data.train.texts, size), data.names, True, sizes.encoder)
        for name, size in zip((MANY, FEW), sizes.vocabularies, strict=True)
    }
    report = compare_encoders(
        classifiers,
        data,
        sizes.training,
        margin=MARGIN,
        rounds=sizes.rounds,
        timed_texts=sizes.timed_texts,
        draws=sizes.draws,
        progress=part(run.progress, 0.12, 1.0),
    )
    run.settings |= {
        "sizes": asdict(sizes),
        "texts": {name: len(texts.texts) for name, texts in data.parts().items()},
        "report": report.as_json(),
    }
    with run.figure(9, 3.6) as figure:
        draw(figure, report)
    yield from claims(measured(report, data))


@dataclass(frozen=True)
class ClinicalMeasures:
    """What the claims are judged by.

    Attributes:
        faster: inference throughput of the encoder with few tokens, as a multiple of the other's, over the rounds.
        training: training throughput, likewise, of one training.
        reduction: share of the tokens that it saves.
        match: exact match of both, the one with many tokens first, by texts.
        difference: exact match with few tokens − with many, on the test and on the external texts.
        p: p-value of McNemar's exact test on the first 150 test texts.
    """

    faster: Estimate
    training: float
    reduction: float
    match: Mapping[str, tuple[float, float]]
    difference: Mapping[str, Estimate]
    p: float


def measured(report: EfficiencyReport, data: EncoderData) -> ClinicalMeasures:
    """The measures in a report."""
    many, few = report.encoders[MANY], report.encoders[FEW]
    right = [
        (decisions(found.probabilities["test"]) == data.test.labels).all(axis=1)[:REPORTS]
        for found in (few, many)
    ]
    return ClinicalMeasures(
        faster=few.speed.times_as_fast_as(many.speed),
        training=many.training.cpu_seconds / few.training.cpu_seconds,
        reduction=few.tokens.reduction_from(many.tokens),
        match={
            texts: (many.metrics[texts].exact_match, few.metrics[texts].exact_match)
            for texts in ("test", "external")
        },
        difference={
            "test": report.comparisons[FEW].exact_match,
            "external": report.external[FEW].exact_match,
        },
        p=mcnemar(*right).p,
    )


def claims(found: ClinicalMeasures) -> Iterator[Claim]:
    """Put each claim beside its measurement."""
    many, few = found.match["test"]
    points = found.difference["test"].scaled(100)
    yield Claim(
        f"the tokenizer with fewer tokens gives at least {FASTER} times the inference throughput, at an exact match not worse by more than "
        f"{100 * MARGIN:.0f} points",
        paper="24.0 % fewer tokens, 1.66 times the throughput, exact match 74.67 % against 72.67 %",
        measured=f"{found.reduction:.1%} fewer tokens, {found.faster.with_interval()} times, exact match {few:.1%}, difference "
        f"{points.with_interval('+.1f')} points, n = {points.samples:,}",
        control=f"{many:.1%} ({MANY})",
        verdict=all_of([shown(found.faster, FASTER, FEWEST_SEEDS), shown(found.difference["test"], -MARGIN)]),
    )
    yield Claim(
        f"training is at least {FASTER} times as fast too",
        paper="1.65 times",
        measured=f"{found.training:.2f} times (CPU time of one training)",
        control=f"1 ({MANY})",
        verdict=exactly(found.training >= FASTER),
    )
    yield Claim(
        f"{REPORTS} test texts find no difference in exact match (McNemar's exact test, p > 0.05)",
        paper="p = 0.6291",
        measured=f"p = {found.p:.4f}",
        control="0.05",
        verdict=exactly(found.p > 0.05),
    )
    more = independent_difference(found.difference["test"], found.difference["external"]).scaled(100)
    falls = [100 * (found.match["test"][place] - found.match["external"][place]) for place in (1, 0)]
    yield Claim(
        "on another package, exact match falls more with fewer tokens",
        paper="ModernBERT falls most on the external reports",
        measured=f"{falls[0]:.1f} points (difference {more.with_interval('+.1f')})",
        control=f"{falls[1]:.1f} points ({MANY})",
        verdict=shown(more),
    )
    recomputed = float(mcnemar_p(10, 7))
    yield Claim(
        "the paper's p-value is that of the exact test of 10 reports against 7",
        paper="p = 0.6291",
        measured=f"p = {recomputed:.4f}",
        control=f"p = {float(mcnemar_p(10, 7, 'chi2_cc')):.4f} (chi-square, corrected)",
        verdict=exactly(f"{recomputed:.4f}" == "0.6291"),
    )
    powers = [mcnemar_power(REPORTS, gap, DISCORDANT) for gap in (GAP, PAPER_GAP)]
    yield Claim(
        f"{REPORTS} reports settle gaps of about {100 * GAP:.0f} points (power at least 0.75), not the {100 * PAPER_GAP:.0f} points measured "
        "(below 0.2)",
        paper=None,
        measured=f"power {powers[0]:.2f}",
        control=f"power {powers[1]:.2f} at {100 * PAPER_GAP:.0f} points",
        verdict=exactly(powers[0] >= 0.75 and powers[1] < 0.2),
    )


def draw(figure: Figure, report: EfficiencyReport) -> None:
    """Speed against exact match, and the F1 of every label."""
    speed, labels = figure.subplots(1, 2, width_ratios=(1, 1.6))
    for (name, found), marker in zip(report.encoders.items(), "os", strict=True):
        for texts, filled in (("test", True), ("external", False)):
            speed.plot(
                found.speed.texts / found.speed.busy_seconds,
                100 * found.metrics[texts].exact_match,
                marker,
                color="C0" if name == MANY else "C1",
                fillstyle="full" if filled else "none",
                label=f"{name}, {texts}",
            )
    speed.set(xlabel="texts per CPU second (inference)", ylabel="exact match (%)")
    speed.set_xlim(left=0)
    speed.legend(fontsize=7)
    _bars(labels, report.names, {name: found.metrics["test"].f1 for name, found in report.encoders.items()})


def _bars(axes: Any, names: Sequence[str], f1: Mapping[str, ndarray]) -> None:
    for number, (name, values) in enumerate(f1.items()):
        axes.bar([place + 0.4 * number for place in range(len(names))], values, width=0.38, label=name)
    axes.set_xticks([place + 0.2 for place in range(len(names))], names, rotation=35, ha="right", fontsize=8)
    axes.set(ylabel="F1 on the test texts")
    axes.legend(fontsize=7)
