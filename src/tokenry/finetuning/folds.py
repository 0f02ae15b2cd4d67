"""Folds: a split of the data by samples, so that every token can be scored by a model that has not seen its sample.

fold = rank of the sample's hash, modulo the number of folds: equal samples share a fold
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenry.core.errors import UserError, require_at_least
from tokenry.finetuning.nll_cache import IndexedSample


@dataclass(frozen=True)
class Folds:
    """How the data is split, and how long the models of the folds are trained.

    Args:
        count: number of folds, at least 2.
        epochs: training of all folds' models together, in epochs of the data.
    """

    count: int = 2
    epochs: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(2, folds=self.count)
        if not self.epochs > 0:
            raise UserError(
                f"the models of the folds must be trained for more than 0 epochs, got {self.epochs}."
            )


def assign_folds(samples: Sequence[IndexedSample], folds: Folds) -> list[int]:
    """The fold of every sample, in their order; it depends on the set of samples and not on their order."""
    seed = folds.seed.to_bytes(8, "little", signed=True)
    shuffled = sorted(
        {sample.key for sample in samples}, key=lambda key: hashlib.blake2b(seed + key).digest()
    )
    if len(shuffled) < folds.count:
        raise UserError(
            f"the training data has {len(shuffled)} different samples, too few for {folds.count} folds: give more data or fewer folds."
        )
    place = {key: number % folds.count for number, key in enumerate(shuffled)}
    return [place[sample.key] for sample in samples]


def scored_out_of_fold(
    samples: Sequence[IndexedSample],
    folds: Folds,
    trained_on: Callable[[Sequence[IndexedSample]], AbstractContextManager[None]],
    nll: Callable[[Sequence[IndexedSample]], Tensor],
) -> Tensor:
    """Score every fold with a model that was trained on the others.

    Args:
        trained_on: trains the base model on the samples that it is given; it is that model inside the context.
        nll: the loss of all tokens of the training set under the current model, nan outside the samples that it is given.
    """
    assigned = assign_folds(samples, folds)
    score = torch.tensor(float("nan"))
    for fold in range(folds.count):
        inside = [sample for sample, other in zip(samples, assigned, strict=True) if other == fold]
        outside = [sample for sample, other in zip(samples, assigned, strict=True) if other != fold]
        with trained_on(sorted(outside, key=lambda sample: sample.key)):
            of_fold = nll(inside)
        score = torch.where(of_fold.isnan(), score, of_fold)
    return score
