"""Inverse permutation (arXiv 2509.24125): what a causal mask forbids at any depth, and what room behind the input gives back.

Lists of n rows with entries 0 and 1; every model is trained on fresh lists and measured on 4,096 others:

    causal      answers on the rows of the permuted list; the least error of any causal model is (n − 1) / 8
    scratch     answers on n rows behind it, or the first m of them there
    MLPs        a standard causal transformer, with MLPs, layer norms and heads, on the rows of the list
    text        a language model that was never trained on it, asked in words, with and without filler tokens

Headline: trained causal models land within 5 % of the least error, and with scratch rows below 0.05.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean

import torch
from jaxtyping import Bool
from matplotlib.figure import Figure
from numpy import ndarray
from torch import Tensor, nn

from tokenry.core.io.progress import Progress, one_stage, part
from tokenry.core.stats import (
    FEWEST_SEEDS,
    absent,
    all_of,
    estimate_of_mean,
    exactly,
    paired_difference,
    shown,
)
from tokenry.models import load_model, load_tokenizer
from tokenry.models.text_model import LocalText
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.row_transformer import RowTransformer, RowTransformerSizes
from tokenry.theory import (
    DisentangledTransformer,
    InversePermutationTask,
    PermutationTraining,
    ReorderingTask,
    best_causal_mse,
    best_scratch_mse,
    dependency_matrix,
    reorder_by_text,
    train_inverse_permutation,
)

NEAR, SOLVED, PARTIAL, SAME = 0.05, 0.05, 0.05, 0.1
CAUSAL, SCRATCH, ON_P, MLPS = "causal", "scratch", "rows of P", "MLPs"
LAYOUTS = ("plain", "filler", "repeated")


@dataclass(frozen=True)
class PermutationSizes:
    """Size of the experiment at one scale.

    Attributes:
        n: rows of the list.
        steps: training steps of the disentangled models.
        seeds: one run of the headline's arms for each.
        mlps: sizes of the transformer with MLPs.
        mlp_steps: its training steps.
        language_model: the model that is asked in words.
        letters: letters of a list in words.
        prompts: lists that it is asked about.
    """

    n: int = 4
    steps: int = 3000
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    few_seeds: tuple[int, ...] = (0, 1)
    mlps: RowTransformerSizes = field(default_factory=RowTransformerSizes)
    mlp_steps: int = 1500
    language_model: str = "embedded"
    letters: int = 3
    prompts: int = 200


Losses = Mapping[str, Sequence[float]]
Matches = Mapping[str, Bool[ndarray, "prompts"]]


@recipe(
    "inverse-permutation",
    laptop=PermutationSizes(),
    paper=PermutationSizes(
        10,
        131_072,
        mlps=RowTransformerSizes(256, 6, 8),
        mlp_steps=20_000,
        language_model="meta-llama/Llama-3.2-3B",
        letters=8,
        prompts=1000,
    ),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Train every arm and judge each claim."""
    sizes: PermutationSizes = run.sizes
    matches = in_words(sizes, run.progress)
    losses = trained(sizes, part(run.progress, 0.2, 1.0))
    changed = later_rows_change(sizes.n)
    run.settings |= {"n": sizes.n, "steps": sizes.steps, "losses": losses, "seeds": list(sizes.seeds)}
    run.settings |= {
        "language_model": sizes.language_model,
        "letters": sizes.letters,
        "exact_matches": {layout: int(right.sum()) for layout, right in matches.items()},
    }
    with run.figure(11, 4) as figure:
        draw(figure, losses, sizes.n)
    yield from claims(losses, changed, sizes.n)
    yield text_claim(matches, sizes.letters)


def in_words(sizes: PermutationSizes, progress: Progress) -> dict[str, Bool[ndarray, "prompts"]]:
    """Which lists a language model puts in order, by the layout of its prompt."""
    name = sizes.language_model
    model = LocalText(load_model(name), load_tokenizer(name), batch_size=16, share_prefix=True)
    matches = {}
    for number, layout in enumerate(LAYOUTS):
        progress(f"asking in words, {layout}", 0.2 * number / len(LAYOUTS))
        matches[layout] = reorder_by_text(model, ReorderingTask(sizes.letters, layout), sizes.prompts)
    return matches


def trained(sizes: PermutationSizes, progress: Progress) -> dict[str, list[float]]:
    """The test loss of each arm, by seed."""
    n = sizes.n
    arms: dict[str, tuple[InversePermutationTask, Sequence[int]]] = {
        CAUSAL: (InversePermutationTask(n, "none", "Y"), sizes.seeds),
        SCRATCH: (InversePermutationTask(n), sizes.seeds),
        ON_P: (InversePermutationTask(n, "none", "P"), sizes.few_seeds),
        **{
            f"{rows} scratch": (InversePermutationTask(n, scratch_rows=rows), sizes.few_seeds)
            for rows in range(1, n)
        },
        MLPS: (InversePermutationTask(n, "none", "Y"), sizes.few_seeds),
    }
    runs = [(arm, task, seed) for arm, (task, seeds) in arms.items() for seed in seeds]
    losses: dict[str, list[float]] = {arm: [] for arm in arms}
    for number, (arm, task, seed) in enumerate(runs):
        told = part(progress, number / len(runs), (number + 1) / len(runs))
        model, config = None, PermutationTraining(task, steps=sizes.steps, seed=seed)
        if arm == MLPS:
            model = RowTransformer(task.seq_len, n, sizes.mlps, seed)
            config = PermutationTraining(task, steps=sizes.mlp_steps, learning_rate=1e-3, seed=seed)
        found = train_inverse_permutation(config, model, progress=one_stage(told, f"{arm}, seed {seed}"))
        losses[arm].append(float(found.loss.mean()))
    return losses


def later_rows_change(n: int, draws: int = 8) -> int:
    """How many earlier outputs change when a later row does, over random weights: none, to the bit."""
    changed = 0
    for seed in range(draws):
        torch.manual_seed(seed)
        model = DisentangledTransformer(2 * n, n, (2, 1, 1), init_scale=1.0)
        x, _ = InversePermutationTask(n, "none").sample(4, torch.Generator().manual_seed(seed))
        depends = dependency_matrix(_LastState(model), x)
        changed += int(depends.triu(1).sum())
    return changed


class _LastState(nn.Module):
    """The state after the last layer."""

    def __init__(self, model: DisentangledTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.residual(x)[-1]


def claims(losses: Losses, changed: int, n: int) -> Iterator[Claim]:
    """Judge what was measured."""
    best = best_causal_mse(n)
    excess = estimate_of_mean([loss / best - 1 for loss in losses[CAUSAL]])
    solved = estimate_of_mean(losses[SCRATCH])
    yield Claim(
        f"n = {n}: trained causal models land within {NEAR:.0%} of the least error (n − 1) / 8, and with scratch rows below {SOLVED:g}",
        "near guessing with the mask, near perfect with scratch rows",
        measured=f"scratch {solved.value:.5f}, causal {mean(losses[CAUSAL]):.3f} ({100 * excess.value:+.1f} % of the least error, n = {excess.samples} seeds)",
        control=f"{best:.3f} (least causal error)",
        verdict=all_of([absent(excess, NEAR, FEWEST_SEEDS), shown(solved.scaled(-1), -SOLVED, FEWEST_SEEDS)]),
    )
    yield Claim(
        "no row before a changed one changes by a bit, whatever the weights",
        "theorem 1",
        measured=f"{changed} pairs of an earlier output and a later row depend",
        control="0",
        verdict=exactly(changed == 0),
    )
    partial = {rows: mean(losses[f"{rows} scratch"]) - best_scratch_mse(n, rows) for rows in range(1, n)}
    apart = [
        estimate_of_mean([loss - best_scratch_mse(n, rows) for loss in losses[f"{rows} scratch"]])
        for rows in partial
    ]
    yield Claim(
        f"m scratch rows say m rows: the error is within {PARTIAL:g} of the closed form for every m",
        None,
        measured=", ".join(f"m = {rows}: {mean(losses[f'{rows} scratch']):.3f}" for rows in partial),
        control=", ".join(f"{best_scratch_mse(n, rows):.3f}" for rows in partial) + " (closed form)",
        verdict=all_of(absent(found, PARTIAL, FEWEST_SEEDS) for found in apart),
    )
    mlps = estimate_of_mean([loss / best - 1 for loss in losses[MLPS]])
    yield Claim(
        f"MLPs, norms and heads do not help: such a transformer is not more than {NEAR:.0%} below the least error",
        None,
        measured=f"{mean(losses[MLPS]):.3f} ({100 * mlps.value:+.1f} %, n = {mlps.samples} seeds)",
        control=f"{best:.3f} (least causal error)",
        verdict=shown(mlps, -NEAR, FEWEST_SEEDS),
    )
    on_p = estimate_of_mean([loss / best_causal_mse(n, "P") - 1 for loss in losses[ON_P]])
    yield Claim(
        f"on the rows of P nothing can be said: within {NEAR:.0%} of n / 4",
        None,
        measured=f"{mean(losses[ON_P]):.3f} (n = {on_p.samples} seeds)",
        control=f"{best_causal_mse(n, 'P'):.3f} (n / 4)",
        verdict=absent(on_p, NEAR, FEWEST_SEEDS),
    )


def text_claim(matches: Matches, letters: int) -> Claim:
    """Judge what a language model says in words."""
    right = {layout: f"{100 * of_layout.mean():.1f} %" for layout, of_layout in matches.items()}
    change = paired_difference(matches["filler"].astype(float), matches["plain"].astype(float))
    return Claim(
        f"asked in words, {letters} letters: filler tokens change the exact matches of a model that was not trained with them by less than {SAME:.0%}",
        None,
        measured=f"{right['filler']} ({100 * change.value:+.1f} points, n = {change.samples} lists); the list twice {right['repeated']}",
        control=f"{right['plain']} (no filler); {1 / math.factorial(letters):.0%} by copying",
        verdict=absent(change, SAME),
    )


def draw(figure: Figure, losses: Losses, n: int) -> None:
    """The error of each arm, and the closed form over scratch rows."""
    left, right = figure.subplots(1, 2)
    arms = [CAUSAL, MLPS, ON_P, SCRATCH]
    least = [best_causal_mse(n), best_causal_mse(n), best_causal_mse(n, "P"), 0.0]
    for place, (arm, best) in enumerate(zip(arms, least, strict=True)):
        left.plot([place] * len(losses[arm]), losses[arm], "o", color="black", fillstyle="none")
        left.plot([place - 0.3, place + 0.3], [best, best], color="0.6", linewidth=2)
    left.set_xticks(range(len(arms)), arms)
    left.set(ylabel="squared error of a row", title="points: seeds, lines: the least error possible")
    rows = range(n + 1)
    right.plot(
        rows, [best_scratch_mse(n, number) for number in rows], color="0.6", linewidth=2, label="closed form"
    )
    for number in rows:
        arm = CAUSAL if number == 0 else SCRATCH if number == n else f"{number} scratch"
        right.plot([number] * len(losses[arm]), losses[arm], "o", color="black", fillstyle="none")
    right.set(
        xlabel="scratch rows", ylabel="squared error of a row", title="every scratch row says one row more"
    )
    right.set_xticks(rows)
    right.legend(frameon=False)
