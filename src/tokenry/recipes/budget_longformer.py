"""BudgetLongformer (arXiv 2211.17135): how far away may the evidence be by which a sliding-window encoder tells a replaced token?

Longformers of two layers learn by replaced-token detection from documents in which one token, the echo, must agree with one clue, d tokens
before it. Then echoes are replaced by wrong ones, and the detector's AUC is measured for every d.

    local       sliding windows alone: evidence arrives over layers · window / 2 tokens
    global      the same window, and the first token sees all tokens and is seen by all
    wide        a window of twice the size
    MLM         the local encoder, taught for as many steps by masked language modelling; its score is the NLL of the echo, masked

Headline: the AUC is above 0.6 at every d up to layers · window / 2, within 0.05 of chance at every one beyond, and above 0.6 there again
with a global first token. The paper's own claim, ROUGE on BillSum, needs its corpora and GPUs. The units are seeds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from statistics import mean

import torch
from matplotlib.figure import Figure
from torch import Tensor
from transformers import AutoModelForMaskedLM, LongformerModel, PreTrainedModel

from tokenry.core.io.jobs import over
from tokenry.core.io.progress import Progress
from tokenry.core.stats import FEWEST_SEEDS, Verdict, absent, all_of, estimate_of_mean, exactly, shown
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.pretraining import (
    ReplacedTokenPretrainer,
    SlidingWindow,
    longformer_config,
    longformer_rtd,
    mask_tokens,
)
from tokenry.recipes.kit import Claim, RecipeRun, cosine, fit, recipe
from tokenry.recipes.testbeds.far_evidence import (
    BEGIN,
    END,
    MASK,
    EvidenceDocuments,
    FarEvidence,
    FarEvidenceSetting,
)

LOCAL, GLOBAL, WIDE, MLM = "local", "global first token", "twice the window", "MLM, local"
DETECTED, CHANCE, MARGIN = 0.6, 0.5, 0.05
PARAMETERS = {"small": 29.28, "base": 158.6}
"""Millions, of the paper's encoders."""


@dataclass(frozen=True)
class BudgetLongformerSizes:
    """Size of the experiment at one scale."""

    documents: FarEvidenceSetting = field(default_factory=FarEvidenceSetting)
    window: int = 4
    generator_share: float = 0.25
    rows: int = 64
    steps: int = 1800
    learning_rate: float = 2e-3
    seeds: tuple[int, ...] = (0, 1, 2)
    processes: int = 2


Areas = Mapping[str, Mapping[int, list[float]]]
"""Detection AUC of every arm, by distance, one value per seed."""


@recipe(
    "budget-longformer",
    laptop=BudgetLongformerSizes(),
    paper=BudgetLongformerSizes(
        documents=FarEvidenceSetting(
            length=4096,
            values=16,
            distances=(64, 512, 1024, 1536, 1792, 2048, 3072),
            layers=12,
            width=256,
            heads=4,
            initializer_range=0.02,
        ),
        window=256,
        rows=32,
        steps=100_000,
        learning_rate=5e-4,
        processes=1,
    ),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Train every arm with every seed, and judge each claim."""
    sizes: BudgetLongformerSizes = run.sizes
    areas = measured(sizes, run.progress)
    run.settings |= {"sizes": asdict(sizes), "AUC": areas}
    with run.figure(6.5, 3.6) as figure:
        draw(figure, areas, sizes)
    yield from claims(areas, parameter_counts(), sizes)


def measured(sizes: BudgetLongformerSizes, progress: Progress) -> dict[str, dict[int, list[float]]]:
    """Train and probe; each training has a process and a seed of its own, and is the same beside another."""
    areas: dict[str, dict[int, list[float]]] = {}
    runs = [(seed, arm) for seed in sizes.seeds for arm in (LOCAL, GLOBAL, WIDE, MLM)]
    found = over(
        runs,
        trained,
        lambda job: (job[1], job[0], sizes),
        lambda job: f"{job[1]}, seed {job[0]}",
        progress,
        processes=sizes.processes,
    )
    for arm, distance, area in found:
        areas.setdefault(arm, {}).setdefault(distance, []).append(area)
    return areas


def trained(arm: str, seed: int, sizes: BudgetLongformerSizes) -> Iterator[tuple[str, int, float]]:
    """Train one encoder, and probe it at every distance."""
    evidence = FarEvidence(sizes.documents)
    torch.manual_seed(seed)
    settings = evidence.sizes(2 * sizes.window if arm == WIDE else sizes.window)
    if arm == MLM:
        config = longformer_config("small", evidence.vocabulary, **settings)
        model: PreTrainedModel = AutoModelForMaskedLM.from_config(config)
    else:
        share = sizes.generator_share
        model = longformer_rtd("small", evidence.tokenizer(), generator_share=share, **settings)
    SlidingWindow(model)

    def global_mask(ids: Tensor) -> Tensor:
        seen = torch.zeros_like(ids)
        seen[:, 0] = int(arm == GLOBAL)
        return seen

    def loss(numbered: tuple[int, Tensor]) -> Tensor:
        number, ids = numbered
        if arm != MLM:
            of_step = (seed << 32) + number
            return model(ids, global_attention_mask=global_mask(ids), number=of_step).loss
        masked = mask_tokens(ids, torch.ones_like(ids), {BEGIN, END}, MASK, generator=generator)
        labels = ids.masked_fill(~masked.selected, -100)
        return model(masked.input_ids, labels=labels).loss

    def score(documents: EvidenceDocuments) -> Tensor:
        ids, rows, places = documents.input_ids, torch.arange(len(documents.echo)), documents.echo
        if isinstance(model, ReplacedTokenPretrainer):
            states = model.discriminator(ids, global_attention_mask=global_mask(ids)).last_hidden_state
            return model.head(states)[rows, places]
        hidden = ids.clone()
        hidden[rows, places] = MASK
        return -model(hidden).logits[rows, places].log_softmax(-1)[rows, ids[rows, places]]

    generator = torch.Generator().manual_seed(seed)
    batches = enumerate(evidence.batches(sizes.rows, seed))
    fit(model.train(), batches, loss, sizes.steps, sizes.learning_rate, cosine, clip=1.0)
    with torch.no_grad(), evaluation_mode(model):
        areas = evidence.detection(score, seed + 1000)
    yield from ((arm, distance, area) for distance, area in areas.items())


def parameter_counts() -> dict[str, float]:
    """Millions of parameters of the paper's encoders, as they are configured here."""
    found = {}
    for size in PARAMETERS:
        with torch.device("meta"):
            encoder = LongformerModel(longformer_config(size), add_pooling_layer=False)
        found[size] = encoder.num_parameters() / 1e6
    return found


def claims(areas: Areas, counts: Mapping[str, float], sizes: BudgetLongformerSizes) -> Iterator[Claim]:
    """Put each claim beside its measurement."""
    reach, wide = sizes.documents.reach(sizes.window), sizes.documents.reach(2 * sizes.window)
    near = [distance for distance in areas[LOCAL] if distance <= reach]
    far = [distance for distance in areas[LOCAL] if distance > reach]

    def detected(arm: str, distances: list[int]) -> list[Verdict]:
        found = (estimate_of_mean(areas[arm][distance]) for distance in distances)
        return [shown(area, DETECTED, FEWEST_SEEDS) for area in found]

    def chance(arm: str, distances: list[int]) -> list[Verdict]:
        found = ([area - CHANCE for area in areas[arm][distance]] for distance in distances)
        return [absent(estimate_of_mean(excess), MARGIN, FEWEST_SEEDS) for excess in found]

    def said(arm: str, distances: list[int]) -> str:
        return ", ".join(f"{estimate_of_mean(areas[arm][distance]).value:.2f}" for distance in distances)

    at = f"d = {', '.join(map(str, near))} | {', '.join(map(str, far))}"
    yield Claim(
        f"AUC above {DETECTED} at every d up to layers · window / 2 = {reach}, within {MARGIN} of chance beyond, and above {DETECTED} there again with "
        "a global first token",
        paper=None,
        measured=f"{at}: {said(LOCAL, near)} | {said(LOCAL, far)}, n = {len(sizes.seeds)} seeds",
        control=f"{said(GLOBAL, near)} | {said(GLOBAL, far)} (global first token)",
        verdict=all_of([*detected(LOCAL, near), *chance(LOCAL, far), *detected(GLOBAL, far)]),
    )
    yield Claim(
        "the encoders have the paper's numbers of parameters: 29.28 and 158.6 million with 64,000 tokens",
        paper="29 and 159 million",
        measured=" and ".join(f"{count:.2f} million" for count in counts.values()),
        control=" and ".join(f"{count:g} million" for count in PARAMETERS.values()),
        verdict=exactly(all(abs(counts[size] - count) < 0.05 for size, count in PARAMETERS.items())),
    )
    grown = [distance for distance in far if distance <= wide]
    yield Claim(
        f"a window of twice the size reaches twice as far: above {DETECTED} at d = {', '.join(map(str, grown))}",
        paper=None,
        measured=f"{said(WIDE, grown)} (reach {wide})",
        control=f"{said(LOCAL, grown)} (window {sizes.window})",
        verdict=all_of(detected(WIDE, grown)),
    )
    by_seed = {
        arm: [mean(row) for row in zip(*(areas[arm][distance] for distance in near), strict=True)]
        for arm in (LOCAL, MLM)
    }
    yield Claim.above(
        f"after as many steps RTD tells wrong echoes better than MLM, on average over d up to {reach}",
        by_seed[LOCAL],
        by_seed[MLM],
        "MLM, NLL of the masked echo",
        spec=".3f",
        fewest=FEWEST_SEEDS,
    )


def draw(figure: Figure, areas: Areas, sizes: BudgetLongformerSizes) -> None:
    """The AUC over the distance, one thin line per seed."""
    axes = figure.subplots()
    for number, (arm, found) in enumerate(areas.items()):
        distances, colour = list(found), f"C{number}"
        for seed in range(len(sizes.seeds)):
            axes.plot(distances, [found[distance][seed] for distance in distances], color=colour, alpha=0.25)
        axes.plot(
            distances,
            [mean(found[distance]) for distance in distances],
            "o-",
            color=colour,
            label=arm,
            markersize=4,
        )
    for window, style in ((sizes.window, "--"), (2 * sizes.window, ":")):
        axes.axvline(sizes.documents.reach(window) + 0.5, linestyle=style, color="grey")
    axes.axhline(CHANCE, linestyle=":", color="grey")
    axes.set(
        xlabel="tokens from the clue to the echo", ylabel="detection AUC of wrong echoes", ylim=(0.45, 1.01)
    )
    axes.legend(fontsize=8)
