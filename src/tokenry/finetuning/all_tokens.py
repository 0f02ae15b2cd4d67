"""All tokens: plain supervised fine-tuning, the baseline every selection is compared with.

weights = 1 for every learnable token, so the loss and its gradients are those of TRL's `SFTTrainer`.
"""

from dataclasses import dataclass

from tokenry.finetuning.weighing import WEIGHINGS, TokenWeighing


@WEIGHINGS.register("full")
@dataclass(frozen=True, kw_only=True)
class AllTokens(TokenWeighing):
    """Learn from every learnable token."""

    share: float = 1.0
