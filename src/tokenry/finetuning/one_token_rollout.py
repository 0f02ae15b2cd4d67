"""One-token rollout: every response token is a one-step reinforcement-learning problem, at the price of plain fine-tuning.

At each position the model π draws tokens a from its own distribution, flattened to π' = softmax(logits / temperature). A draw earns 1 if
it is the token of the data and `beta` < 1 if not, and π takes a policy-gradient step, without importance weights:

    loss(token x) = −E_{a ~ π'} [ R(a) log π(a) ] = −[ (1 − beta) π'(x) log π(x) + beta Σ_v π'(v) log π(v) ]

The expectation is exact by default: no draws, no variance, one pass over the vocabulary more. With `samples` it is the mean over so many
draws, as published. Rewards and π' carry no gradient, so with c(v) = E[R(a) 1(a = v)] and C = Σ c the gradient is closed:

    ∂loss/∂logits(v) = C π(v) − c(v)

The weight that the token of the data itself gets, (1 − beta) π'(x), is recorded: improbable tokens are all but ignored.

Source: One-Token Rollout (arXiv 2509.26313); the exact expectation, `anchor` and `centred` are ours.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.core.errors import UserError, require_above_zero, require_at_least, require_fraction
from tokenry.core.tensors.alignment import IGNORED, at_tokens
from tokenry.core.tensors.logit_losses import loss_of_logits
from tokenry.core.tensors.row_losses import RowLoss, RowLosses
from tokenry.core.tensors.signals import Signals
from tokenry.finetuning.weighing import WEIGHINGS, GivenWeights

# The passes over a block of logits stay in the processor's cache; a GPU takes a chunk as a whole.
_BLOCK_ELEMENTS = 1 << 19
# Stands for −inf where it meets a probability of 0: their product is 0 and not NaN.
_LOWEST = -1e30


@dataclass(frozen=True)
class Rollout:
    """The one-token rollout of single rows of logits; a `RowLoss`.

    Attributes:
        samples: draws per row; None for the expectation.
        beta: reward of a draw that is not the target.
        temperature: of the distribution that is drawn from.
        anchor: share of plain cross-entropy in the loss.
        centred: whether the mean reward is subtracted from the rewards.
    """

    samples: int | None = None
    beta: float | int = -0.1
    temperature: float | int = 1.3
    anchor: float | int = 0.0
    centred: bool = False

    def __call__(
        self, logits: Float[Tensor, "rows vocabulary"], targets: Int[Tensor, "rows"], *, entropy: bool = True
    ) -> RowLosses:
        """Return the loss of each row, and overwrite `logits` with its gradient."""
        scratch = logits.new_empty(3, min(len(logits), _rows_of_block(logits)), logits.shape[1])
        blocks = [
            self.of_block(logits[block], targets[block], scratch=scratch)[0] for block in _blocks(logits)
        ]
        loss, nll, is_best, entropies, weight = (
            torch.cat(values)
            for values in zip(
                *((rows.loss, rows.nll, rows.is_best, rows.entropy, rows.weight) for rows in blocks),
                strict=True,
            )
        )
        return RowLosses(loss, nll, is_best, entropies, weight=weight)

    def of_block(
        self,
        logits: Float[Tensor, "rows vocabulary"],
        targets: Int[Tensor, "rows"],
        draws: Int[Tensor, "rows samples"] | None = None,
        scratch: Float[Tensor, "3 block vocabulary"] | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[RowLosses, Int[Tensor, "rows"]]:
        """The losses of a few rows, and how many draws hit the target (0 in the exact form).

        `scratch` is memory that is overwritten: new memory for every block would cost as much as a pass over it.
        """
        policy, flat, product = (
            logits.new_empty(3, *logits.shape) if scratch is None else scratch[:, : len(logits)]
        )
        at_target = targets[:, None]
        logits -= logits.amax(-1, keepdim=True)
        logits.clamp_(min=_LOWEST)
        of_target = logits.gather(-1, at_target)[:, 0]
        torch.exp(logits, out=policy)
        normaliser = policy.sum(-1)
        log_normaliser = normaliser.log()
        entropy = log_normaliser - torch.mul(policy, logits, out=product).sum(-1) / normaliser
        log_target = of_target - log_normaliser

        torch.mul(logits, 1 / self.temperature, out=flat).exp_()
        flat_normaliser = flat.sum(-1)
        flat_target = flat.gather(-1, at_target)[:, 0] / flat_normaliser
        hits = torch.zeros_like(targets)
        if self.samples is None and draws is None:
            mean_log = torch.mul(flat, logits, out=product).sum(-1) / flat_normaliser - log_normaliser
            drawn, drawn_normaliser, hit_share = flat, flat_normaliser, flat_target
        else:
            draws = _draw(flat, self.samples or 1, generator) if draws is None else draws
            mean_log = logits.gather(-1, draws).mean(-1) - log_normaliser
            share = torch.full(draws.shape, 1 / draws.shape[1], dtype=logits.dtype, device=logits.device)
            drawn = product.zero_().scatter_add_(-1, draws, share)
            drawn_normaliser = torch.ones_like(flat_normaliser)
            hits = (draws == at_target).sum(-1)
            hit_share = drawn.gather(-1, at_target)[:, 0]

        # Rewards are `other` for every draw, and 1 − beta more for a hit.
        baseline = hit_share + self.beta * (1 - hit_share) if self.centred else 0.0
        other = (1 - self.anchor) * (self.beta - baseline) * torch.ones_like(hit_share)
        of_hit = (1 - self.anchor) * (1 - self.beta) * hit_share + self.anchor
        loss = -(of_hit * log_target + other * mean_log)

        torch.mul(policy, ((other + of_hit) / normaliser)[:, None], out=logits)
        logits.addcmul_(drawn, (other / drawn_normaliser)[:, None], value=-1)
        logits.scatter_add_(-1, at_target, -of_hit[:, None])
        weight = (1 - self.anchor) * (1 - self.beta) * flat_target + self.anchor
        return RowLosses(loss, -log_target, of_target == 0, entropy, weight=weight), hits


def _blocks(logits: Tensor) -> Iterator[slice]:
    size = _rows_of_block(logits)
    return (slice(start, start + size) for start in range(0, max(1, len(logits)), size))


def _rows_of_block(logits: Tensor) -> int:
    return max(1, _BLOCK_ELEMENTS // logits.shape[1] if logits.is_cpu else len(logits))


def _draw(
    probabilities: Float[Tensor, "rows vocabulary"], samples: int, generator: torch.Generator | None = None
) -> Int[Tensor, "rows samples"]:
    """Draw tokens with replacement: a uniform number falls into the interval of its token."""
    ends = probabilities.cumsum(-1)
    uniform = torch.rand(
        probabilities.shape[0], samples, dtype=ends.dtype, device=ends.device, generator=generator
    )
    # The last interval that is not empty ends the row, whatever rounding did to the sum.
    last = probabilities.shape[1] - 1 - probabilities.flip(-1).gt(0).int().argmax(-1, keepdim=True)
    return torch.searchsorted(ends, uniform * ends[:, -1:], right=True).minimum(last)


@WEIGHINGS.register("otr")
@dataclass(frozen=True, kw_only=True)
class OneTokenRollout(GivenWeights):
    """Learn every response token by a one-token rollout.

    Args:
        samples: draws per token, 256 in the paper; None for the exact expectation.
        beta: reward of a token that is not that of the data, below 1; slightly negative values sharpen the distribution.
        temperature: flattens the distribution that tokens are drawn from.
        anchor: share of plain cross-entropy, in [0, 1]: keeps improbable tokens learnable.
        centred: subtract the mean reward of the position.
    """

    samples: int | None = None
    beta: float = -0.1
    temperature: float = 1.3
    anchor: float = 0.0
    centred: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(1, samples=self.samples)
        require_fraction(self.anchor, "anchor")
        if not -math.inf < self.beta < 1:
            raise UserError(
                f"beta must be finite and below 1, got {self.beta}: otherwise a draw that misses earns no less than a hit."
            )
        require_above_zero(temperature=self.temperature)

    @property
    def row_loss(self) -> RowLoss:
        """The rollout of each row."""
        return Rollout(self.samples, self.beta, self.temperature, self.anchor, self.centred)

    def given(self, signals: Signals) -> Float[Tensor, "batch seq"]:
        """1: what a token weighs follows from the rollout."""
        return torch.ones(signals.labels.shape)


class RolloutTokens(NamedTuple):
    """What a rollout says about each token; 0 where nothing is learned.

    Attributes:
        hits: draws that were the token of the data (0 in the exact form).
        target_probability: π of the token of the data.
        weight: (1 − beta) π' of the token of the data.
    """

    loss: Float[Tensor, "batch seq"]
    hits: Int[Tensor, "batch seq"]
    target_probability: Float[Tensor, "batch seq"]
    weight: Float[Tensor, "batch seq"]


def otr_loss(
    logits: Float[Tensor, "batch seq vocabulary"],
    labels: Int[Tensor, "batch seq"],
    num_samples: int = 256,
    beta: float | int = -0.1,
    temperature: float | int = 1.3,
    exact: bool = False,
    reduction: str = "token",
    generator: torch.Generator | None = None,
    samples: Int[Tensor, "batch predicting draws"] | None = None,
) -> tuple[Float[Tensor, ""], RolloutTokens]:
    """The one-token rollout of a batch of logits, for custom training loops.

    Args:
        logits: of the model; columns may be −inf.
        labels: the tokens of the data, −100 where nothing is learned.
        num_samples: draws per token.
        beta: reward of a draw that is not the token of the data.
        temperature: flattens the distribution that is drawn from.
        exact: take the expectation instead of draws.
        reduction: `token`: mean over all tokens. `sequence`: mean over sequences of the mean over their tokens.
        generator: of the draws; None is torch's own.
        samples: the draws themselves; those at position t are for the token at t + 1.

    Raises:
        UserError: what `loss_of_logits` and `OneTokenRollout` refuse, and samples that do not fit the logits.
    """
    if samples is not None:
        _check_samples(samples, labels, logits.shape[-1])
    weighing = OneTokenRollout(samples=None if exact else num_samples, beta=beta, temperature=temperature)
    rollout = Rollout(weighing.samples, weighing.beta, weighing.temperature)
    hits = labels.new_zeros(0)

    def of_rows(rows: Tensor, targets: Tensor) -> RowLosses:
        nonlocal hits
        learned = labels[:, 1:] != IGNORED
        values, hits = rollout.of_block(
            rows, targets, None if exact or samples is None else samples[learned], generator=generator
        )
        return values

    loss = loss_of_logits(logits, labels, of_rows, reduction)
    assert loss.rows.weight is not None
    columns = (loss.rows.loss, hits, (-loss.rows.nll).exp(), loss.rows.weight)
    return loss.mean, RolloutTokens(*(at_tokens(column, loss.tokens, fill=0.0) for column in columns))


def _check_samples(samples: Tensor, labels: Int[Tensor, "batch seq"], vocabulary: int) -> None:
    rows, predicting = labels.shape[0], labels.shape[1] - 1
    if samples.dim() != 3 or samples.shape[:2] != (rows, predicting) or not samples.shape[2]:
        raise UserError(
            f"samples have shape {tuple(samples.shape)}: give one draw or more for each of the {predicting} predicting positions "
            f"of the {rows} rows, ({rows}, {predicting}, draws)."
        )
    if samples.numel() and not 0 <= int(samples.min()) <= int(samples.max()) < vocabulary:
        raise UserError(
            f"samples must be tokens from 0 to {vocabulary - 1}, got {int(samples.min())} to {int(samples.max())}."
        )
