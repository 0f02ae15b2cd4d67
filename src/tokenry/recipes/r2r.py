"""R2R (arXiv 2505.21600): does a router learn more from tokens that change the answer than from all tokens that differ?

Two character models answer problems whose answers hold fillers without meaning (`testbeds/character_tasks`): where the small model writes
another filler than the large one, nothing is lost. The large model answers problems; a token at which the small model differs is divergent
if the large model, going on from it, ends with other digits (an exact verifier). Two routers of one kind are trained on the same tokens:

    divergent    positives: tokens that change the answer              different    positives: all tokens that differ
    entropy      the small model's entropy, no training                random       the control

The threshold of each is set on problems of its own so that the large model writes the same share of the tokens there; accuracy is measured
on others.

Headline: at a share of 0.15, routing by the router of divergent tokens is more accurate than by that of different tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray

from tokenry.core.io.progress import part
from tokenry.core.stats import estimate_of_mean, exactly, paired_difference, shown
from tokenry.core.tensors.generation import Continuation
from tokenry.decoding import EntropyRule, RandomRule, activated_parameters
from tokenry.decoding.r2r import RoutingRule
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.character_routers import RoutedCharacters, threshold_at
from tokenry.recipes.testbeds.reasoning_pair import ReasoningPair

DIVERGENT, DIFFERENT, ENTROPY, RANDOM = "divergent tokens", "different tokens", "entropy", "random"
RATES = (0.05, 0.1, 0.15, 0.25)
RATE, LOW = 0.15, 0.05
SHARE, MARGIN = 0.9, 0.01


@dataclass(frozen=True)
class R2RSizes:
    """Size of the experiment at one scale.

    Attributes:
        pair: the two models and what they answer.
        labelled: problems whose answers are labelled.
        calibrated: problems on which thresholds are set; with none, the budget controller keeps each rate.
        measured: problems on which accuracy is measured.
        epochs: maximum number of passes of a router over its tokens.
        seed: random seed of models, problems and routers.
    """

    pair: RoutedCharacters | ReasoningPair = field(default_factory=RoutedCharacters)
    labelled: int = 1200
    calibrated: int = 600
    measured: int = 1500
    epochs: int = 60
    seed: int = 0


@dataclass(frozen=True)
class Routed:
    """Answers of one rule at one rate: whether each is right, and the share of the tokens that the large model wrote."""

    right: Float[ndarray, "problems"]
    rate: float


@dataclass(frozen=True)
class RoutingOutcome:
    """What came of routing.

    Attributes:
        small: whether the small model is right alone.
        large: whether the large model is.
        routed: answers by rule and by the rate that was aimed at.
        parameters: of the small model, the large one and a router.
    """

    small: Float[ndarray, "problems"]
    large: Float[ndarray, "problems"]
    routed: Mapping[str, Mapping[float, Routed]]
    parameters: tuple[int, int, int]


@recipe(
    "r2r",
    laptop=R2RSizes(),
    paper=R2RSizes(ReasoningPair(), labelled=200, calibrated=0, measured=60, epochs=50),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Prepare both models, label, train both routers, route at every rate, and judge each claim."""
    outcome = measured(run, run.sizes)
    run.settings |= {
        "sizes": asdict(run.sizes),
        "accuracy": {"small": float(outcome.small.mean()), "large": float(outcome.large.mean())},
        "parameters": outcome.parameters,
        "routed": {
            name: {
                str(rate): {"accuracy": float(found.right.mean()), "rate": found.rate}
                for rate, found in rates.items()
            }
            for name, rates in outcome.routed.items()
        },
    }
    with run.figure(5.5, 3.8) as figure:
        draw(figure, outcome)
    yield from claims(outcome)


def measured(run: RecipeRun, sizes: R2RSizes) -> RoutingOutcome:
    """Answers of both models alone, and of both together by every rule at every rate."""
    routing: Any = sizes.pair.prepared(sizes.seed, part(run.progress, 0.0, 0.5))
    labelled, calibrated, problems = routing.problems(
        (sizes.labelled, sizes.calibrated, sizes.measured), sizes.seed
    )
    run.progress("labels", 0.5)
    tokens = routing.labelled(labelled)
    run.settings["labels"] = {
        "answers": tokens.about["texts"],
        "tokens": len(tokens.divergent),
        "different": float(tokens.mismatch.double().mean()),
        "divergent": float((tokens.divergent == 1).double().mean()),
    }
    kinds = {DIVERGENT: tokens.divergent, DIFFERENT: tokens.mismatch.long()}
    rules: dict[str, RoutingRule] = {}
    for number, (name, labels) in enumerate(kinds.items()):
        run.progress(f"a router on {name}", 0.6 + 0.05 * number)
        rules[name], report = routing.router(tokens, labels, sizes.epochs, sizes.seed)
        run.settings[f"router on {name}"] = asdict(report)
    rules |= {ENTROPY: EntropyRule(), RANDOM: RandomRule(seed=sizes.seed)}
    router = rules[DIVERGENT].parameters()  # type: ignore[attr-defined]
    trained = sum(weight.numel() for weight in router if weight.requires_grad)

    def rights(problems: Sequence[Any], answers: Sequence[Continuation]) -> Float[ndarray, "problems"]:
        return np.array(list(map(routing.is_right, problems, answers)), dtype=float)

    def route(rule: RoutingRule, problems: Sequence[Any], **limit: float) -> Routed:
        answers = routing.answers(routing.small, problems, routing.decoding(rule, **limit))
        sources = np.concatenate([answer.sources or () for answer in answers])
        return Routed(rights(problems, answers), float(sources.mean()))

    def routed_at(rule: RoutingRule, rate: float) -> Routed:
        if not calibrated:
            return route(rule, problems, rate=rate)
        threshold = threshold_at(
            rate, rule, lambda threshold: route(rule, calibrated, threshold=threshold).rate
        )
        return route(rule, problems, threshold=threshold)

    routed: dict[str, dict[float, Routed]] = {}
    for number, (name, rule) in enumerate(rules.items()):
        routed[name] = {}
        for place, rate in enumerate(RATES):
            run.progress(f"routing by {name}", 0.7 + 0.3 * (number + place / len(RATES)) / len(rules))
            routed[name][rate] = routed_at(rule, rate)
    models = routing.small, routing.large
    small, large = (rights(problems, routing.answers(model, problems)) for model in models)
    counts = [model.num_parameters() for model in models]
    return RoutingOutcome(small, large, routed, (counts[0], counts[1], trained))


def claims(outcome: RoutingOutcome) -> Iterator[Claim]:
    """Put each claim beside its measurement; the units are the measured problems."""

    def value(found: Routed) -> str:
        return f"{100 * found.right.mean():.1f} % at a share of {found.rate:.3f}"

    def against(
        claim: str, control: str, rate: float = RATE, least: float = 0.0, paper: str | None = None
    ) -> Claim:
        ours, theirs = (outcome.routed[name][rate] for name in (DIVERGENT, control))
        more = paired_difference(ours.right, theirs.right)
        measured = f"{value(ours)}, {more.scaled(100).with_interval('+.1f')} points more"
        return Claim(claim, paper, measured, value(theirs), shown(more, least))

    yield against(
        f"at a share of {RATE}, a router trained on divergent tokens gives more accurate answers than one trained on different tokens",
        DIFFERENT,
        paper="routing all different tokens is clearly worse at equal cost",
    )
    ours, large = outcome.routed[DIVERGENT][RATE], outcome.large
    yield Claim(
        f"routing by divergent tokens reaches {SHARE:.0%} of the large model's accuracy at a share of {RATE}",
        paper="92 % at 11-15 % of the tokens",
        measured=f"{value(ours)}: {ours.right.mean() / max(1e-9, large.mean()):.0%} of the large model's",
        control=f"large model {100 * large.mean():.1f} %, small model {100 * outcome.small.mean():.1f} %",
        verdict=shown(estimate_of_mean(ours.right - SHARE * large)),
    )
    for rate in (RATE, LOW):
        yield against(
            f"routing by divergent tokens is at most {100 * MARGIN:.0f} point less accurate than by the small model's entropy at a share of {rate}",
            ENTROPY,
            rate,
            -MARGIN,
        )
    yield against(
        f"routing by divergent tokens is more accurate than routing at random at a share of {RATE}", RANDOM
    )
    small_size, large_size, router = outcome.parameters
    shares = 1 - ours.rate, ours.rate, small_size, large_size
    code, full = activated_parameters(*shares), activated_parameters(*shares, "full", router)
    yield Claim(
        f"at a share of {RATE}, fewer parameters are at work per token than in the large model, the small one and the router counted too",
        paper="5.6B against 32B, by the convention of the code",
        measured=f"{full / 1e3:.1f} k ({code / 1e3:.1f} k by the convention of the code)",
        control=f"{large_size / 1e3:.1f} k; small model {small_size / 1e3:.1f} k, router {router / 1e3:.1f} k",
        verdict=exactly(full < large_size),
    )


def draw(figure: Figure, outcome: RoutingOutcome) -> None:
    """Accuracy over the share of the tokens that the large model wrote."""
    axes: Any = figure.subplots()
    ends = outcome.small.mean(), outcome.large.mean()
    styles = {DIVERGENT: ("o", "-"), DIFFERENT: ("s", "--"), ENTROPY: ("^", "-."), RANDOM: ("x", ":")}
    for name, (marker, line) in styles.items():
        points = outcome.routed[name].values()
        x, y = [point.rate for point in points], [point.right.mean() for point in points]
        colour = {"color": "0.6"} if name == RANDOM else {}
        axes.plot([0, *x], [ends[0], *y], marker=marker, linestyle=line, markersize=4, label=name, **colour)
    axes.axhline(ends[1], color="0.4", linewidth=0.9)
    axes.text(0.0, ends[1], "large model alone", fontsize=8, va="bottom")
    axes.set(xlabel="share of the tokens that the large model writes", ylabel="share answered correctly")
    axes.legend(fontsize=8, loc="lower right")
