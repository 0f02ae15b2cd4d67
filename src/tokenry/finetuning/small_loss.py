"""Small loss: after a first full epoch, learn from the tokens with the lowest current loss.

The small-loss rule of learning with noisy labels (a model fits clean labels before noisy ones), applied to tokens:

    score = −nll, optionally averaged over a window of neighbouring tokens
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from tokenry.core.errors import UserError
from tokenry.core.tensors.choices import window_mean
from tokenry.core.tensors.signals import Signals
from tokenry.finetuning.weighing import WEIGHINGS, TokenWeighing


@WEIGHINGS.register("small-loss")
@dataclass(frozen=True, kw_only=True)
class SmallLoss(TokenWeighing):
    """Select the tokens that the model already predicts well, and so drop what looks like noise.

    Args:
        window: average the loss over this many neighbouring tokens (odd; 1 = not at all).
    """

    dropped_weight: float = 0.1
    warmup_epochs: float = 1.0
    window: int = 1

    def __post_init__(self) -> None:
        if self.window < 1 or self.window % 2 == 0:
            raise UserError(f"window must be a positive odd number of tokens, got {self.window}.")
        super().__post_init__()

    @property
    def needs(self) -> frozenset[str]:
        """The current loss."""
        return frozenset({"nll"})

    def score(self, signals: Signals) -> Float[Tensor, "batch seq"]:
        """The negative loss, smoothed where asked."""
        nll = signals["nll"]
        return -(
            nll if self.window == 1 else window_mean(nll, signals.learnable, signals.segments, self.window)
        )
