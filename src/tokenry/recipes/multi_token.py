"""Your LLM Knows the Future (arXiv 2507.11851): do masks, gated LoRA and a sampler let a frozen model write several tokens per step?

A Llama learns a toy language of records (`testbeds/record_language`). Two drafters are trained inside it, with and without the latent
consistency loss, and new texts are continued greedily:

    greedy            token by token: the control
    linear, quadratic with the drafter; quadratic also without the sampler, and with the drafter that had no consistency loss

Headline: quadratic decoding writes the same texts as greedy decoding, at 2.5 tokens per step or more.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from matplotlib.figure import Figure
from torch import Tensor
from transformers import PreTrainedModel

from tokenry.core.io.progress import named, part
from tokenry.core.stats import Verdict, all_of, estimate_of_mean, paired_difference, shown
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.decoding import Drafter, MultiTokenDecoding
from tokenry.recipes.kit import Claim, RecipeRun, fit, one_cycle, recipe
from tokenry.recipes.testbeds.chat_texts import ChatTexts
from tokenry.recipes.testbeds.record_language import RecordModel

GREEDY, LINEAR, QUADRATIC, NO_SAMPLER, NO_CONSISTENCY = (
    "greedy",
    "linear",
    "quadratic",
    "quadratic, no sampler",
    "quadratic, no consistency loss",
)
LEAST = 2.5


@dataclass(frozen=True)
class DraftSizes:
    """Size of the experiment at one scale.

    Attributes:
        base: the base model and its texts.
        masks: number of masks in a block.
        rank: rank of the gated LoRA.
        steps: steps of training of each drafter.
        batch_size: texts per step.
        texts: texts that a drafter learns from.
        block_share: share of the tokens that a block stands behind in training.
        learning_rate: highest learning rate of a drafter.
        prompts: texts that are continued.
    """

    base: RecordModel | ChatTexts = field(default_factory=RecordModel)
    masks: int = 4
    rank: int = 8
    steps: int = 350
    batch_size: int = 8
    texts: int = 512
    block_share: float = 0.5
    learning_rate: float = 5e-3
    prompts: int = 20
    prompt_tokens: int = 12
    new_tokens: int = 60
    seed: int = 0


@dataclass(frozen=True)
class DraftOutcome:
    """What came of every way to write.

    Attributes:
        same: by way, whether all texts are those of greedy decoding.
        per_step: by way, tokens per step of each text.
        moved: largest change of a logit of the base by the drafters.
        seconds: CPU seconds of each text alone, greedy and quadratic.
    """

    same: Mapping[str, bool]
    per_step: Mapping[str, Sequence[float]]
    moved: float
    seconds: Mapping[str, Sequence[float]]


@recipe(
    "multi-token",
    laptop=DraftSizes(),
    paper=DraftSizes(
        ChatTexts(),
        masks=8,
        rank=128,
        steps=50_000,
        texts=50_000,
        block_share=0.25,
        learning_rate=2e-4,
        prompts=500,
        prompt_tokens=64,
        new_tokens=200,
    ),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Train the base and both drafters, write the texts in every way, and judge each claim."""
    sizes: DraftSizes = run.sizes
    outcome = measured(run, sizes)
    run.settings |= {
        "sizes": asdict(sizes),
        "tokens_per_step": {name: list(values) for name, values in outcome.per_step.items()},
        "same": dict(outcome.same),
    }
    with run.figure(7, 3.6) as figure:
        draw(figure, outcome)
    yield from claims(outcome)


def measured(run: RecipeRun, sizes: DraftSizes) -> DraftOutcome:
    """Train, then write the same texts in every way."""
    model = sizes.base.trained(sizes.seed, named(part(run.progress, 0.0, 0.3), "training the base model"))
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(1_000_000 + sizes.seed)
    prompts = sizes.base.texts(sizes.prompts, sizes.prompt_tokens, generator).to(model.device)
    logits, plain = model(prompts).logits, written(model, prompts, sizes)
    same, per_step, seconds = {}, {}, {GREEDY: alone(model, prompts, sizes)}
    arms = (
        (1.0, {LINEAR: "linear", QUADRATIC: "quadratic", NO_SAMPLER: "quadratic"}),
        (0.0, {NO_CONSISTENCY: "quadratic"}),
    )
    for number, (consistency, ways) in enumerate(arms):
        progress = named(part(run.progress, 0.3 + 0.3 * number, 0.6 + 0.3 * number), "training a drafter")
        drafter = train_drafter(model, sizes, consistency, progress)
        for name, mode in ways.items():
            decoder = MultiTokenDecoding(drafter, mode, sampler=name != NO_SAMPLER)
            same[name] = torch.equal(written(model, prompts, sizes, decoder), plain)
            per_step[name] = [sum(steps) / len(steps) for steps in decoder.account.blocks]
            if name == QUADRATIC:
                seconds[name] = alone(model, prompts, sizes, decoder)
        moved = float((model(prompts).logits - logits).abs().max())
        drafter.remove()
    return DraftOutcome(same, per_step, moved, seconds)


def train_drafter(
    model: PreTrainedModel, sizes: DraftSizes, consistency: float, progress: Callable[[float], None]
) -> Drafter:
    """Train a drafter, from the same first weights and on the same texts whatever the losses are."""
    torch.manual_seed(sizes.seed)
    drafter = Drafter(model, sizes.masks, sizes.rank)
    generator = torch.Generator().manual_seed(sizes.seed)
    length, width = sizes.base.length, model.get_input_embeddings().embedding_dim
    texts = sizes.base.texts(sizes.texts, length, generator)

    def batch() -> tuple[Int[Tensor, "texts tokens"], Int[Tensor, "1 blocks"]]:
        anchors = torch.randperm(length, generator=generator)[: round(sizes.block_share * length)]
        rows = texts[torch.randint(len(texts), (sizes.batch_size,), generator=generator)]
        return rows.to(model.device), anchors.sort().values[None].to(model.device)

    def loss(drawn: tuple[Tensor, Tensor]) -> Tensor:
        losses = drafter.losses(drawn[0], anchors=drawn[1])
        return losses.base + losses.sampler + consistency / width * losses.consistency

    batches = (batch() for _ in range(sizes.steps))
    fit(drafter, batches, loss, sizes.steps, sizes.learning_rate, one_cycle, clip=1.0, progress=progress)
    return drafter


def written(
    model: PreTrainedModel,
    prompts: Int[Tensor, "texts tokens"],
    sizes: DraftSizes,
    decoder: MultiTokenDecoding | None = None,
) -> Int[Tensor, "texts length"]:
    """Continue prompts greedily, with a decoder or as transformers does."""
    options: dict[str, Any] = {"max_new_tokens": sizes.new_tokens, "do_sample": False}
    with evaluation_mode(model):
        found: Tensor = model.generate(
            prompts, attention_mask=torch.ones_like(prompts), custom_generate=decoder, **options
        )
    return found


def alone(
    model: PreTrainedModel, prompts: Tensor, sizes: DraftSizes, decoder: MultiTokenDecoding | None = None
) -> list[float]:
    """CPU seconds of each text, written by itself."""
    seconds = []
    for prompt in prompts:
        began = time.process_time()
        written(model, prompt[None], sizes, decoder)
        seconds.append(time.process_time() - began)
    return seconds


def claims(outcome: DraftOutcome) -> Iterator[Claim]:
    """Put each claim beside its measurement; the units are the texts."""
    per_step = outcome.per_step
    pace = estimate_of_mean(per_step[QUADRATIC])
    yield Claim(
        f"quadratic decoding writes what greedy decoding writes, at {LEAST} tokens per step or more",
        paper="2.69 tokens per step with 4 masks, 3.17 with 8; on code 3.87 and 5.35",
        measured=f"{pace.with_interval('.2f')} tokens per step, n = {pace.samples}; texts {_sameness(outcome.same[QUADRATIC])}",
        control="1 token per step (greedy)",
        verdict=all_of(
            [
                _exact(outcome.same[QUADRATIC]),
                shown(paired_difference(per_step[QUADRATIC], [LEAST] * pace.samples)),
            ]
        ),
    )
    for words, name, other in (
        ("quadratic decoding takes fewer steps than linear decoding", QUADRATIC, LINEAR),
        ("the sampler adds tokens per step", QUADRATIC, NO_SAMPLER),
        ("the latent consistency loss adds tokens per step", QUADRATIC, NO_CONSISTENCY),
    ):
        yield Claim.above(words, per_step[name], per_step[other], other, spec=".2f", unit=" tokens per step")
    yield Claim(
        "the drafter leaves the base model's logits unchanged, bit for bit",
        paper="gated LoRA: no change; LoRA on all tokens loses quality",
        measured=f"largest change {outcome.moved:.2g}; texts of all ways {_sameness(all(outcome.same.values()))}",
        control="0 (base model)",
        verdict=_exact(outcome.moved == 0 and all(outcome.same.values())),
    )
    yield Claim.above(
        "quadratic decoding takes less CPU time per text than greedy decoding",
        outcome.seconds[QUADRATIC],
        outcome.seconds[GREEDY],
        GREEDY,
        lower=True,
        spec=".3f",
        unit=" s",
    )


def _exact(holds: bool) -> Verdict:
    return "shown" if holds else "opposite"


def _sameness(same: bool) -> str:
    return "identical" if same else "different"


def draw(figure: Figure, outcome: DraftOutcome) -> None:
    """Tokens per step of every text, by way."""
    axes = figure.subplots()
    names = list(outcome.per_step)
    for place, name in enumerate(names):
        values = outcome.per_step[name]
        spread = [place + 0.3 * (number / max(1, len(values) - 1) - 0.5) for number in range(len(values))]
        axes.plot(spread, values, "o", markersize=3.5, alpha=0.6)
        axes.hlines(sum(values) / len(values), place - 0.25, place + 0.25, color="0.2", linewidth=1.6)
    axes.axhline(1.0, color="0.6", linestyle="--", linewidth=1)
    axes.axhline(LEAST, color="0.6", linestyle=":", linewidth=1)
    axes.set_xticks(range(len(names)), [name.replace(", ", ",\n") for name in names], fontsize=8)
    axes.set(ylabel="tokens per step", ylim=(0.8, None))
