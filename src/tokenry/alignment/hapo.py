"""HAPO, heterogeneous adaptive policy optimisation: the entropy of each token steers four stages of reinforcement learning.

    h(token)             signed entropy in [−1, 1]: log H over its pivot (the 80 % quantile), scaled by the extremes on either side
    temperature          T (1 + tau h) while sampling, with the statistics of the generation before
    advantage            (reward − mean) / std over the tokens of the group, so that the advantages of a group's tokens sum to 0
    clip range           epsilon_low (1 − alpha h) where h <= 0, epsilon_high (1 + alpha h) where h > 0
    redistribution       A (1 + beta h) outside the neutral zone 1 − epsilon_low / 2 < ratio < 1 + epsilon_high / 2 where h > 0, and
                         inside it where h <= 0

Uncertain tokens explore more and may grow further; certain tokens are sampled cooler, learn less on policy, and may be pushed down
further. The four parts are independent. The loss is TRL's own, whose `delta` is the dual clip.

Source: From Uniform to Heterogeneous (arXiv 2509.16591). The released code has |h| in the place of h (`entropy_sign="released"`), so its
branches for low entropy never act; the paper describes the signed form, the default here.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from tokenry.alignment.credit import CREDITS, GroupCredit, Part, Rollouts, TokenCredit
from tokenry.core.errors import UserError, require_at_least, require_fraction, require_one_of
from tokenry.core.tensors.output_head import accumulation_dtype

ENTROPY_SIGNS = ("signed", "released")

_LEAST_ENTROPY, _LEAST_SAMPLED_ENTROPY = 1e-8, 1e-6
_LEAST = 1e-8  # of the variance around the pivot, and of either extreme
_EPSILON = 1e-6


class EntropyStats(NamedTuple):
    """What the entropies of a batch of tokens are measured by.

    Attributes:
        pivot: log-entropy at which h is 0.
        std: root mean square distance of the log-entropies from the pivot.
        scale_pos: 1 / the largest distance above the pivot, in units of `std`.
        scale_neg: 1 / the largest distance below it.
    """

    pivot: Float[Tensor, ""]
    std: Float[Tensor, ""]
    scale_pos: Float[Tensor, ""]
    scale_neg: Float[Tensor, ""]


def entropy_stats(
    entropy: Float[Tensor, "rows seq"], mask: Shaped[Tensor, "mask_rows mask_seq"], pivot: float | int = 0.8
) -> EntropyStats:
    """Take the statistics over all valid tokens at once.

    Args:
        entropy: of the next-token distribution, in nats.
        mask: where a token is valid.
        pivot: the quantile of the log-entropies at which h is 0; nearest rank, no interpolation.

    Raises:
        UserError: no valid token, or an entropy that is not a number (its place is named).
    """
    require_fraction(pivot, "pivot")
    if mask.shape != entropy.shape:
        raise UserError(
            f"the mask must have the shape of the entropies, {tuple(entropy.shape)}, got {tuple(mask.shape)}."
        )
    valid = mask.bool()
    if not bool(valid.any()):
        raise UserError("the mask holds no token: entropy statistics need at least one token of a response.")
    _require_numbers(entropy, valid)
    logs = _log(entropy[valid], _LEAST_ENTROPY)
    centre = logs.sort().values[round(pivot * (len(logs) - 1))]
    distance = logs - centre
    std = distance.square().mean().clamp(min=_LEAST).sqrt()
    z = distance / std
    return EntropyStats(centre, std, 1 / z.max().clamp(min=_LEAST), 1 / (-z.min()).clamp(min=_LEAST))


def _require_numbers(entropy: Tensor, valid: Tensor) -> None:
    wrong = (valid & ~entropy.isfinite()).nonzero()
    if len(wrong):
        row, token = wrong[0].tolist()
        raise UserError(
            f"the entropy of row {row}, token {token} is not a number: the training has diverged; try a lower learning rate."
        )


def normalised_entropy(
    entropy: Float[Tensor, "*tokens"], stats: EntropyStats, entropy_sign: str = "signed"
) -> Float[Tensor, "*tokens"]:
    """The signal h of each token, in [−1, 1] and 0 at the pivot; in [0, 1] where `entropy_sign` is `released`."""
    logs = _log(entropy, _LEAST_ENTROPY)
    return _signed((logs - stats.pivot) / stats.std, stats, entropy_sign)


def _log(entropy: Tensor, least: float) -> Tensor:
    return entropy.to(accumulation_dtype(entropy.dtype)).clamp(min=least).log()


def _signed(z: Tensor, stats: EntropyStats, entropy_sign: str) -> Tensor:
    require_one_of(entropy_sign, ENTROPY_SIGNS, "entropy_sign")
    h = (z * torch.where(z > 0, stats.scale_pos, stats.scale_neg)).clamp(-1, 1)
    return h.abs() if entropy_sign == "released" else h


def sampling_temperature(
    logits: Float[Tensor, "*rows vocabulary"],
    stats: EntropyStats,
    tau: float | int = 0.05,
    entropy_sign: str = "signed",
) -> Float[Tensor, "*rows"]:
    """The factor 1 + tau h by which raw logits are divided while sampling.

    Raises:
        UserError: logits that are not numbers (the row is named), or a tau outside [0, 1).
    """
    _require_tau(tau)
    entropy = torch.special.entr(logits.to(accumulation_dtype(logits.dtype)).softmax(-1)).sum(-1)
    wrong = entropy.isnan().nonzero()
    if len(wrong):
        raise UserError(
            f"the logits of row {wrong[0].tolist()} are not numbers: the training has diverged; try a lower learning rate."
        )
    logs = _log(entropy, _LEAST_SAMPLED_ENTROPY)
    return 1 + tau * _signed((logs - stats.pivot) / (stats.std + _EPSILON), stats, entropy_sign)


def _require_tau(tau: float | int) -> None:
    require_at_least(0, tau=tau)
    if not tau < 1:
        raise UserError(
            f"tau must be below 1, got {tau}: the most certain tokens would be sampled at temperature 0."
        )


def token_level_group_advantage(
    rewards: Shaped[Tensor, "responses"],
    mask: Shaped[Tensor, "rows seq"],
    group_ids: Int[Tensor, "rows"],
    scale: bool = True,
    cap: float | int = 5.0,
) -> Float[Tensor, "rows seq"]:
    """Measure each reward against the mean over all tokens of its group, so that a group's advantages sum to 0.

    A response of many tokens has many votes in the mean, as it has in a loss that is a mean over tokens.

    Args:
        rewards: one number for each response, whole or not.
        mask: where a token is valid.
        group_ids: the prompt that each response answers.
        scale: whether advantages are divided by the standard deviation over the same tokens.
        cap: a group in which an advantage is this large takes the mean (and the deviation) over its responses instead.

    Raises:
        UserError: rewards that are not finite, or shapes that do not fit.
    """
    valid = mask.bool()
    scores = Rollouts(valid.int(), valid, rewards, group_ids).scores
    length, reward = valid.sum(-1, dtype=torch.int32).double(), scores.double()
    ids, group = group_ids.unique(return_inverse=True)
    # Above the lowest reward of the group, so that equal rewards have a mean that is exactly theirs.
    reward = reward - reward.new_full((len(ids),), torch.inf).scatter_reduce(0, group, reward, "amin")[group]

    def per_row(values: Tensor) -> Tensor:
        """The sum over each group, for each of its rows."""
        return values.new_zeros(len(ids)).index_add_(0, group, values)[group]

    def centred(weight: Tensor, freedom: Tensor) -> Tensor:
        distance = reward - per_row(weight * reward) / per_row(weight).clamp(min=1)
        if not scale:
            return distance
        variance = per_row(weight * distance.square()) / freedom.clamp(min=1)
        return distance / (variance.sqrt() + _EPSILON)

    one = torch.ones_like(length)
    by_token = centred(length, per_row(length))
    exceeds = ((by_token.abs() >= cap) & (length > 0)).double()
    advantage = torch.where(per_row(exceeds) > 0, centred(one, per_row(one) - 1), by_token)
    return torch.where(valid, advantage.to(scores.dtype)[:, None], 0.0)


def adaptive_clip_range(
    h: Float[Tensor, "rows seq"],
    low: Float[Tensor, "rows seq"] | float | int = 0.2,
    high: Float[Tensor, "rows seq"] | float | int = 0.2,
    alpha: float | int = 1.0,
) -> tuple[Float[Tensor, "rows seq"], Float[Tensor, "rows seq"]]:
    """How far below and above 1 the ratio of each token may move: certain tokens further down, uncertain ones further up."""
    require_fraction(alpha, "alpha")
    return low * (1 + alpha * (-h).clamp(min=0)), high * (1 + alpha * h.clamp(min=0))


def redistribute_advantage(
    advantages: Float[Tensor, "rows seq"],
    h: Float[Tensor, "rows seq"],
    ratio: Float[Tensor, "rows seq"],
    low: Float[Tensor, "rows seq"] | float | int,
    high: Float[Tensor, "rows seq"] | float | int,
    beta: float | int = 1.0,
) -> Float[Tensor, "rows seq"]:
    """Give uncertain tokens more where the policy has moved, and certain tokens less where it has not.

    Args:
        h: its signed entropy.
        ratio: probability under the current policy over that when it was sampled.
        low: how far below 1 the ratio is clipped; the neutral zone reaches half as far.
        high: how far above 1.
        beta: strength, in [0, 1]; 1 silences the most certain token inside the neutral zone.
    """
    require_fraction(beta, "beta")
    inside = (ratio > 1 - low / 2) & (ratio < 1 + high / 2)
    return torch.where((h > 0) != inside, advantages * (1 + beta * h), advantages)


@CREDITS.register("hapo")
@dataclass(frozen=True, kw_only=True)
class HeterogeneousCredit(TokenCredit):
    """Steer advantages, clip ranges and sampling temperature of each token by its entropy.

    Args:
        token_average: measure rewards against the mean over the tokens of the group.
        adaptive_clip: widen the clip range of certain tokens downwards, of uncertain ones upwards.
        adaptive_advantage: redistribute advantages by entropy and ratio.
        adaptive_temperature: sample uncertain tokens hotter, certain ones cooler.
        pivot: quantile of the log-entropies at which nothing changes.
        tau: strength of the adaptive temperature, below 1; lower it if the training collapses.
        alpha: strength of the adaptive clip range, in [0, 1].
        beta: strength of the redistribution, in [0, 1].
        scale: divide advantages by the standard deviation over the tokens of the group.
        cap: a group with an advantage this large is measured against the mean over its responses.
        entropy_sign: `signed`, or `released`: the absolute value, as in the released code.
    """

    token_average: bool = True
    adaptive_clip: bool = True
    adaptive_advantage: bool = True
    adaptive_temperature: bool = True
    pivot: float = 0.8
    tau: float = 0.05
    alpha: float = 1.0
    beta: float = 1.0
    scale: bool = True
    cap: float = 5.0
    entropy_sign: str = "signed"

    def __post_init__(self) -> None:
        if not self.parts:
            raise UserError(
                "HAPO is given with all four parts turned off: turn one on, or use the credit rule grpo."
            )
        for name in ("pivot", "alpha", "beta"):
            require_fraction(getattr(self, name), name)
        require_at_least(0, cap=self.cap)
        _require_tau(self.tau)
        require_one_of(self.entropy_sign, ENTROPY_SIGNS, "entropy_sign")

    @property
    def parts(self) -> frozenset[Part]:
        """The parts that are turned on."""
        switches: dict[Part, bool] = {
            "advantages": self.token_average,
            "clip_range": self.adaptive_clip,
            "redistribute": self.adaptive_advantage,
            "temperature": self.adaptive_temperature,
        }
        return frozenset(part for part, is_on in switches.items() if is_on)

    def advantages(self, rollouts: Rollouts) -> Float[Tensor, "rows tokens"]:
        """The token-level group average; GRPO's advantages where it is turned off."""
        if not self.token_average:
            return GroupCredit().advantages(rollouts)
        return token_level_group_advantage(
            rollouts.scores, rollouts.of_policy, rollouts.groups, self.scale, self.cap
        )

    def entropy_signal(
        self, entropies: Float[Tensor, "rows tokens"] | None, mask: Shaped[Tensor, "rows tokens"]
    ) -> Float[Tensor, "rows tokens"]:
        """H of each token, 0 where nothing is learned."""
        known = self._required(entropies)
        stats = entropy_stats(known, mask, self.pivot)
        return normalised_entropy(known, stats, self.entropy_sign).where(mask.bool(), 0.0)

    def clip_range(
        self, h: Float[Tensor, "rows tokens"], low: float | int | Tensor, high: float | int | Tensor
    ) -> tuple[Float[Tensor, "rows tokens"], Float[Tensor, "rows tokens"]]:
        """The clip range of each token."""
        return adaptive_clip_range(h, low, high, self.alpha)

    def redistribute(
        self,
        advantages: Float[Tensor, "rows tokens"],
        ratio: Float[Tensor, "rows tokens"],
        h: Float[Tensor, "rows tokens"],
        low: float | int | Tensor,
        high: float | int | Tensor,
    ) -> Float[Tensor, "rows tokens"]:
        """The advantages of one micro-batch, by entropy and by how far the policy has moved."""
        return redistribute_advantage(advantages, h, ratio, low, high, self.beta)

    def entropy_statistics(
        self, entropies: Float[Tensor, "rows tokens"] | None, mask: Shaped[Tensor, "rows tokens"]
    ) -> EntropyStats:
        """The statistics that the next generation is sampled with."""
        return entropy_stats(self._required(entropies), mask, self.pivot)

    def temperature(
        self, logits: Float[Tensor, "rows vocabulary"], statistics: EntropyStats
    ) -> Float[Tensor, "rows"]:
        """The factor on the sampling temperature of each row."""
        return sampling_temperature(logits, statistics, self.tau, self.entropy_sign)

    def _required(self, entropies: Tensor | None) -> Tensor:
        if entropies is None:
            raise UserError(
                f"{self.describe()} reads the entropy of each token and was given none: compute entropies with the old log-probs."
            )
        return entropies
