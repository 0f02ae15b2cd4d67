"""TokenCleaning: before training, keep the tokens that a reference model predicts better than the base model.

Source: Token Cleaning: Fine-Grained Data Selection for LLM Supervised Fine-Tuning (arXiv 2502.01968).

    score = base_nll − reference_nll
    kept  = the int(share · N) highest scores of the whole data set (`scope="sample"`: of each sample, where int can give 0)

In the self-evolving form, `self_evolving_cleaning`, the reference improves together with the data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.core.errors import UserError, require_one_of
from tokenry.core.tensors.choices import Rounding, top_share
from tokenry.core.tensors.signals import Signals
from tokenry.finetuning.weighing import WEIGHINGS, Scope, TokenWeighing


def token_cleaning_labels(
    labels: Sequence[Sequence[int]],
    base_nll: Sequence[Sequence[float]],
    reference_nll: Sequence[Sequence[float]],
    share: float,
    scope: Scope = "dataset",
) -> list[list[int]]:
    """Keep the labels of the response tokens with the highest base − reference NLL; the others become -100.

    Args:
        labels: one list per sample, -100 where nothing is learned.
        base_nll: NLL of every token under the base model, in nats.
        reference_nll: NLL of every token under the reference model, in nats.
        share: fraction of the response tokens, in (0, 1].
        scope: rank over the whole `dataset`, or within each `sample`.

    Source: TokenCleaning, fixed-model cleaning.
    """
    require_one_of(scope, ("dataset", "sample"), "scope")
    for name, losses in (("base", base_nll), ("reference", reference_nll)):
        if len(losses) != len(labels):
            raise UserError(
                f"there are labels of {len(labels)} samples but {name} losses of {len(losses)}: were they computed on other data?"
            )
        for number, (row, values) in enumerate(zip(labels, losses, strict=True)):
            if len(row) != len(values):
                raise UserError(
                    f"sample {number} has {len(row)} labels but {len(values)} {name} losses: were they computed on other data?"
                )
    flat = torch.tensor([list(chain.from_iterable(labels))], dtype=torch.long)
    score = torch.tensor([list(chain.from_iterable(base_nll))], dtype=torch.float64) - torch.tensor(
        [list(chain.from_iterable(reference_nll))], dtype=torch.float64
    )
    lengths = torch.tensor([len(row) for row in labels], dtype=torch.long)
    sample = torch.arange(len(labels)).repeat_interleave(lengths)[None]
    groups = sample if scope == "sample" else None
    kept = top_share(score, flat != -100, share, groups, rounding="floor")
    cleaned = iter(torch.where(kept, flat, -100)[0].tolist())
    return [[next(cleaned) for _ in row] for row in labels]


@WEIGHINGS.register("token-cleaning")
@dataclass(frozen=True, kw_only=True)
class TokenCleaning(TokenWeighing):
    """Select once, before training, by the difference of two fixed models.

    Args:
        reference: path or name of the reference model; None if it is passed to the trainer (`reference_model=`).
    """

    scope: Scope = "dataset"
    rounding: Rounding = "floor"
    reference: str | None = None

    @property
    def reference_model(self) -> str | None:
        """The reference named in the options."""
        return self.reference

    @property
    def needs(self) -> frozenset[str]:
        """The losses of both models."""
        return frozenset({"base_nll", "reference_nll"})

    def score(self, signals: Signals) -> Float[Tensor, "batch seq"]:
        """How much better the reference predicts the token."""
        return signals["base_nll"] - signals["reference_nll"]
