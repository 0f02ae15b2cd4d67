"""The digits reader from a few of its visual tokens: every choice of tokens, the estimate of sensitivity, and its premise."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from scipy.stats import spearmanr
from torch import Generator, Tensor, nn

from tokenry.compression.vision.relevance import rank_correlation
from tokenry.compression.vision.visual_tokens import METHODS as SELECTIONS
from tokenry.compression.vision.zoo_prune import mlp_sensitivity
from tokenry.core.io.progress import Progress, part
from tokenry.recipes.testbeds.digits_reader import DigitsReader, ReaderSetting, train_reader, visual_tokens
from tokenry.recipes.testbeds.digits_vit import load_digits_vit
from tokenry.recipes.testbeds.token_choices import (
    DIRECTIONS,
    DIVPRUNE,
    LEAST,
    METHODS,
    ZOO,
    Choice,
    ChoiceTrial,
    combined,
    gathered,
    mlp_weights,
    relative_sensitivity,
    spacing,
)

_DRAWS = 8


def digits(progress: Progress) -> ChoiceTrial:
    """The digits ViT with a projector and a reader, trained with three seeds."""
    found = load_digits_vit(part(progress, 0.0, 0.5))
    seeds, views = (0, 1, 2), 3
    setting = ReaderSetting()
    labels = found.train_labels[: setting.images]
    training = visual_tokens(found.model, found.train_images[: setting.images]).clone()
    testing = visual_tokens(found.model, found.test_images).clone()
    runs = []
    for number, seed in enumerate(seeds):
        progress(f"projector and reader, seed {seed}", 0.5 + 0.5 * number / len(seeds))
        reader = train_reader(training, labels, ReaderSetting(seed=seed))
        runs.append(measure_reader(reader, testing, found.test_labels, views, seed))
    # Seeds of one digit are no independent digits.
    together = combined(runs, lambda values: torch.stack(values).mean(0))
    return replace(
        together,
        pictures={"image": found.test_images[0, 0], **runs[0].pictures},
        settings={
            "model": "digits ViT, tokens after block 2; projector and reader of three seeds",
            "seeds": seeds,
            "relevance_by_seed": [round(float(run.relevance.nanmean()), 3) for run in runs],
            "zoo_minus_divprune_by_seed": [
                {
                    k: round(float((run.choices[ZOO][k].right - run.choices[DIVPRUNE][k].right).mean()), 1)
                    for k in run.choices[ZOO]
                }
                for run in runs
            ],
        },
    )


def measure_reader(
    reader: DigitsReader,
    tokens: Float[Tensor, "images tokens dim"],
    labels: Int[Tensor, "images"],
    views: int,
    seed: int = 0,
    budgets: Sequence[int] = (4, 8, 12, 18),
) -> ChoiceTrial:
    """Measure every method at every budget with one trained reader.

    Args:
        reader: trained on all tokens.
        tokens: what enters its projector.
        labels: classes of the images.
        views: number of consecutive images that show the same digit.
        seed: random seed of directions and random choices.
        budgets: numbers of tokens to keep.
    """
    generator = Generator().manual_seed(seed)
    projected = reader.projector(tokens)
    sensitivity = mlp_sensitivity(tokens, *mlp_weights(reader.projector), method="closed_form")

    def of_object(values: Tensor) -> Tensor:
        return values.view(-1, views).mean(1)

    def measured(kept: Tensor) -> Choice:
        chosen = gathered(projected, kept)
        right = 100 * (reader.read(chosen).argmax(-1) == labels).float()
        values = (right, relative_sensitivity(sensitivity, kept), spacing(chosen))
        return Choice(*map(of_object, values))

    chosen = {
        method: {k: select(projected, sensitivity, k, generator) for k in budgets}
        for method, select in _selections().items()
    }
    relevance = _relevance(reader, projected)
    correlations = [rank_correlation(*pair) for pair in zip(sensitivity, relevance, strict=True)]
    return ChoiceTrial(
        unpruned=measured(torch.arange(tokens.shape[1]).expand(tokens.shape[:2])).right,
        choices={name: {k: measured(kept) for k, kept in by_k.items()} for name, by_k in chosen.items()},
        estimates=_estimates(reader.projector, tokens[::views][:60], generator),
        relevance=of_object(torch.tensor(correlations)),
        pictures={
            "sensitivity": sensitivity[0],
            **{name: by_k[budgets[1]][0] for name, by_k in chosen.items()},
        },
        settings={},
    )


def _selections() -> dict[str, Callable[[Tensor, Tensor, int, Generator], Tensor]]:
    least = {LEAST: lambda _, sensitivity, k, __: sensitivity.sort(stable=True).indices[:, :k]}
    return {name: SELECTIONS[known].select for name, known in METHODS.items()} | least


def _estimates(projector: nn.Module, tokens: Tensor, generator: Generator) -> dict[int, Tensor]:
    """Compare sampled sensitivity with the norm of the Jacobian that automatic differentiation gives; mean of several draws."""
    jacobian = torch.func.vmap(torch.func.jacrev(projector))(tokens.flatten(0, 1))
    exact = jacobian.flatten(1).norm(dim=1).view(tokens.shape[:2])

    def correlations(number: int) -> list[float]:
        sampled = mlp_sensitivity(tokens, *mlp_weights(projector), num_directions=number, generator=generator)
        return [spearmanr(*pair).statistic for pair in zip(sampled, exact, strict=True)]

    return {
        number: torch.tensor([correlations(number) for _ in range(_DRAWS)]).mean(0) for number in DIRECTIONS
    }


@torch.enable_grad()
def _relevance(reader: DigitsReader, projected: Tensor) -> Float[Tensor, "images tokens"]:
    """|gradient · token| of the log-probability of the likeliest class."""
    projected = projected.detach().requires_grad_()
    said = reader.read(projected).log_softmax(-1).amax(-1).sum()
    (gradient,) = torch.autograd.grad(said, projected)
    return (gradient * projected.detach()).sum(-1).abs()
