"""Dataset weights: learn from each token with the weight that the data gives it.

The data carries a column `weight` (a float per sample) or `token_weights` (a float per token, aligned to `input_ids`).
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from tokenry.core.tensors.signals import Signals
from tokenry.finetuning.weighing import WEIGHINGS, GivenWeights


@WEIGHINGS.register("dataset-weights")
@dataclass(frozen=True, kw_only=True)
class DatasetWeights(GivenWeights):
    """Weigh tokens by the column `weight` or `token_weights` of the data."""

    @property
    def needs(self) -> frozenset[str]:
        """The weights in the data."""
        return frozenset({"dataset_weight"})

    def given(self, signals: Signals) -> Float[Tensor, "batch seq"]:
        """The weights of the data."""
        return signals["dataset_weight"]
