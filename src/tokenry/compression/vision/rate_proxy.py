"""A learnable count of kept tokens: a distribution over candidate counts, and a hard mask with its gradient.

    kept           = ceil(sum_k candidate_k · rho_k) + special tokens,   rho = softmax(logits)
    survival[i]    = sum of rho over the candidates that keep position i
    mask[i]        = i < kept, with the gradient of survival[i]          (straight-through, as is that of ceil)

Positions are those of tokens sorted by importance, special tokens first.

Source: DiffRate (arXiv 2305.17997), differentiable discrete proxy. Equally spaced candidates make survival a running sum of rho that
is read once per position, so backward is one scatter-add and one running sum, whatever the number of candidates.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokenry.core.errors import UserError, require_at_least


class RateProxy(nn.Module):
    """How many tokens one layer keeps, as something to learn.

    Attributes:
        logits: one per candidate, 0 at first.
        candidates: counts of patches, descending from all of them in steps of `granularity`; never 0.
    """

    candidates: Int[Tensor, "candidates"]
    _candidate_at: Int[Tensor, "tokens"]

    def __init__(self, num_patches: int, granularity: int = 1, special_tokens: int = 1) -> None:
        """Make a proxy of which all candidates are equally likely.

        Args:
            num_patches: tokens to choose from.
            granularity: step between candidates; above `num_patches`, "all" is the only candidate.
            special_tokens: leading tokens that always stay (class, distillation, registers) and are counted in `kept`.

        Raises:
            UserError: a number is too small.
        """
        super().__init__()
        if num_patches < 1:
            raise UserError(
                f"num_patches must be at least 1, got {num_patches}: without patches there is no candidate count to choose."
            )
        if granularity < 1:
            raise UserError(
                f"granularity must be at least 1, got {granularity}: it is the step between counts of kept tokens."
            )
        require_at_least(0, special_tokens=special_tokens)
        candidates = torch.arange(num_patches, 0, -granularity)
        position = torch.arange(num_patches + special_tokens)
        # The smallest candidate that keeps a position; all larger ones, before it in the list, keep it too.
        smallest = ((num_patches + special_tokens - 1 - position) // granularity).clamp(
            max=len(candidates) - 1
        )
        self.special_tokens = special_tokens
        self.logits = nn.Parameter(torch.zeros(len(candidates)))
        self.register_buffer("candidates", candidates, persistent=False)
        self.register_buffer("_candidate_at", smallest, persistent=False)

    def probabilities(self) -> Float[Tensor, "candidates"]:
        """How likely each candidate is (rho).

        Raises:
            UserError: a logit is not finite.
        """
        if not bool(self.logits.isfinite().all()):
            raise UserError(
                "the logits of a RateProxy must be finite, got nan or inf: the search diverged, start again with a smaller lr."
            )
        return self.logits.softmax(dim=0)

    def kept(self) -> Float[Tensor, ""]:
        """Tokens that stay, special ones included: a whole number with the gradient rho_k (candidate_k - expected)."""
        return self._kept(self.probabilities())

    def survival(self) -> Float[Tensor, "tokens"]:
        """Probability that each sorted position stays; 1 for all that the smallest candidate keeps."""
        return self._survival(self.probabilities())

    def mask(self, num_alive: int | None = None) -> Float[Tensor, "tokens"]:
        """1 for kept positions and 0 for dropped ones, with the gradient of `survival`.

        Args:
            num_alive: how many tokens are still there. Positions from there on are 1: a product with the mask so far leaves them
                dead, and lets none of their gradient reach this proxy. None means all.
        """
        probabilities = self.probabilities()
        survival = self._survival(probabilities)
        hard = torch.ones_like(survival)
        hard[int(self._kept(probabilities.detach())) : num_alive] = 0
        return hard + (survival - survival.detach())

    def _kept(self, probabilities: Tensor) -> Tensor:
        expected = probabilities @ self.candidates.to(probabilities.dtype)
        # In this order the difference is exactly 0, so the count stays a whole number.
        return expected.detach().ceil() + self.special_tokens + (expected - expected.detach())

    def _survival(self, probabilities: Tensor) -> Tensor:
        return probabilities.cumsum(0)[self._candidate_at]
