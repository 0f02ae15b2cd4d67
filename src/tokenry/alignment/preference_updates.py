"""What can be done about gradient entanglement: other multipliers, a normalised update, and masks of tokens.

    repaired       the smallest change of d_w and d_l after which both log-probabilities move as wanted:
                   ⟨g_w, g_l⟩ / |g_w|²  ≤  d_w / d_l  ≤  |g_l|² / ⟨g_w, g_l⟩
    normalised     d_w / d_l = |g_l| / |g_w|: the update is along g_w / |g_w| − g_l / |g_l|, always as wanted by Cauchy-Schwarz
    sparse         −log s(β (Σ m_w a_w − Σ m_l a_l)) + λ (|m_w| + |m_l|), with a the log-ratios of tokens and m masks in [0, 1]

The paper outlines the last two; their scale here is ours. The repair is ours.

Source: A Common Pitfall of Margin-based Language Model Alignment: Gradient Entanglement (arXiv 2410.13828).
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from tokenry.alignment.entanglement import BothGradients, PairGradients, gathered, trained_parameters
from tokenry.alignment.preference_pairs import Batch, PreferencePair, pairs_in
from tokenry.core.errors import UserError, require_above_zero, require_at_least
from tokenry.core.tensors.modes import evaluation_mode

PairMultipliers = tuple[Float[Tensor, "pairs"], Float[Tensor, "pairs"]]
"""d_w and d_l of each pair."""


def repaired_multipliers(
    gradients: PairGradients, d_w: Float[Tensor, "pairs"], d_l: Float[Tensor, "pairs"]
) -> PairMultipliers:
    """The multipliers nearest to (d_w, d_l) with which both log-probabilities of a pair move as wanted, or not at all.

    The wanted multipliers form a cone between two ratios, which is never empty; what is outside is projected onto its nearer edge.
    A multiplier that is not positive (IPO past its target) means to move the other way: such pairs are left as they are.
    """
    inner = gradients.inner
    lowest = inner / gradients.norm_w**2
    highest = gradients.norm_l**2 / inner
    ratio = d_w / d_l
    edge = torch.where(ratio < lowest, lowest, highest)
    outside = (inner > 0) & (d_w > 0) & (d_l > 0) & ((ratio < lowest) | (ratio > highest))
    projected = (edge * d_w + d_l) / (edge**2 + 1)
    return torch.where(outside, edge * projected, d_w), torch.where(outside, projected, d_l)


def normalised_multipliers(
    gradients: PairGradients, d_w: Float[Tensor, "pairs"], d_l: Float[Tensor, "pairs"]
) -> PairMultipliers:
    """Multipliers in the ratio |g_l| / |g_w|, as strong as the mean of (d_w, d_l): d √(|g_l| / |g_w|) and d √(|g_w| / |g_l|).

    Where a gradient is zero, both are 0.
    """
    strength = (d_w + d_l) / 2
    root = (gradients.norm_l / gradients.norm_w).sqrt()
    usable = (gradients.norm_w > 0) & (gradients.norm_l > 0)
    return torch.where(usable, strength * root, 0.0), torch.where(usable, strength / root, 0.0)


UPDATES = {"plain": None, "normalised": normalised_multipliers, "repaired": repaired_multipliers}
"""What is done to the multipliers of a loss, by name."""


def normalised_preference_update(
    model: nn.Module,
    batch: Batch | Sequence[PreferencePair],
    scale: float | int | Sequence[float | int] = 1.0,
    parameters: Iterable[nn.Parameter] | None = None,
) -> PairGradients:
    """Add the normalised update of pairs to the gradients of the parameters, averaged over the pairs; an optimiser then makes it.

    Each pair adds −scale · √(|g_w| |g_l|) · (g_w / |g_w| − g_l / |g_l|). Two backward passes per pair.

    Args:
        model: a causal language model.
        batch: pairs, or a batch of them.
        scale: multiplier whose strength is kept, such as DPO's, one for all or one per pair.
        parameters: what is trained; by default all that require gradients.

    Raises:
        UserError: no trainable parameter, or a log-probability that is not finite.
    """
    trained = trained_parameters(model, parameters)
    pairs = list(pairs_in(batch) if isinstance(batch, Mapping) else batch)
    scales = torch.as_tensor(scale, dtype=torch.float64).expand(len(pairs))
    with evaluation_mode(model):
        found = [
            _add_update(
                BothGradients(model, pair, trained), trained, float(strength) / len(pairs), pair.is_equal
            )
            for pair, strength in zip(pairs, scales, strict=True)
        ]
    return gathered(found)


def _add_update(
    both: BothGradients, trained: Sequence[nn.Parameter], scale: float, is_equal: bool
) -> Float[Tensor, "5"]:
    products = both.products()
    norm_w, norm_l = float(products[3]), float(products[4])
    if is_equal or not norm_w * norm_l > 0:
        warnings.warn("a pair has equal responses, or no gradient: nothing is learned from it.", stacklevel=4)
        return products
    root = (norm_l / norm_w) ** 0.5
    for parameter, won, lost in zip(trained, both.chosen, both.rejected, strict=True):
        step = scale / root * lost - scale * root * won
        parameter.grad = step if parameter.grad is None else parameter.grad + step
    return products


def sparse_preference_loss(
    logratio_w: Float[Tensor, "*batch chosen"],
    mask_w: Bool[Tensor, "*batch chosen"] | None,
    logratio_l: Float[Tensor, "*batch rejected"],
    mask_l: Bool[Tensor, "*batch rejected"] | None,
    m_w: Float[Tensor, "*batch chosen"],
    m_l: Float[Tensor, "*batch rejected"],
    beta: float | int = 0.1,
    sparsity: float | int = 0.01,
) -> Float[Tensor, "*batch"]:
    """The loss of masked responses; with masks of 1 and no sparsity it is DPO's.

    Args:
        logratio_w: log π − log ref of each token of the chosen response.
        mask_w: which of them are real tokens; None for all.
        logratio_l: log-ratios of the rejected response.
        mask_l: which of them are real tokens.
        m_w: what each chosen token counts, in [0, 1]; learned by a small head, or `contrastive_tokens`.
        m_l: what each rejected token counts.
        beta: β.
        sparsity: λ, the price of a token that counts.

    Raises:
        UserError: beta is not above 0, sparsity is below 0, or a mask leaves [0, 1].
    """
    require_above_zero(beta=beta)
    require_at_least(0, sparsity=sparsity)
    for mask in (m_w, m_l):
        if not bool(((mask >= 0) & (mask <= 1)).all()):
            raise UserError("masks must be in [0, 1]: pass what a head gives through a sigmoid.")
    real_w = m_w if mask_w is None else m_w * mask_w
    real_l = m_l if mask_l is None else m_l * mask_l
    margin = (real_w * logratio_w).sum(-1) - (real_l * logratio_l).sum(-1)
    return -logsigmoid(beta * margin) + sparsity * (real_w.sum(-1) + real_l.sum(-1))


def contrastive_tokens(
    cosine: Float[Tensor, "chosen rejected"], threshold: float | int
) -> tuple[Bool[Tensor, "chosen"], Bool[Tensor, "rejected"]]:
    """The tokens whose gradient has a cosine of at most `threshold` with that of every token of the other response."""
    if not -1 <= threshold <= 1:
        raise UserError(f"the threshold of a cosine must be in [-1, 1], got {threshold}.")
    shared = cosine > threshold
    return ~shared.any(1), ~shared.any(0)
