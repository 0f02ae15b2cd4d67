"""FrugalPrompt (arXiv 2510.16439): can a fifth of a prompt go without another model noticing, if attribution says what goes?

Headline, in the regime that can be tested fairly on a laptop: the words are scored by DecompX in one tiny BERT, for the class that it
predicts, and what is left is read by *another* tiny BERT (`testbeds/word_families.py`). At 80 % of the words its accuracy must not be
worse by more than a point than on the whole text, and must be above that on random words (exact McNemar test).

On SmolLM2, what a context is worth is the log-probability of a known answer after it (`testbeds/told_facts.py`): words are kept by
self-information, and random words fill the same number of tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy import ndarray
from torch import Generator

from tokenry.compression.text import (
    AnswerLikelihood,
    KeepCurve,
    LabelKept,
    PromptCompressor,
    PromptScorer,
    SelfInformation,
    decompx_scorer,
    globenc_scorer,
    keep_curve,
    released_decompx_scorer,
)
from tokenry.core.io.progress import named, part
from tokenry.core.stats import all_of, mcnemar, more_often, paired_difference, paired_share_difference, shown
from tokenry.models import load_model, load_tokenizer
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.told_facts import ToldFact, draw_facts, draw_sums
from tokenry.recipes.testbeds.word_families import FamilySetting, draw_sentences, train_reader

DECOMPX, GLOBENC, RELEASED, RANDOM, BOTTOM = "DecompX", "GlobEnc", "class 0", "random", "bottom"
ARMS = (DECOMPX, GLOBENC, RELEASED, RANDOM, BOTTOM)
FULL, SELF_INFORMATION, PROTECTED, PLAIN = (
    "all words",
    "self-information",
    "numbers protected",
    "nothing protected",
)
SHARES, MARGIN = (0.8, 0.5, 0.25), 0.01
TOP, HALF, FACTS_KEPT = 0.8, 0.5, 0.7

Read = Mapping[str, Mapping[float, Any]]
"""By arm and share: whether each sentence is labelled right."""
Nats = Mapping[str, Any]
"""By arm: log-probability of each answer, in nats a token."""


@dataclass(frozen=True)
class FrugalSizes:
    """Size of the experiment at one scale.

    Attributes:
        family: the sentences, the two models and their training.
        test: number of test sentences.
        writer: language model of the contexts with a known answer.
        facts: number of contexts that tell facts.
        draws: random choices of words for each of them.
        sums: number of contexts that tell sums.
    """

    family: FamilySetting = field(default_factory=FamilySetting)
    test: int = 2000
    writer: str = "embedded"
    facts: int = 40
    draws: int = 2
    sums: int = 40


@recipe(
    "frugalprompt",
    laptop=FrugalSizes(),
    paper=FrugalSizes(
        family=FamilySetting(
            words=20_000, family=1000, length=200, layers=12, width=768, heads=12, feed_forward=3072, train=25_000, steps=3000,
            learning_rate=1e-4,
        ),
        writer="HuggingFaceTB/SmolLM2-1.7B-Instruct", facts=1000, draws=4, sums=1000,
    ),
)  # fmt: skip
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Measure both parts, and judge each claim."""
    sizes: FrugalSizes = run.sizes
    full, read = read_by_another(sizes, run)
    facts, sums = read_by_a_writer(sizes, run)
    run.settings |= {
        "sizes": asdict(sizes),
        "accuracy": {arm: {str(share): float(np.mean(right)) for share, right in shares.items()} for arm, shares in read.items()},
        "accuracy_of_all_words": float(np.mean(full)),
        "facts": {arm: list(map(float, nats)) for arm, nats in facts.items()},
        "sums": {arm: list(map(float, nats)) for arm, nats in sums.items()},
    }  # fmt: skip
    with run.figure(9.6, 3.4) as figure:
        draw(figure, full, read, facts, sums)
    yield from claims(full, read, facts, sums)


def read_by_another(sizes: FrugalSizes, run: RecipeRun) -> tuple[ndarray, Read]:
    """Whether another model labels the whole sentences right, and what is left of them, by arm and share."""
    setting, generator = sizes.family, Generator().manual_seed(0)
    train, test = (draw_sentences(number, setting, generator) for number in (setting.train, sizes.test))
    scoring, reading = (
        train_reader(
            train, setting, seed, named(part(run.progress, begin, begin + 0.1), "training both models")
        )
        for seed, begin in ((1, 0.0), (2, 0.1))
    )
    scorers: dict[str, PromptScorer] = {
        DECOMPX: decompx_scorer(scoring.model, scoring.tokenizer),
        GLOBENC: globenc_scorer(scoring.model, scoring.tokenizer),
        RELEASED: released_decompx_scorer(scoring.model, scoring.tokenizer),
    }
    curves: dict[str, KeepCurve] = {}
    for number, (name, scorer) in enumerate(scorers.items()):
        run.progress(name, 0.2 + 0.1 * number)
        judge = LabelKept(reading, test.labels)
        curves[name] = keep_curve(test.texts, PromptCompressor(scorer), judge, SHARES, draws=1)
    by_arm = {name: curve.scorer for name, curve in curves.items()}
    by_arm |= {RANDOM: curves[DECOMPX].quality("random"), BOTTOM: curves[DECOMPX].bottom}
    return curves[DECOMPX].full, {arm: dict(zip(SHARES, rows, strict=True)) for arm, rows in by_arm.items()}


def read_by_a_writer(sizes: FrugalSizes, run: RecipeRun) -> tuple[Nats, Nats]:
    """Log-probability of the answers to facts and to sums, by what is left of their contexts."""
    run.progress("loading the language model", 0.5)
    writer, tokenizer = load_model(sizes.writer, dtype="float32").eval(), load_tokenizer(sizes.writer)
    scorer = SelfInformation(writer, tokenizer)

    def judge(asked: Sequence[ToldFact]) -> AnswerLikelihood:
        answers, endings = [one.answer for one in asked], [one.question for one in asked]
        return AnswerLikelihood(writer, tokenizer, answers, endings)

    facts = draw_facts(sizes.facts, seed=0)
    compressor = PromptCompressor(scorer, tokenizer=tokenizer)
    contexts = [one.context for one in facts]
    progress = part(run.progress, 0.5, 0.8)
    curve = keep_curve(contexts, compressor, judge(facts), (FACTS_KEPT,), sizes.draws, progress=progress)
    told = {FULL: curve.full, SELF_INFORMATION: curve.scorer[0], RANDOM: curve.quality("random")[0], BOTTOM: curve.bottom[0]}  # fmt: skip
    run.progress("sums", 0.8)
    sums = draw_sums(sizes.sums, seed=0)
    scored = scorer.score([one.context for one in sums])
    shorter = PromptCompressor(scorer, keep=HALF, tokenizer=tokenizer, protect="numbers")
    protected = [shorter.cut(context) for context in scored]
    plain = [
        PromptCompressor(scorer, tokens=cut.tokens, tokenizer=tokenizer).cut(cut.scored) for cut in protected
    ]
    value, every = judge(sums), range(len(sums))
    of_sums = {
        FULL: value(every, [context.text for context in scored]),
        PROTECTED: value(every, [cut.text for cut in protected]),
        PLAIN: value(every, [cut.text for cut in plain]),
    }
    return told, of_sums


def claims(full: Sequence[Any] | ndarray, read: Read, facts: Nats, sums: Nats) -> Iterator[Claim]:
    """Put each claim beside its measurement; the units are sentences and contexts."""
    ours, random = np.asarray(read[DECOMPX][TOP]), np.asarray(read[RANDOM][TOP])
    kept, won = mcnemar(ours, np.asarray(full)), mcnemar(ours, random)
    lost = paired_share_difference(kept.only_a, kept.only_b, len(ours))
    yield Claim(
        f"with a fifth of the words off by DecompX, another model's accuracy is not worse by more than {100 * MARGIN:.0f} point, and above "
        "that on random words",
        paper="IMDB, Llama-3-70B: 94.9 % (GlobEnc 94.8 %) of 95.3 %, but always for class 0",
        measured=f"{100 * ours.mean():.1f} % (difference to all words {lost.scaled(100).with_interval('+.1f')} points; p = {won.p:.2g} against "
        f"random; n = {len(ours):,})",
        control=f"{100 * np.mean(full):.1f} % ({FULL}), {100 * random.mean():.1f} % ({RANDOM})",
        verdict=all_of([shown(lost, -MARGIN), more_often(won.only_a, won.only_b, len(ours))]),
    )
    half = {arm: 100 * np.asarray(read[arm][HALF]) for arm in ARMS}
    yield Claim.above_everywhere(
        "of half of the words, the highest do better than random ones, and random ones better than the lowest",
        [half[DECOMPX], half[RANDOM]], [half[RANDOM], half[BOTTOM]], f"{RANDOM}, {BOTTOM}",
        paper="IMDB, o3-mini, GlobEnc: 93.2, random 88.6, bottom 62.6 %",
    )  # fmt: skip
    yield Claim.above(
        "asked for class 0 whatever the text, as in the released code, DecompX does worse than random words, at 80 %",
        100 * np.asarray(read[RELEASED][TOP]), 100 * random, RANDOM, lower=True, unit=" %",
        paper="IMDB, o3-mini: 84.2 %, random 95.1 %",
    )  # fmt: skip
    yield Claim.above(
        "of half of the words, those by GlobEnc keep more accuracy than those by DecompX for the predicted class",
        half[GLOBENC], half[DECOMPX], DECOMPX, unit=" %",
        paper="IMDB, o3-mini: 93.2 against 64.1 %, but DecompX for class 0",
    )  # fmt: skip
    nats = {arm: np.asarray(values) for arm, values in facts.items()}
    loses = paired_difference(nats[FULL], nats[SELF_INFORMATION])
    yield Claim.above(
        f"SmolLM2: at 70 % of the words, those by self-information leave the answer more probable than random ones (it loses {loses.value:.2f} nats)",
        nats[SELF_INFORMATION], nats[RANDOM], RANDOM, spec=".2f", unit=" nats",
    )  # fmt: skip
    yield Claim.above(
        "SmolLM2: with half of the words off, the right sum is more probable if numbers are protected, at equal tokens",
        np.asarray(sums[PROTECTED]), np.asarray(sums[PLAIN]), PLAIN, spec=".2f", unit=" nats",
        paper="GSM8K keeps numbers in part of the runs",
    )  # fmt: skip


def draw(figure: Figure, full: Sequence[Any] | ndarray, read: Read, facts: Nats, sums: Nats) -> None:
    """Accuracy by the share that is kept, and the log-probability of the answers."""
    accuracy, told, added = figure.subplots(1, 3, width_ratios=(1.6, 1, 0.8))
    for arm, marker in zip(ARMS, "osv^x", strict=True):
        values = [100 * float(np.mean(read[arm][share])) for share in SHARES]
        accuracy.plot(
            [100, *(100 * share for share in SHARES)],
            [100 * float(np.mean(full)), *values],
            marker + "-",
            label=arm,
        )
    accuracy.set(xlabel="words kept (%)", ylabel="accuracy of another model (%)", ylim=(0, 103))
    accuracy.invert_xaxis()
    accuracy.legend(fontsize=7)
    for axes, title, nats in ((told, "facts, 70 % kept", facts), (added, "sums, 50 % kept", sums)):
        axes.bar(range(len(nats)), [float(np.mean(values)) for values in nats.values()], color="C0")
        axes.set_xticks(range(len(nats)), list(nats), rotation=30, ha="right", fontsize=7)
        axes.set_ylabel("log p(answer), nats a token")
        axes.set_title(title, fontsize=9)
