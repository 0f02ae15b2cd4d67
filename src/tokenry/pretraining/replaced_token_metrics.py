"""How well generator and discriminator do: counts that add up over batches and processes, and the figures that follow from them.

ELECTRA (arXiv 2003.10555), the figures that the released code logs. A token is taken for replaced where its logit is above 0.

    AUC     share of the pairs of a replaced and an original token in which the replaced one has the higher logit
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_BINS, _PER_UNIT = 200, 10  # of logits from −10 to 10
_SUMS = ("generator_loss", "slots", "generator_accuracy", "sampled_accuracy", "discriminator_loss", "tokens")
COUNTS = len(_SUMS) + 2 * _BINS
"""Number of counts."""


def count(
    nll: Float[Tensor, "slots"],
    guessed: Float[Tensor, "slots"],
    right: Tensor,
    losses: Float[Tensor, "batch seq"],
    disc_logits: Float[Tensor, "batch seq"],
    labels: Int[Tensor, "batch seq"],
    real: Tensor,
) -> Float[Tensor, "counts"]:
    """Count one batch.

    Args:
        nll: of the masked tokens, in nats.
        guessed: 1 where the generator's best token is the true one.
        right: whether the sampled token is the true one.
        losses: of the discriminator, 0 where none is taken.
        disc_logits: of the discriminator.
        labels: 1 for replaced tokens.
        real: 1 for the tokens that the discriminator learns from.
    """
    sums = [nll.sum(), nll.new_tensor(len(nll)), guessed.sum(), right.sum(), losses.sum(), real.sum()]
    judged = real.bool()
    bins = (disc_logits[judged].float() * _PER_UNIT).ceil().long() + _BINS // 2 - 1
    bins = bins.clamp(0, _BINS - 1) + _BINS * labels[judged]
    histogram = torch.bincount(bins, minlength=2 * _BINS)
    return torch.cat([torch.stack([each.float() for each in sums]), histogram.float()]).detach()


def figures(counts: Float[Tensor, "counts"]) -> dict[str, float]:
    """The figures of what was counted; nan where there is nothing to divide by.

    Returns:
        Losses in nats per token, and shares: `generator_accuracy` of the masked tokens whose best guess is right, `sampled_accuracy` of
        those whose sample is, `replaced` of all tokens, and `auc`, `accuracy`, `precision` and `recall` of the discriminator.
    """
    sums = dict(zip(_SUMS, counts.tolist(), strict=False))
    original, replaced = counts[len(_SUMS) :].double().cpu().reshape(2, _BINS)
    above = slice(_BINS // 2, None)
    found, alarms = float(replaced[above].sum()), float(original[above].sum())
    positives, negatives = float(replaced.sum()), float(original.sum())
    below = original.cumsum(0) - original / 2
    return {
        "generator_loss": _ratio(sums["generator_loss"], sums["slots"]),
        "generator_accuracy": _ratio(sums["generator_accuracy"], sums["slots"]),
        "sampled_accuracy": _ratio(sums["sampled_accuracy"], sums["slots"]),
        "discriminator_loss": _ratio(sums["discriminator_loss"], sums["tokens"]),
        "replaced": _ratio(positives, positives + negatives),
        "auc": _ratio(float((replaced * below).sum()), positives * negatives),
        "accuracy": _ratio(found + negatives - alarms, positives + negatives),
        "precision": _ratio(found, found + alarms),
        "recall": _ratio(found, positives),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
