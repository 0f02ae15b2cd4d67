"""Gradient entanglement (arXiv 2410.13828): do the gradients of a pair tell which way one step moves both of its log-probabilities?

Pairs of responses that share more or less of their text, under SmolLM2-135M and under a tiny model; all weights, one step of fixed length
along DPO's direction, and one along the normalised direction, each from the same weights.

    condition    the case (both as wanted, both rise, both fall) that first-order changes predict
    control      "always as wanted", which is what a preference loss is believed to do

Headline: the condition is right more often than the control, on both models, by McNemar's exact test. The paper shows its claims as
curves and gives no such table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from tokenry.alignment.token_gradients import cosines, read_head
from tokenry.core.stats import all_of, more_often
from tokenry.models import EMBEDDED, load_model, load_tokenizer
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.entangled_pairs import (
    KINDS,
    MeasuredPair,
    class_model,
    class_pairs,
    data_pairs,
    measure,
    sentiment_pairs,
)

REAL, TINY = "pretrained", "tiny"


@dataclass(frozen=True)
class EntanglementSizes:
    """Size of the experiment at one scale.

    Attributes:
        model: the pretrained model.
        prompts: reviews, each with three kinds of pairs.
        data: a data set of preferences, for further pairs; None for none.
        tiny_steps: training steps of the tiny model.
        length: Euclidean length of a step.
    """

    model: str = EMBEDDED
    prompts: int = 12
    data: str | None = None
    data_pairs: int = 0
    tiny_pairs: int = 200
    tiny_steps: int = 300
    length: float = 2e-3


@dataclass(frozen=True)
class TokenMap:
    """The cosines of the tokens of one pair, by the output head, and the texts of its tokens."""

    cosines: Float[Tensor, "chosen rejected"]
    chosen: Sequence[str]
    rejected: Sequence[str]


@recipe(
    "entanglement",
    laptop=EntanglementSizes(),
    paper=EntanglementSizes(
        "meta-llama/Meta-Llama-3-8B-Instruct", data="trl-lib/ultrafeedback_binarized", data_pairs=512
    ),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Measure the pairs of both models, and judge each claim."""
    sizes: EntanglementSizes = run.sizes
    run.progress("the tiny model", 0.0)
    tiny = class_model(sizes.tiny_steps)
    run.progress("its pairs", 0.1)
    found = {TINY: list(measure(tiny, class_pairs(sizes.tiny_pairs), sizes.length))}
    model = load_model(sizes.model, dtype="float32" if sizes.model == EMBEDDED else None)
    tokenizer = load_tokenizer(sizes.model)
    pairs = sentiment_pairs(tokenizer, sizes.prompts)
    if sizes.data is not None:
        pairs += data_pairs(sizes.data, tokenizer, sizes.data_pairs)
    found[REAL] = []
    for number, measured in enumerate(measure(model, pairs, sizes.length)):
        run.progress(f"pair {number + 1} of {len(pairs)}", 0.3 + 0.7 * number / len(pairs))
        found[REAL].append(measured)
    drawn = next(one.pair for one in pairs if KINDS[one.kind] == "long suffix")
    tokens = TokenMap(
        cosines(read_head(model, drawn).products, len(drawn.chosen)),
        [tokenizer.decode([token]) for token in drawn.chosen],
        [tokenizer.decode([token]) for token in drawn.rejected],
    )
    run.settings |= {
        **asdict(sizes),
        "measured": [asdict(one) for one in found[REAL]],
        "by_kind": {name: by_kind(rows) for name, rows in found.items()},
    }
    with run.figure(9.5, 4.2) as figure:
        draw(figure, found[REAL], tokens)
    yield from claims(found[REAL], found[TINY])


def by_kind(rows: Sequence[MeasuredPair]) -> dict[str, dict[str, float | int]]:
    """Means of each kind of pairs, and shares of pairs that moved as wanted."""
    kinds = {KINDS[kind]: [one for one in rows if one.kind == kind] for kind in range(len(KINDS))}
    return {
        name: {
            "pairs": len(some),
            "cosine": sum(one.cosine for one in some) / len(some),
            "condition_ratio": sum(one.condition_ratio for one in some) / len(some),
            "as_wanted": sum(one.case_realised == 0 for one in some) / len(some),
            "as_wanted_normalised": sum(one.case_normalised == 0 for one in some) / len(some),
            "predicted": sum(one.case_predicted == one.case_realised for one in some) / len(some),
        }
        for name, some in kinds.items()
        if some
    }


def claims(real: Sequence[MeasuredPair], tiny: Sequence[MeasuredPair]) -> Iterator[Claim]:
    """Put each claim beside its measurement; the units are the pairs, or the prompts."""
    yield _right_more_often(
        "the condition predicts which way one step moves both log-probabilities, better than that they move as wanted",
        [[one.case_predicted == one.case_realised for one in rows] for rows in (real, tiny)],
        [[one.case_realised == 0 for one in rows] for rows in (real, tiny)],
        "always as wanted",
        paper="the condition explains the curves of training (no table)",
    )
    yield _right_more_often(
        "a normalised step moves both log-probabilities as wanted more often than DPO's step of the same length",
        [[one.case_normalised == 0 for one in rows] for rows in (real, tiny)],
        [[one.case_realised == 0 for one in rows] for rows in (real, tiny)],
        "DPO",
    )
    kinds = [
        sorted((one for one in real if one.kind == kind), key=lambda one: one.prompt) for kind in range(3)
    ]
    for name, values, paper in (
        (
            "cosine",
            [[one.cosine for one in rows] for rows in kinds],
            "tokens shared in like contexts entangle",
        ),
        ("condition ratio", [[one.condition_ratio for one in rows] for rows in kinds], None),
    ):
        yield Claim.above_everywhere(
            f"the {name} of a pair grows with the suffix that its responses share, from none to a short and to a long one",
            values[1:], values[:-1], "the shorter suffix", spec=".2f", unit="", paper=paper,
        )  # fmt: skip


def _right_more_often(
    claim: str,
    ours: Sequence[Sequence[bool]],
    theirs: Sequence[Sequence[bool]],
    against: str,
    paper: str | None = None,
) -> Claim:
    """Claim that we are right more often than the control on the pairs of both models."""
    verdicts, mine, controls = [], [], []
    for name, right, control in zip((REAL, TINY), ours, theirs, strict=True):
        won = sum(one and not other for one, other in zip(right, control, strict=True))
        lost = sum(other and not one for one, other in zip(right, control, strict=True))
        verdicts.append(more_often(won, lost, len(right)))
        mine.append(f"{name} {sum(right)} of {len(right)} (won {won}, lost {lost})")
        controls.append(f"{name} {sum(control)} of {len(control)}")
    return Claim(claim, paper, ", ".join(mine), f"{', '.join(controls)} ({against})", all_of(verdicts))


def draw(figure: Figure, rows: Sequence[MeasuredPair], tokens: TokenMap) -> None:
    """Predicted and realised changes of the pretrained model's pairs, and the cosines of the tokens of one pair."""
    changes, pair = figure.subplots(1, 2, width_ratios=[1, 1.25])
    for side, name, marker in ((0, "chosen", "o"), (1, "rejected", "x")):
        changes.scatter(
            [one.predicted[side] for one in rows],
            [one.realised[side] for one in rows],
            marker=marker, s=22, label=name,
        )  # fmt: skip
    changes.axline((0, 0), slope=1, color="0.7", linewidth=1, zorder=0)
    changes.axhline(0, color="0.9", zorder=0)
    changes.axvline(0, color="0.9", zorder=0)
    changes.set_xlabel("predicted change of log-probability (nats)")
    changes.set_ylabel("realised")
    entangled = sum(one.case_realised != 0 for one in rows)
    changes.set_title(
        f"one step of DPO on each of {len(rows)} pairs\n{entangled} move otherwise than wanted", fontsize=9
    )
    changes.legend(fontsize=8)
    image = pair.imshow(tokens.cosines, vmin=-1, vmax=1, cmap="RdBu_r")
    pair.set_xticks(range(len(tokens.rejected)), tokens.rejected, rotation=90, fontsize=7)
    pair.set_yticks(range(len(tokens.chosen)), tokens.chosen, fontsize=7)
    pair.set_xlabel("rejected")
    pair.set_ylabel("chosen")
    pair.set_title("cosine of token gradients (output head)", fontsize=9)
    figure.colorbar(image, ax=pair)
