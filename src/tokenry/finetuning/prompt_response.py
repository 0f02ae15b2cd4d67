"""Prompt and response weights: learn from the prompt too, with its own weight.

weights = `prompt` on prompt tokens, `response` on response tokens.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.core.errors import UserError
from tokenry.core.tensors.signals import Signals
from tokenry.finetuning.weighing import WEIGHINGS, GivenWeights


@WEIGHINGS.register("prompt-response-weights")
@dataclass(frozen=True, kw_only=True)
class PromptResponseWeights(GivenWeights):
    """Weigh prompt and response tokens independently.

    Args:
        prompt: weight of prompt tokens, 0 or more.
        response: weight of response tokens, 0 or more.
    """

    prompt: float = 0.1
    response: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("prompt", self.prompt), ("response", self.response)):
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"the weight of {name} tokens must be 0 or more, got {value}.")
        if self.prompt == self.response == 0:
            raise UserError("prompt and response cannot both weigh 0: nothing would be learned.")
        super().__post_init__()

    @property
    def needs(self) -> frozenset[str]:
        """Which tokens are response."""
        return frozenset({"response"})

    @property
    def learns_from_prompt(self) -> bool:
        """Prompt tokens are targets."""
        return True

    def given(self, signals: Signals) -> Float[Tensor, "batch seq"]:
        """One of the two weights."""
        return torch.where(signals["response"] > 0, self.response, self.prompt)
