"""ssToken (arXiv 2510.18250): do progress and attention to the prompt find the tokens worth learning from?

Three experiments, each with its control in the same run:

    end to end   the embedded model on generated tasks with recorded noise, against plain fine-tuning on the same samples (headline)
    toy          a small transformer learns a mapping from noisy answers of which every wrong token is known
    attention    the attention score of the words that do the task against off-topic ones, by AUROC of each conversation

The paper's averages come from reading notes of it; its claims about attention and noise carry no figure of this kind.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tokenry.core.io.progress import Progress, part
from tokenry.core.stats import FEWEST_SEEDS
from tokenry.finetuning import AllTokens, RandomTokens, Rho1, SSToken, TokenCleaning, TokenWeighing
from tokenry.models import load_model, load_tokenizer
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.attention_probe import AttentionAuroc, probe_attention
from tokenry.recipes.testbeds.selection_toy import ToyRun, fine_tune, pretrain_base, train_reference
from tokenry.verbs._tune.comparison import compare
from tokenry.verbs._tune.plan import make_plan
from tokenry.verbs._tune.records import Run

PAPER_AVERAGES = "52.50 against 50.35 (average of ten benchmarks, LLaMA-3.2-3B; reading notes)"
PUBLISHED = "prompt, last layer"


@dataclass(frozen=True)
class SSTokenSizes:
    """Size of the experiments at one scale."""

    seeds: tuple[int, ...]
    plan: Mapping[str, Any] = field(default_factory=dict)


def toy_weighings() -> dict[str, TokenWeighing]:
    """The weighings of the toy: ssToken's parts, its baselines, and a small weight for dropped tokens."""
    return {
        "full": AllTokens(),
        "random": RandomTokens(scope="sample"),
        "RHO-1": Rho1(scope="sample"),
        "TokenCleaning": TokenCleaning(scope="sample"),
        "progress": SSToken(balance=1.0),
        "ssToken": SSToken(),
        "progress, dropped 0.1": SSToken(balance=1.0, dropped_weight=0.1),
    }


@recipe(
    "sstoken",
    laptop=SSTokenSizes(
        seeds=(0, 1, 2),
        plan={
            "weighing": "sstoken",
            "demo_samples": 80,
            "compare": ["full"],
            "answers": 0,
            "training": {"num_train_epochs": 1, "save_strategy": "no"},
        },
    ),
    paper=SSTokenSizes(
        seeds=tuple(range(10)),
        plan={
            "model": "meta-llama/Llama-3.2-3B",
            "data": "allenai/tulu-v2-sft-mixture",
            "chat_template": "open-instruct",
            "weighing": "sstoken",
            "compare": ["full", "random"],
            "dtype": "bfloat16",
        },
    ),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Run the three experiments and judge each claim."""
    run.progress("attention of the embedded model", 0.0)
    attention = probe_attention(load_model(), load_tokenizer())
    toys = run_toys(run.sizes.seeds, part(run.progress, 0.05, 0.5))
    plan = make_plan(dict(run.sizes.plan))
    comparison = compare(plan, run.output / "end-to-end", part(run.progress, 0.5, 1.0))
    run.settings |= {
        "seeds": list(run.sizes.seeds),
        "auroc": {name: score.auroc for name, score in attention.items()},
        "toy": {name: [asdict(toy) for toy in of_seeds] for name, of_seeds in toys.items()},
        "end_to_end": plan.settings,
    }
    with run.figure(11, 3.6) as figure:
        draw(figure, attention, toys)
    yield end_to_end_claim(*comparison.runs[:2])
    yield from toy_claims(toys)
    yield attention_claim(attention[PUBLISHED])


def run_toys(seeds: Sequence[int], progress: Progress) -> dict[str, list[ToyRun]]:
    """Fine-tune the toy's base model with every weighing, seed by seed."""
    weighings = toy_weighings()
    runs: dict[str, list[ToyRun]] = {name: [] for name in weighings}
    for number, seed in enumerate(seeds):
        base = pretrain_base(seed)
        reference = train_reference(base, seed)
        for place, (name, weighing) in enumerate(weighings.items()):
            progress(f"toy, seed {seed}: {name}", (number + place / len(weighings)) / len(seeds))
            runs[name].append(fine_tune(base, weighing, seed, reference=reference))
    return runs


def end_to_end_claim(control: Run, ours: Run) -> Claim:
    """The abstract's claim: better than fine-tuning on all tokens."""
    paired, nll, theirs = ours.paired, ours.held_out_nll, control.held_out_nll
    assert paired is not None
    assert nll is not None
    assert theirs is not None
    return Claim(
        "end to end: ssToken lowers the held-out NLL of plain fine-tuning on the same noisy samples (nats per token)",
        PAPER_AVERAGES,
        measured=f"{nll.value:.3f} (difference {paired.estimate:+.3f}, n = {paired.samples:,})",
        control=f"{theirs.value:.3f} ({control.name})",
        verdict=paired.verdict,
    )


def toy_claims(runs: Mapping[str, Sequence[ToyRun]]) -> Iterator[Claim]:
    """Judged by the seeds' paired differences."""

    def lower(
        claim: str, name: str, control: str, value: Callable[[ToyRun], float], paper: str | None
    ) -> Claim:
        ours, theirs = ([value(toy) for toy in runs[weighing]] for weighing in (name, control))
        return Claim.above(
            f"toy: {claim}", ours, theirs, control, lower=True, fewest=FEWEST_SEEDS, spec=".3f", paper=paper
        )

    yield lower(
        "ssToken (balance 0.5) learns the task better than all tokens (NLL of mapped tokens, nats)",
        "ssToken",
        "full",
        lambda toy: toy.mapped_nll,
        PAPER_AVERAGES,
    )
    yield lower(
        "ssToken learns the task better than TokenCleaning (NLL of mapped tokens, nats)",
        "ssToken",
        "TokenCleaning",
        lambda toy: toy.mapped_nll,
        "52.50 against 51.87 (LLaMA-3.2-3B; reading notes)",
    )
    yield lower(
        "progress alone learns the task better than all tokens (NLL of mapped tokens, nats)",
        "progress",
        "full",
        lambda toy: toy.mapped_nll,
        "better than full SFT, no figure",
    )
    yield lower(
        "progress alone keeps less noise than chance (share of noise among kept tokens)",
        "progress",
        "random",
        lambda toy: toy.noise_kept,
        None,
    )


def attention_claim(published: AttentionAuroc) -> Claim:
    """The attention score of the paper against chance, by conversation."""
    return Claim.above(
        "attention to the prompt (last layer) is higher for task tokens than for off-topic ones (AUROC, mean of the conversations)",
        published.of_conversations,
        np.full(len(published.of_conversations), 0.5),
        "chance",
        spec=".2f",
    )


def draw(
    figure: Figure, attention: Mapping[str, AttentionAuroc], runs: Mapping[str, Sequence[ToyRun]]
) -> None:
    """The attention scores, and the toy's runs seed by seed."""
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
    left.barh(list(attention), [score.auroc for score in attention.values()], color="0.6")
    left.axvline(0.5, color="black", linewidth=0.8, linestyle="--")
    left.set(xlim=(0, 1), xlabel="AUROC, task against off-topic tokens", title="Attention to the prompt")
    left.invert_yaxis()
    for place, of_seeds in enumerate(runs.values()):
        for shift, marker, value in ((-0.12, "o", "mapped_nll"), (0.12, "s", "response_nll")):
            values, height = [getattr(toy, value) for toy in of_seeds], place + shift
            right.plot(values, [height] * len(values), marker, color="0.35", fillstyle="none", markersize=5)
            right.plot([mean(values)] * 2, [height - 0.1, height + 0.1], color="black", linewidth=2)
    right.set_yticks(range(len(runs)), list(runs))
    right.invert_yaxis()
    right.set(xscale="log", xlabel="NLL, nats (○ mapped tokens, □ all response tokens)", title="Toy")
