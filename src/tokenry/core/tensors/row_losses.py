"""Row losses: what is minimised at one row of logits, in closed form, so that no graph over the vocabulary is needed.

A row loss is given a chunk of logits and their targets. It returns the loss of every row and overwrites the logits with ∂loss/∂logits:

    cross-entropy   loss = nll = logsumexp(logits) − logits[target]      ∂loss/∂logits = softmax(logits) − onehot(target)

`tokenry.core.tensors.chunked_loss` carries the gradient on to hidden states and head, whatever the row loss is.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class RowLosses(NamedTuple):
    """Losses of a chunk of rows, and what their logits say.

    Attributes:
        nll: −log p(target) in nats.
        is_best: whether no token has a higher logit than the target.
        entropy: of the predicted distribution in nats; None where it was not asked for.
        slope: c of each row where ∂loss/∂logits = c · ∂nll/∂logits, c > 0: the entropy then follows from the gradient of the hidden
            state and is not asked for. None for a gradient in another direction.
        weight: of the target's own NLL in the loss; None where it is 1.
    """

    loss: Float[Tensor, "rows"]
    nll: Float[Tensor, "rows"]
    is_best: Bool[Tensor, "rows"]
    entropy: Float[Tensor, "rows"] | None = None
    slope: Float[Tensor, "rows"] | float | None = None
    weight: Float[Tensor, "rows"] | None = None


@runtime_checkable
class RowLoss(Protocol):
    """A loss of single rows of logits, with its gradient in closed form."""

    def __call__(
        self, logits: Float[Tensor, "rows vocabulary"], targets: Int[Tensor, "rows"], *, entropy: bool
    ) -> RowLosses:
        """Return the loss of each row, and overwrite `logits` with its gradient.

        Called without a graph. Where the head is no plain matrix it is called again for the same chunk in the backward: what it draws
        must then come from the global generator, whose state is restored.

        Args:
            logits: of one chunk, in float32 or float64; columns may be −inf.
            entropy: whether the entropy is needed; without `slope` it always is.
        """
        ...


def cross_entropy(
    logits: Float[Tensor, "rows vocabulary"], targets: Int[Tensor, "rows"], *, entropy: bool
) -> RowLosses:
    """The negative log-likelihood of the targets; a `RowLoss`."""
    nll, is_best, normaliser = normalise(logits, targets)
    logits /= normaliser[:, None]
    entropies = torch.special.entr(logits).sum(-1) if entropy else None
    logits[torch.arange(logits.shape[0], device=logits.device), targets] -= 1
    return RowLosses(nll, nll, is_best, entropies, slope=1.0)


def normalise(
    logits: Float[Tensor, "rows vocabulary"], targets: Int[Tensor, "rows"]
) -> tuple[Float[Tensor, "rows"], Bool[Tensor, "rows"], Float[Tensor, "rows"]]:
    """Overwrite logits with exp(logits − their maximum); return NLL, whether the target has the highest logit, and the sums of the rows."""
    logits -= logits.amax(-1, keepdim=True)
    of_target = logits.gather(-1, targets[:, None])[:, 0]
    normaliser = logits.exp_().sum(-1)
    return normaliser.log() - of_target, of_target == 0, normaliser
