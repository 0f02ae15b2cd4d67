"""The optimiser of the released ELECTRA: Adam without bias correction, and a warm-up times a straight fall.

google-research/electra, 8a46635 (model/optimization.py).

    m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²        w ← w − lr · (m / (√v + ε) + weight_decay · w)
    lr(step) = lr · (1 − step / total) · min(1, step / warmup)

By its numbers, the update of a step reads the rate of the next one: its graph has counted the step by then.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from tokenry.core.errors import UserError, require_at_least


def official_lr(step: int, lr: float, total: int, warmup: int) -> float:
    """The learning rate of a step, from 0; the first is 0 where there is a warm-up."""
    require_at_least(1, total=total)
    require_at_least(0, warmup=warmup)
    return lr * (1 - min(step, total) / total) * min(1.0, step / warmup if warmup else 1.0)


class ElectraAdamW(Optimizer):
    """AdamW without bias correction.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: decay rates of the moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled weight decay; that of biases and norms is for a group of their own to leave out.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 5e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1):
            raise UserError(f"betas must be in [0, 1), got {betas}.")
        require_at_least(0, lr=lr, eps=eps, weight_decay=weight_decay)
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step with all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._step(weights, group)
        return loss

    def _step(self, weights: list[torch.Tensor], group: dict[str, Any]) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight] = {name: torch.zeros_like(weight) for name in ("mean", "square")}
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        means, squares = ([self.state[weight][name] for weight in weights] for name in ("mean", "square"))
        (beta1, beta2), lr = group["betas"], group["lr"]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
        torch._foreach_addcdiv_(weights, means, roots, -lr)
