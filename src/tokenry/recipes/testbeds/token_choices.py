"""Which visual tokens a method keeps, and what comes of it: what the testbeds of ZOO-Prune measure, and how runs are combined."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

RANDOM, DIVPRUNE, SENSITIVE, ZOO, LEAST = (
    "random",
    "DivPrune",
    "most sensitive",
    "ZOO-Prune",
    "least sensitive",
)
METHODS: Mapping[str, str] = {RANDOM: "random", DIVPRUNE: "divprune", SENSITIVE: "sensitivity", ZOO: "zoo"}
"""Names of `tokenry.compression.vision.visual_tokens.METHODS`."""
DIRECTIONS = (1, 4, 16, 64)


@dataclass(frozen=True)
class Choice:
    """What a method chose at one budget, and what came of it.

    Everything is the mean over the views of an object: a digit seen at several places, or a question.

    Attributes:
        right: share of its views that are answered right, in percent.
        sensitivity: mean over the kept tokens, relative to the mean over all tokens.
        spacing: smallest cosine distance between two kept tokens.
    """

    right: Float[Tensor, "objects"]
    sensitivity: Float[Tensor, "objects"]
    spacing: Float[Tensor, "objects"]


@dataclass(frozen=True)
class ChoiceTrial:
    """The measurements of a testbed.

    Attributes:
        unpruned: as `Choice.right`, with all tokens.
        estimates: rank correlation of sampled sensitivity with the exact one, by directions.
        relevance: rank correlation of sensitivity with first-order relevance, nan where either is constant.
        pictures: one image, the sensitivity of its tokens, and the tokens kept by each method.
    """

    unpruned: Float[Tensor, "objects"]
    choices: Mapping[str, Mapping[int, Choice]]
    estimates: Mapping[int, Float[Tensor, "objects"]]
    relevance: Float[Tensor, "objects"]
    pictures: Mapping[str, Tensor]
    settings: Mapping[str, Any]


def gathered(tokens: Tensor, kept: Tensor) -> Tensor:
    """The kept tokens."""
    return tokens.gather(1, kept[..., None].expand(*kept.shape, tokens.shape[-1]))


def relative_sensitivity(sensitivity: Tensor, kept: Tensor) -> Float[Tensor, "images"]:
    """Mean over the kept tokens, over the mean of all."""
    return sensitivity.gather(1, kept).mean(1) / sensitivity.mean(1)


def spacing(kept: Float[Tensor, "images kept dim"]) -> Float[Tensor, "images"]:
    """Smallest cosine distance between two of a few kept tokens."""
    directions = torch.nn.functional.normalize(kept, dim=-1)
    similarity = directions @ directions.mT
    similarity.diagonal(dim1=-2, dim2=-1).fill_(float("-inf"))
    return 1 - similarity.flatten(1).amax(1)


def combined(runs: Sequence[ChoiceTrial], combine: Callable[[list[Tensor]], Tensor]) -> ChoiceTrial:
    """Combine the measurements of several runs or objects, figure by figure."""

    def choice(method: str, k: int) -> Choice:
        choices = [run.choices[method][k] for run in runs]
        return Choice(
            combine([choice.right for choice in choices]),
            combine([choice.sensitivity for choice in choices]),
            combine([choice.spacing for choice in choices]),
        )

    first = runs[0]
    return ChoiceTrial(
        unpruned=combine([run.unpruned for run in runs]),
        choices={name: {k: choice(name, k) for k in by_k} for name, by_k in first.choices.items()},
        estimates={m: combine([run.estimates[m] for run in runs]) for m in first.estimates},
        relevance=combine([run.relevance for run in runs]),
        pictures={},
        settings={},
    )


def mlp_weights(projector: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """First weight and bias, and second weight, of a projector of two layers."""
    first, _, second = projector.children()
    weights = dict(first.named_parameters())
    return weights["weight"], weights["bias"], dict(second.named_parameters())["weight"]
