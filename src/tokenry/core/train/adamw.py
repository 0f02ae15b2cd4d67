"""The optimiser of a training, as options."""

from dataclasses import dataclass

from tokenry.core.errors import UserError, require_above_zero


@dataclass(frozen=True)
class AdamWSettings:
    """AdamW, and the limit on what it is given.

    Attributes:
        beta1: decay rate of the first moment.
        beta2: decay rate of the second moment.
        epsilon: added to the root of the second moment.
        weight_decay: weight decay of matrices; biases and norms have none.
        max_gradient_norm: largest norm of the gradients; longer ones are scaled down to it.
    """

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    max_gradient_norm: float = 0.1

    def __post_init__(self) -> None:
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise UserError(f"beta1 and beta2 must be in [0, 1), got {self.beta1} and {self.beta2}.")
        require_above_zero(epsilon=self.epsilon, max_gradient_norm=self.max_gradient_norm)
        if self.weight_decay < 0:
            raise UserError(f"weight_decay must be 0 or more, got {self.weight_decay}.")
