"""Cross-fitted cleaning: learn from the tokens on which training on *other* samples helps.

Ours, after cross-fitting in statistics: TokenCleaning (arXiv 2502.01968) without trusted samples. A token's own training makes noise
look like progress, so progress is measured by models that have not seen the token's sample:

    score = base_nll − out_of_fold_nll          > 0: the rest of the data teaches this token
          (relative: / (base_nll + 0.5), so that large losses do not dominate)
    kept  = the int(share · N) highest scores of the whole data set
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from tokenry.core.errors import require_one_of
from tokenry.core.tensors.choices import Rounding
from tokenry.core.tensors.signals import Signals
from tokenry.finetuning.folds import Folds
from tokenry.finetuning.weighing import WEIGHINGS, Scope, TokenWeighing


@WEIGHINGS.register("cross-fitted")
@dataclass(frozen=True, kw_only=True)
class CrossFitted(TokenWeighing):
    """Select once, before training, by the progress of models that were trained on the other folds.

    Args:
        folds: number of folds, at least 2.
        epochs: training of all folds' models together, in epochs of the data.
        progress: `difference`, or `relative` = the difference / (base_nll + 0.5).
    """

    scope: Scope = "dataset"
    rounding: Rounding = "floor"
    dropped_weight: float = 0.1
    folds: int = 2
    epochs: float = 0.5
    seed: int = 0
    progress: Literal["difference", "relative"] = "difference"

    def __post_init__(self) -> None:
        Folds(self.folds, self.epochs, self.seed)
        require_one_of(self.progress, ("difference", "relative"), "progress")
        super().__post_init__()

    @property
    def cross_fit(self) -> Folds:
        """The split asked for."""
        return Folds(self.folds, self.epochs, self.seed)

    @property
    def needs(self) -> frozenset[str]:
        """The losses of the base and of the models that have not seen the sample."""
        return frozenset({"base_nll", "out_of_fold_nll"})

    def score(self, signals: Signals) -> Float[Tensor, "batch seq"]:
        """How much better the token is predicted after training on other samples."""
        base = signals["base_nll"]
        score = base - signals["out_of_fold_nll"]
        return score / (base + 0.5) if self.progress == "relative" else score
