"""ReAGent (arXiv 2402.00794): does attribution by replacement find what an answer rests on, with forward passes alone?

Headline, in the regime that replacement of many tokens is for: the evidence stands in the context twice and either copy suffices, and the
model is seen only through p(answer). ReAGent must rank both copies first, against replacing one token at a time with as many forward
passes (`testbeds/evidence_twice.py`).

On SmolLM2, prompts whose answer is a word that stands in them once are scored by ReAGent, the last layer's attention, input times gradient
and at random; judged by rank-scaled Soft-NC and by the rank of the word.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from matplotlib.figure import Figure
from torch import Generator, Tensor

from tokenry.attribution import (
    AttributionMethod,
    FaithfulnessConfig,
    LeaveTokenOut,
    RandomAttribution,
    ReAGent,
    attribute,
    faithfulness,
)
from tokenry.core.io.progress import Progress
from tokenry.core.text.words import words_of
from tokenry.models import load_model, load_tokenizer
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.evidence_twice import (
    COPIED,
    VOCABULARY,
    EvidenceSetting,
    answer_probability,
    draw_evidence,
    train_model,
)

REAGENT, SINGLE, RANDOM = "ReAGent", "one token at a time", "random"
ATTENTION, GRADIENT = "last attention", "input × gradient"
_METRIC = FaithfulnessConfig(draws=1, shares=(0.2,))

Values = Mapping[str, Sequence[float]]
"""By method, one value per case."""


@dataclass(frozen=True)
class ReagentSizes:
    """Size of the experiment at one scale.

    Attributes:
        model: language model of the prompts with one copy.
        prompts: number of these.
        masks: masks that ReAGent tries for each.
        cases: contexts with two copies.
        rounds: replacements tried for each token of these; ReAGent gets as many masks.
        setting: the tiny model and its training.
    """

    model: str = "embedded"
    prompts: int = len(COPIED)
    masks: int = 64
    cases: int = 120
    rounds: int = 20
    setting: EvidenceSetting = field(default_factory=EvidenceSetting)


@recipe(
    "reagent",
    laptop=ReagentSizes(),
    paper=ReagentSizes(model="openai-community/gpt2-xl", masks=5000, cases=1000),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Measure both parts, and judge each claim."""
    sizes: ReagentSizes = run.sizes
    both = find_both_copies(sizes, run)
    soft_nc, ranks = find_one_copy(sizes, run.progress)
    run.settings |= {"sizes": {**vars(sizes), "setting": vars(sizes.setting)}, "both_copies": {name: list(map(float, hits)) for name, hits in both.items()}, "soft_nc": dict(soft_nc), "antecedent_rank": dict(ranks)}  # fmt: skip
    with run.figure(7.2, 3.2) as figure:
        draw(figure, both, soft_nc, ranks)
    yield from claims(both, soft_nc, ranks)


def find_both_copies(sizes: ReagentSizes, run: RecipeRun) -> Values:
    """Whether the two copies of the evidence are the two highest scores, by method and case (100 or 0)."""
    run.progress("training the model of two copies", 0.0)
    model, losses = train_model(sizes.setting, seed=10)
    run.settings["loss"] = sum(losses[-20:]) / len(losses[-20:])
    evidence = draw_evidence(sizes.cases, sizes.setting.length, Generator().manual_seed(11))
    found: dict[str, list[float]] = {REAGENT: [], SINGLE: [], RANDOM: []}
    for case, context in enumerate(evidence.contexts):
        run.progress("two copies", 0.2 + 0.2 * case / sizes.cases)
        p = answer_probability(model, int(evidence.queries[case]), int(evidence.answers[case]))
        masks = sizes.rounds * len(context)
        methods: dict[str, AttributionMethod] = {
            REAGENT: ReAGent(stop="never", probes=1, max_steps=masks, chunk=masks, seed=case),
            SINGLE: LeaveTokenOut(rounds=sizes.rounds, chunk=masks, seed=case),
            RANDOM: RandomAttribution(seed=case),
        }
        for name, method in methods.items():
            scores = attribute(p, context[None], method=method, vocabulary=torch.arange(VOCABULARY)).scores[0]
            top = set(scores.topk(2).indices.tolist())
            found[name].append(100.0 * (top == set(evidence.copies[case].tolist())))
    return found


def find_one_copy(sizes: ReagentSizes, progress: Progress) -> tuple[Values, Values]:
    """Rank-scaled Soft-NC, and the rank of the copied word (1 = first), by method and prompt."""
    progress("loading the language model", 0.4)
    model, tokenizer = load_model(sizes.model).eval(), load_tokenizer(sizes.model)
    soft_nc: dict[str, list[float]] = {name: [] for name in (REAGENT, ATTENTION, GRADIENT, RANDOM)}
    ranks: dict[str, list[float]] = {name: [] for name in soft_nc}
    for number, (text, answer) in enumerate(COPIED[: sizes.prompts]):
        words = words_of(tokenizer, text)
        target = tokenizer(answer, add_special_tokens=False)["input_ids"]
        copy = next(word for word in range(len(words)) if words[word] == answer.strip())
        methods: dict[str, str | AttributionMethod] = {
            REAGENT: ReAGent(stop="never", probes=1, max_steps=sizes.masks, chunk=16, seed=number),
            ATTENTION: "attention-last",
            GRADIENT: "input-x-gradient",
            RANDOM: RandomAttribution(seed=number),
        }
        for place, (name, method) in enumerate(methods.items()):
            progress(f"{name}, prompt {number + 1}", 0.4 + 0.6 * (number + place / 4) / sizes.prompts)
            scores = attribute(model, words.input_ids[None], [target], method).scores[0]
            measured = faithfulness(model, words.input_ids, scores, target[0], _METRIC)
            soft_nc[name].append(measured.soft_nc)
            ranks[name].append(_rank(scores, words.of_token == copy))
    return soft_nc, ranks


def _rank(scores: Tensor, wanted: Tensor) -> float:
    """The best rank of the wanted tokens, 1 for the highest score."""
    return float((scores > scores[wanted].max()).sum() + 1)


def claims(both: Values, soft_nc: Values, ranks: Values) -> Iterator[Claim]:
    """Put each claim beside its measurement; the units are contexts and prompts."""
    yield Claim.above(
        "both copies of the evidence are ranked first, and not by replacing one token at a time with as many forward passes",
        both[REAGENT], both[SINGLE], SINGLE, unit=" %",
    )  # fmt: skip
    yield Claim.above(
        "SmolLM2: Soft-NC, scaled by rank, is above that of random scores",
        soft_nc[REAGENT], soft_nc[RANDOM], RANDOM, spec=".3f",
        paper="ln(ReAGent / random) = 0.89 to 3.29 over six models, unscaled",
    )  # fmt: skip
    yield Claim.above(
        "SmolLM2: the word that the answer copies is ranked higher than at random",
        ranks[REAGENT], ranks[RANDOM], RANDOM, lower=True,
    )  # fmt: skip
    for name in (ATTENTION, GRADIENT):
        yield Claim.above(
            f"SmolLM2: Soft-NC is above that of {name}",
            soft_nc[REAGENT], soft_nc[name], name, spec=".3f",
            paper="above it for most models",
        )  # fmt: skip


def draw(figure: Figure, both: Values, soft_nc: Values, ranks: Values) -> None:
    """Three panels: both copies first, Soft-NC, and the rank of the copied word."""
    panels = (
        ("both copies first (%)", both),
        ("Soft-NC, by rank", soft_nc),
        ("rank of the copied word", ranks),
    )
    for axes, (label, values) in zip(figure.subplots(1, 3), panels, strict=True):
        names = list(values)
        axes.bar(range(len(names)), [sum(values[name]) / len(values[name]) for name in names], color="C0")
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=7)
        axes.set_ylabel(label)
