"""Token credit: how much each token of a sampled response is to blame or to thank for the reward.

A credit rule answers up to four questions about the tokens of a generation; what it does not answer stays as it is in GRPO:

    advantages      A(row, token), instead of one number per response
    clip_range      ε_low and ε_high per token, instead of two constants
    redistribute    A once more, from the current ratio π / π_old of each token
    temperature     a factor on the sampling temperature, from the distribution that is about to be sampled

`parts` names the answers that a rule gives. The last three read entropies: `entropy_signal` turns those of one optimisation batch (all
its micro-batches on all ranks) into a number per token, `entropy_statistics` keeps of a generation what the next one's sampling needs.

Everything here is pure tensor code without a trainer, so it serves any loop that takes advantages of shape (batch, seq).
"""

import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenry.core.errors import UserError
from tokenry.core.io.descriptions import describe, split_descriptions
from tokenry.core.io.registry import Registry

CREDITS: "Registry[TokenCredit]" = Registry(
    "credit rule", "tokenry.alignment", first=("grpo", "tempo", "hapo")
)
"""The credit rules by name; a rule registers itself in its own file."""

Part = Literal["advantages", "clip_range", "redistribute", "temperature"]
READS_RATIO: frozenset[Part] = frozenset({"clip_range", "redistribute"})
"""The parts that act only where the policy has moved since it generated."""
READS_ENTROPY: frozenset[Part] = READS_RATIO | {"temperature"}
"""The parts that read the entropy of the policy's distribution at each token."""


@dataclass(frozen=True)
class Rollouts:
    """The responses of a whole generation, on all ranks.

    Attributes:
        ids: right-padded token ids of the responses (rows, tokens).
        mask: whether a token belongs to the response (rows, tokens); the results of tools do.
        rewards: reward of each response (rows,).
        groups: which prompt each response answers (rows,); rows of a group need not be adjacent.
        learned: whether a token was written by the policy (rows, tokens); `mask` without the results of tools. None for `mask`.
    """

    ids: Tensor
    mask: Tensor
    rewards: Tensor
    groups: Tensor
    learned: Tensor | None = None

    def __post_init__(self) -> None:
        rows = self.ids.shape[0]
        if rows == 0:
            raise UserError("there are no rollouts: a credit rule needs at least one response.")
        if self.ids.dim() != 2:
            raise UserError(f"ids must have the shape (rows, tokens), got {tuple(self.ids.shape)}.")
        if self.ids.is_floating_point():
            raise UserError(f"ids must be whole numbers, got {self.ids.dtype}.")
        for name, values in (("mask", self.mask), ("learned", self.learned)):
            if values is not None and values.shape != self.ids.shape:
                raise UserError(
                    f"{name} must have the shape of ids, {tuple(self.ids.shape)}, got {tuple(values.shape)}."
                )
        for name, values in (("rewards", self.rewards), ("groups", self.groups)):
            if tuple(values.shape) != (rows,):
                raise UserError(
                    f"{name} must hold one number for each of the {rows} responses, got the shape {tuple(values.shape)}."
                )
        unusable = (~torch.isfinite(self.rewards)).nonzero()
        if len(unusable):
            row = int(unusable[0])
            raise UserError(
                f"the reward of row {row} is {float(self.rewards[row])}: rewards must be finite numbers."
            )

    @property
    def of_response(self) -> Bool[Tensor, "rows tokens"]:
        """Whether a token belongs to the response, tool results included."""
        return self.mask.bool()

    @property
    def of_policy(self) -> Bool[Tensor, "rows tokens"]:
        """Whether a token is learned from."""
        return self.of_response if self.learned is None else self.learned.bool() & self.of_response

    @property
    def scores(self) -> Float[Tensor, "rows"]:
        """The rewards as floating-point numbers of at least 32 bits."""
        return self.rewards if self.rewards.dtype == torch.float64 else self.rewards.float()

    @property
    def group_index(self) -> tuple[Tensor, int]:
        """The groups numbered from 0, row by row, and the number of groups."""
        known, index = torch.unique(self.groups, return_inverse=True)
        return index, len(known)


@dataclass(frozen=True, kw_only=True)
class TokenCredit:
    """Base of all credit rules: subclass it, name `parts` and write their methods. The base itself is GRPO."""

    @property
    def parts(self) -> frozenset[Part]:
        """What the rule decides itself; the rest stays as in GRPO."""
        return frozenset()

    def advantages(self, rollouts: Rollouts) -> Float[Tensor, "rows tokens"]:
        """The advantage of every token, 0 where nothing is learned."""
        raise NotImplementedError(f"{type(self).__name__} must define `advantages`.")

    def entropy_signal(
        self, entropies: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"]
    ) -> Float[Tensor, "rows tokens"]:
        """The signal h that `clip_range` and `redistribute` read, from the entropies of one optimisation batch on all ranks."""
        raise NotImplementedError(f"{type(self).__name__} must define `entropy_signal`.")

    def clip_range(
        self, h: Float[Tensor, "rows tokens"], low: float | Tensor, high: float | Tensor
    ) -> tuple[Float[Tensor, "rows tokens"], Float[Tensor, "rows tokens"]]:
        """The clip range of every token, from the trainer's own."""
        raise NotImplementedError(f"{type(self).__name__} must define `clip_range`.")

    def redistribute(
        self,
        advantages: Float[Tensor, "rows tokens"],
        ratio: Float[Tensor, "rows tokens"],
        h: Float[Tensor, "rows tokens"],
        low: float | Tensor,
        high: float | Tensor,
    ) -> Float[Tensor, "rows tokens"]:
        """The advantages of one micro-batch, given the current ratio π / π_old and the clip range in force."""
        raise NotImplementedError(f"{type(self).__name__} must define `redistribute`.")

    def entropy_statistics(
        self, entropies: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"]
    ) -> Any:
        """What `temperature` needs to know of the entropies of the previous generation, on all ranks."""
        raise NotImplementedError(f"{type(self).__name__} must define `entropy_statistics`.")

    def temperature(self, logits: Float[Tensor, "rows vocabulary"], statistics: Any) -> Float[Tensor, "rows"]:
        """The factor on the sampling temperature of each row, from its raw logits and `entropy_statistics`."""
        raise NotImplementedError(f"{type(self).__name__} must define `temperature`.")

    def report(self, rollouts: Rollouts) -> dict[str, float]:
        """What the rule says about a generation, by the name of a metric."""
        return {}

    def describe(self) -> str:
        """Name the rule with every option that differs from its default."""
        return describe(self)


class GroupStatistics(NamedTuple):
    """What a group says about each of its rows.

    Attributes:
        centred: reward minus the mean of the group, exactly 0 where all rewards are equal.
        deviation: sample standard deviation of the group's rewards, 0 in a group of one.
        size: responses of the group.
    """

    centred: Float[Tensor, "rows"]
    deviation: Float[Tensor, "rows"]
    size: Float[Tensor, "rows"]


def group_statistics(rollouts: Rollouts) -> GroupStatistics:
    """Centre the rewards of each group."""
    rewards, (index, number) = rollouts.scores, rollouts.group_index
    size = torch.bincount(index, minlength=number).to(rewards)
    # Above the lowest reward of the group, so that equal rewards have a mean that is exactly theirs.
    above = rewards - rewards.new_full((number,), torch.inf).scatter_reduce(0, index, rewards, "amin")[index]
    centred = above - (rewards.new_zeros(number).index_add_(0, index, above) / size)[index]
    squares = rewards.new_zeros(number).index_add_(0, index, centred.square())
    return GroupStatistics(centred, (squares / (size - 1).clamp(min=1)).sqrt()[index], size[index])


def group_advantages(
    rollouts: Rollouts, scale: Literal["group", "batch", "none"] = "group", eps: float = 1e-4
) -> Float[Tensor, "rows"]:
    """The advantages of GRPO: reward minus the mean of the group, over the sample standard deviation plus `eps`.

    A group with a single response says nothing: its advantage is 0.
    """
    centred, deviation, _ = group_statistics(rollouts)
    if scale == "none":
        return centred
    if scale == "batch":
        return centred / (rollouts.scores.std() + eps) if len(centred) > 1 else centred
    return centred / (deviation + eps)


@CREDITS.register("grpo")
@dataclass(frozen=True, kw_only=True)
class GroupCredit(TokenCredit):
    """GRPO, the control: every token of a response has the advantage of the response.

    It decides nothing itself: a trainer keeps its own advantages, and its own options of scaling. Elsewhere `advantages` gives those that
    TRL has by default.
    """

    def advantages(self, rollouts: Rollouts) -> Float[Tensor, "rows tokens"]:
        """The advantage of the response at every token that is learned from."""
        return group_advantages(rollouts)[:, None] * rollouts.of_policy


@dataclass(frozen=True, kw_only=True)
class MixedCredit(TokenCredit):
    """Several rules as one: each part comes from the first rule that has it.

    Args:
        credits: the rules. Where one sets the clip range, no other may redistribute: both read one `entropy_signal`.
    """

    credits: tuple[TokenCredit, ...]

    def __post_init__(self) -> None:
        clip, redistribute = self._of("clip_range"), self._of("redistribute")
        if clip and redistribute and clip is not redistribute:
            raise UserError(
                f"{clip.describe()} sets the clip range and {redistribute.describe()} redistributes: both must read the entropy "
                "of one rule, so leave one of the two parts out."
            )

    @property
    def parts(self) -> frozenset[Part]:
        """The parts of all rules."""
        return frozenset().union(*(credit.parts for credit in self.credits))

    def advantages(self, rollouts: Rollouts) -> Float[Tensor, "rows tokens"]:
        """The advantages of the first rule that has its own, else of the first rule."""
        return (self._of("advantages") or self.credits[0]).advantages(rollouts)

    def entropy_signal(self, entropies: Tensor, mask: Tensor) -> Tensor:
        """The signal of the rule that reads one."""
        return self._having("clip_range", "redistribute").entropy_signal(entropies, mask)

    def clip_range(self, h: Tensor, low: float | Tensor, high: float | Tensor) -> tuple[Tensor, Tensor]:
        """The clip range of the first rule that sets one."""
        return self._having("clip_range").clip_range(h, low, high)

    def redistribute(
        self, advantages: Tensor, ratio: Tensor, h: Tensor, low: float | Tensor, high: float | Tensor
    ) -> Tensor:
        """The advantages as the first rule that redistributes leaves them."""
        return self._having("redistribute").redistribute(advantages, ratio, h, low, high)

    def entropy_statistics(self, entropies: Tensor, mask: Tensor) -> Any:
        """The statistics of the first rule with a temperature."""
        return self._having("temperature").entropy_statistics(entropies, mask)

    def temperature(self, logits: Tensor, statistics: Any) -> Tensor:
        """The factor of the first rule with a temperature."""
        return self._having("temperature").temperature(logits, statistics)

    def report(self, rollouts: Rollouts) -> dict[str, float]:
        """What all rules say."""
        return {name: value for credit in self.credits for name, value in credit.report(rollouts).items()}

    def describe(self) -> str:
        """The rules in their order."""
        return " + ".join(credit.describe() for credit in self.credits)

    def _of(self, part: Part) -> TokenCredit | None:
        return next((credit for credit in self.credits if part in credit.parts), None)

    def _having(self, *parts: Part) -> TokenCredit:
        return next(credit for credit in map(self._of, parts) if credit)


# A plus before a digit belongs to a number: tau=1e+0
_PLUS = re.compile(r"\+(?=[a-z])")


def make_credit(description: str) -> TokenCredit:
    """Make a credit rule from `name:option=value,...`, or a mix of several: `tempo+hapo:tau=0.1` (a comma mixes too).

    Raises:
        UserError: no such rule or option (the nearest is suggested), or two rules that do not go together.
    """
    credits = [CREDITS.make(rule) for rule in split_descriptions(_PLUS.sub(",", description))]
    if not credits:
        raise UserError(f"no credit rule is named; there are {', '.join(CREDITS)}.")
    return credits[0] if len(credits) == 1 else MixedCredit(credits=tuple(credits))
