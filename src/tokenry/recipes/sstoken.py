"""ssToken (arXiv 2510.18250): do progress and attention to the prompt find the tokens worth learning from?

Three experiments, each with its control in the same run:

    attention    AUROC of the attention score for the words that do the task against off-topic ones, paper's form and sink-aware
    toy          a small transformer learns a mapping from noisy answers of which every wrong token is known
    end to end   the embedded model on generated tasks with recorded noise, against plain fine-tuning on the same samples

The paper's averages come from reading notes of it; its claims about attention and noise carry no figure of this kind.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
import numpy as np

from tokenry.finetuning import AllTokens, RandomTokens, Rho1, SSToken, TokenCleaning, TokenWeighing
from tokenry.models import load_model, load_tokenizer
from tokenry.recipes.recipe import Claim, Progress, Reproduction, Scale, verdict
from tokenry.recipes.toys.attention_probe import probe_attention
from tokenry.recipes.toys.selection_toy import ToyRun, fine_tune, pretrain_base, train_reference
from tokenry.runs.comparison import compare
from tokenry.runs.plan import make_plan

PAPER_AVERAGES = "52.50 against 50.35 (average of ten benchmarks, LLaMA-3.2-3B; reading notes)"
NO_FIGURE = "claimed without such a figure"


@dataclass(frozen=True)
class _Sizes:
    """How much of each experiment a scale runs."""

    seeds: tuple[int, ...]
    plan: Mapping[str, Any] = field(default_factory=dict)


SIZES: dict[Scale, _Sizes] = {
    "laptop": _Sizes(
        seeds=(0, 1, 2),
        plan={
            "demo_samples": 80,
            "compare": ["full"],
            "answers": 0,
            "training": {"num_train_epochs": 1, "save_strategy": "no"},
        },
    ),
    "paper": _Sizes(
        seeds=tuple(range(10)),
        plan={
            "model": "meta-llama/Llama-3.2-3B",
            "data": "allenai/tulu-v2-sft-mixture",
            "chat_template": "open-instruct",
            "compare": ["full", "random"],
            "dtype": "bfloat16",
        },
    ),
}


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


@dataclass(frozen=True)
class _SSTokenRecipe:
    slug: str = "sstoken"
    title: str = "ssToken: Self-modulated and Semantic-aware Token Selection for LLM Fine-tuning"

    def run(self, scale: Scale, output: Path, progress: Progress) -> Reproduction:
        """Run the three experiments and judge each claim."""
        started = time.perf_counter()
        sizes = SIZES[scale]
        progress("attention of the embedded model", 0.0)
        auroc = probe_attention(load_model(), load_tokenizer())
        runs = _toy(sizes.seeds, lambda what, share: progress(what, 0.05 + 0.45 * share))
        plan = make_plan(dict(sizes.plan))
        comparison = compare(
            plan, output / "end-to-end", lambda what, share: progress(what, 0.5 + 0.5 * share)
        )
        control, ours = comparison.runs[0], comparison.runs[1]
        claims = (*_attention_claims(auroc), *_toy_claims(runs), _end_to_end_claim(control, ours))
        return Reproduction(
            slug=self.slug,
            claims=claims,
            settings={
                "scale": scale,
                "seeds": list(sizes.seeds),
                "auroc": auroc,
                "toy": {name: [asdict(run) for run in of_seeds] for name, of_seeds in runs.items()},
                "end_to_end": plan.model_dump(),
            },
            seconds=time.perf_counter() - started,
            plots=(_plot(auroc, runs, output),),
        )


def _toy(seeds: Sequence[int], progress: Progress) -> dict[str, list[ToyRun]]:
    weighings = toy_weighings()
    runs: dict[str, list[ToyRun]] = {name: [] for name in weighings}
    for number, seed in enumerate(seeds):
        base = pretrain_base(seed)
        reference = train_reference(base, seed)
        for place, (name, weighing) in enumerate(weighings.items()):
            progress(f"toy, seed {seed}: {name}", (number + place / len(weighings)) / len(seeds))
            runs[name].append(fine_tune(base, weighing, seed, reference=reference))
    return runs


def _attention_claims(auroc: Mapping[str, float]) -> tuple[Claim, ...]:
    published, aware = auroc["prompt, last layer"], auroc["content, deep layers"]
    return (
        Claim(
            claim="attention to the prompt (last layer) is higher for task tokens than for off-topic ones (AUROC)",
            paper=NO_FIGURE,
            measured=f"{published:.2f}",
            control="0.50 (chance)",
            verdict=verdict(published > 0.55),
        ),
        Claim(
            claim="beyond the paper: without sink and template, over the deep layers, it is (AUROC >= 0.9, 0.3 above the paper's)",
            paper="not in the paper",
            measured=f"{aware:.2f}",
            control=f"{published:.2f} (paper's form)",
            verdict=verdict(aware >= 0.9 and aware > published + 0.3),
        ),
    )


def _toy_claims(runs: Mapping[str, Sequence[ToyRun]]) -> tuple[Claim, ...]:
    def lower(claim: str, name: str, control: str, value: Callable[[ToyRun], float], paper: str) -> Claim:
        """Judge by the seeds' paired differences: lower by two standard errors."""
        ours, theirs = ([value(run) for run in runs[of]] for of in (name, control))
        differences = [a - b for a, b in zip(ours, theirs, strict=True)]
        error = stdev(differences) / len(differences) ** 0.5
        return Claim(
            claim=claim,
            paper=paper,
            measured=f"{mean(ours):.3f} (difference {mean(differences):+.3f} ± {error:.3f}, {len(ours)} seeds)",
            control=f"{mean(theirs):.3f} ({control})",
            verdict=verdict(mean(differences) < -2 * error),
        )

    return (
        lower(
            "toy: progress alone learns the task better than all tokens (NLL of mapped tokens, nats)",
            "progress",
            "full",
            lambda run: run.mapped_nll,
            "better than full SFT, no figure",
        ),
        lower(
            "toy: progress alone keeps less noise than chance (share of noise among kept tokens)",
            "progress",
            "random",
            lambda run: run.noise_kept,
            NO_FIGURE,
        ),
        lower(
            "toy: progress with weight 0.1 for dropped tokens is better on all response tokens (NLL, nats)",
            "progress, dropped 0.1",
            "full",
            lambda run: run.response_nll,
            "not in the paper",
        ),
        lower(
            "toy: ssToken (balance 0.5) learns the task better than all tokens (NLL of mapped tokens, nats)",
            "ssToken",
            "full",
            lambda run: run.mapped_nll,
            PAPER_AVERAGES,
        ),
        lower(
            "toy: ssToken learns the task better than TokenCleaning (NLL of mapped tokens, nats)",
            "ssToken",
            "TokenCleaning",
            lambda run: run.mapped_nll,
            "52.50 against 51.87 (LLaMA-3.2-3B; reading notes)",
        ),
    )


def _end_to_end_claim(control: Any, ours: Any) -> Claim:
    paired = ours.paired
    return Claim(
        claim="end to end: ssToken lowers the held-out NLL of plain fine-tuning on the same noisy samples (nats per token)",
        paper=PAPER_AVERAGES,
        measured=f"{ours.held_out_nll.value:.3f} (difference {paired.difference:+.3f} ± {paired.standard_error:.3f})",
        control=f"{control.held_out_nll.value:.3f} ({control.name})",
        verdict=verdict(paired.difference < -2 * paired.standard_error),
    )


def _plot(auroc: Mapping[str, float], runs: Mapping[str, Sequence[ToyRun]], output: Path) -> Path:
    """Draw the attention scores, and the toy's runs seed by seed."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=(1, 1.6), layout="constrained")
    left.barh(list(auroc), list(auroc.values()), color="0.6")
    left.axvline(0.5, color="black", linewidth=0.8, linestyle="--")
    left.set(xlim=(0, 1), xlabel="AUROC, task against off-topic tokens", title="Attention to the prompt")
    left.invert_yaxis()
    names = list(runs)
    for place, name in enumerate(names):
        for shift, marker, value in ((-0.12, "o", "mapped_nll"), (0.12, "s", "response_nll")):
            values = [getattr(run, value) for run in runs[name]]
            right.plot(
                values,
                np.full(len(values), place + shift),
                marker,
                color="0.35",
                fillstyle="none",
                markersize=5,
            )
            right.plot(
                [mean(values)] * 2, [place + shift - 0.1, place + shift + 0.1], color="black", linewidth=2
            )
    right.set_yticks(range(len(names)), names)
    right.invert_yaxis()
    right.set(
        xscale="log",
        xlabel="NLL, nats (○ mapped tokens, □ all response tokens)",
        title="Toy",
    )
    path = output / "sstoken.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return Path(path.name)


RECIPE = _SSTokenRecipe()
