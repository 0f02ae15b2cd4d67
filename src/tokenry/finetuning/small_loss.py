"""Small loss: after a first full epoch, learn from the tokens with the lowest current loss.

The small-loss rule of learning with noisy labels (a model fits clean labels before noisy ones), applied to tokens:

    score = −nll, optionally averaged over a window of neighbouring tokens
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from tokenry.core.tensors.choices import require_window, window_mean
from tokenry.core.tensors.signals import Signals
from tokenry.finetuning.weighing import WEIGHINGS, TokenWeighing


@WEIGHINGS.register("small-loss")
@dataclass(frozen=True, kw_only=True)
class SmallLoss(TokenWeighing):
    """Select the tokens that the model already predicts well: noise keeps a high loss.

    Args:
        window: number of neighbouring tokens to average the loss over (odd; 1 = no averaging).
    """

    dropped_weight: float = 0.1
    warmup_epochs: float = 1.0
    window: int = 1

    def __post_init__(self) -> None:
        require_window(self.window)
        super().__post_init__()

    @property
    def needs(self) -> frozenset[str]:
        """The current loss."""
        return frozenset({"nll"})

    def score(self, signals: Signals) -> Float[Tensor, "batch seq"]:
        """The negative loss, smoothed over `window` tokens."""
        nll = signals["nll"]
        return -(
            nll if self.window == 1 else window_mean(nll, signals.learnable, signals.segments, self.window)
        )
