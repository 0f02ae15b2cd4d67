"""RHO-1: learn from the tokens on which the model is furthest behind a reference model.

Source: Rho-1: Not All Tokens Are What You Need (arXiv 2404.07965), selective language modelling.

    excess = nll − reference_nll
    kept   = the max(1, floor(share · N)) highest excess losses of the batch
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.core.errors import UserError
from tokenry.core.tensors.choices import Rounding, top_share
from tokenry.core.tensors.signals import Signals
from tokenry.finetuning.weighing import WEIGHINGS, Scope, TokenWeighing


def excess_loss(
    nll: Float[Tensor, "batch seq"], reference_nll: Float[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq"]:
    """Compute current − reference NLL in nats: how far the model is behind the reference.

    Source: RHO-1, excess loss.
    """
    return nll - reference_nll


def rho1_mask(
    nll: Float[Tensor, "batch seq"],
    reference_nll: Float[Tensor, "batch seq"],
    learnable: Bool[Tensor, "batch seq"],
    share: float,
    segments: Int[Tensor, "batch seq"] | None = None,
) -> Bool[Tensor, "batch seq"]:
    """Keep the max(1, int(share · N)) highest excess losses of a whole batch, or with `segments` of each sample.

    Source: RHO-1, selective language modelling.
    """
    return top_share(
        excess_loss(nll, reference_nll), learnable, share, segments, rounding="floor_at_least_one"
    )


@WEIGHINGS.register("rho1")
@dataclass(frozen=True, kw_only=True)
class Rho1(TokenWeighing):
    """Select by excess loss against a reference model trained on clean data.

    Args:
        reference: path or name of the reference model; None if it is passed to the trainer (`reference_model=`).
    """

    scope: Scope = "batch"
    rounding: Rounding = "floor_at_least_one"
    reference: str | None = None

    def __post_init__(self) -> None:
        if self.scope == "dataset":
            raise UserError(
                "Rho1 ranks with the model in training: scope must be batch or sample, got 'dataset'."
            )
        super().__post_init__()

    @property
    def reference_model(self) -> str | None:
        """The reference named in the options."""
        return self.reference

    @property
    def needs(self) -> frozenset[str]:
        """The current and the reference loss."""
        return frozenset({"nll", "reference_nll"})

    def score(self, signals: Signals) -> Float[Tensor, "batch seq"]:
        """The excess loss."""
        return excess_loss(signals["nll"], signals["reference_nll"])
