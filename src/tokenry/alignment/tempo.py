"""TEMPO: the responses to one prompt, read as a prefix tree, say which tokens the reward turns on; no value network, no more rollouts.

The value of a prefix is the mean reward of the responses that begin with it, and a token is credited with what it changes:

    S_i(t)  = responses of the group whose first t tokens are those of response i
    V_i(t)  = mean reward of S_i(t);   V_i(0) is the mean of the group, and V_i(t) = r_i once i is alone
    d_i(t)  = V_i(t + 1) − V_i(t)      the token at index t leads from t tokens seen to t + 1
    A_i(t)  = (r_i − mean + d_i(t)) / (standard deviation of the group's rewards + eps)

So d is 0 except at branching tokens, where a response leaves others of its set: everywhere else this is GRPO. Four responses to one prompt:

    a b c    reward 1        t = 0: all begin with a, V stays 2/4, d = 0
    a b d    reward 1        t = 1: b leaves {a x e, a x f}: V goes from 2/4 to 2/2, d = +0.5; x: d = −0.5
    a x e    reward 0        t = 2: c, d, e and f leave a response of the same reward, d = 0 once more
    a x f    reward 0

S_i(t) are the k whose common prefix with i is at least t long, so the tree is a matrix of common-prefix lengths: each response puts its
reward at that length into a row of the others, and one cumulative sum from the right gives all values.

Source: TEMPO (arXiv 2509.18314), its repository fatebreaker/tempo; `leave_one_out`, `shrinkage` and `td_scale` are ours.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.alignment.credit import CREDITS, Part, Rollouts, TokenCredit, group_statistics
from tokenry.core.errors import require_at_least, require_one_of

_COMPARED_AT_ONCE = 1 << 24


class PrefixTree(NamedTuple):
    """The responses of all groups as prefix trees; index t is after t tokens.

    Attributes:
        values: V_i(t), 0 where the response is over.
        counts: the number of responses in S_i(t), 0 where the response is over.
        branch_mask: whether a token leaves others of its set.
        rollouts: what the tree is of.
    """

    values: Float[Tensor, "rows tokens+1"]
    counts: Int[Tensor, "rows tokens+1"]
    branch_mask: Bool[Tensor, "rows tokens"]
    rollouts: Rollouts

    @property
    def td(self) -> Float[Tensor, "rows tokens"]:
        """d_i(t), 0 where no token branches."""
        return self.values.diff(dim=1) * self.branch_mask


def prefix_tree(rollouts: Rollouts, leave_one_out: bool = False, shrinkage: float = 0.0) -> PrefixTree:
    """Read rollouts as prefix trees.

    Args:
        rollouts: the responses; tool results belong to the prefix of what follows them.
        leave_one_out: leave response i out of V_i, except where it is alone.
        shrinkage: weight, in responses, of the value of the parent in that of a node.
    """
    rewards, (index, number) = rollouts.scores, rollouts.group_index
    steps = torch.arange(1, rollouts.ids.shape[1] + 1, device=rewards.device)
    lengths = torch.cat([(rollouts.of_response * steps), index[:, None] * 0], dim=1).amax(1)
    # Above the lowest reward of the group, so that equal rewards have a mean that is exactly theirs.
    lowest = rewards.new_full((number,), torch.inf).scatter_reduce(0, index, rewards, "amin")[index]
    above = rewards - lowest

    first, second, common = _common_prefixes(rollouts.ids, lengths, index)
    rows = torch.arange(len(rewards), device=rewards.device)
    places = (torch.cat([first, second, rows]), torch.cat([common, common, lengths]))
    members = torch.cat([second, first, rows])
    sums, counts = (
        rewards.new_zeros(len(rewards), len(steps) + 1),
        index.new_zeros(len(rewards), len(steps) + 1),
    )
    sums.index_put_(places, above[members], accumulate=True)
    counts.index_put_(places, torch.ones_like(members), accumulate=True)
    sums, counts = (values.flip(1).cumsum(1).flip(1) for values in (sums, counts))

    others = leave_one_out * (counts > 1)
    weights = counts - others.to(counts)
    values = (sums - others * above[:, None]) / weights.clamp(min=1)
    branch_mask = (counts[:, 1:] < counts[:, :-1]) & (counts[:, 1:] > 0)
    if shrinkage:
        values = _shrunk(values, weights, branch_mask, shrinkage)
    return PrefixTree((values + lowest[:, None]) * (counts > 0), counts, branch_mask, rollouts)


def _common_prefixes(ids: Tensor, lengths: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs of rows of one group, and the number of tokens they have in common from the left."""
    first, second = _pairs(index)
    tokens = torch.arange(ids.shape[1] + 1, device=ids.device)
    # One column more, which always differs, ends the comparison of equal rows.
    ids = torch.nn.functional.pad(ids, (0, 1))
    shorter = torch.minimum(lengths[first], lengths[second])
    size = max(1, _COMPARED_AT_ONCE // len(tokens))
    common = [
        ((ids.index_select(0, one) == ids.index_select(0, other)) & (tokens < length[:, None]))
        .to(torch.uint8)
        .argmin(1)
        for one, other, length in zip(first.split(size), second.split(size), shorter.split(size), strict=True)
    ]
    return first, second, torch.cat(common)


def _pairs(index: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs of rows of one group: each row with those before it."""
    order = index.argsort(stable=True)
    size = torch.bincount(index)
    start = (size.cumsum(0) - size)[index[order]]
    before = torch.arange(len(order), device=order.device) - start
    within = torch.arange(int(before.sum()), device=order.device)
    within -= (before.cumsum(0) - before).repeat_interleave(before)
    return order[start.repeat_interleave(before) + within], order.repeat_interleave(before)


def _shrunk(values: Tensor, weights: Tensor, branch_mask: Tensor, shrinkage: float) -> Tensor:
    """Draw the value of every node towards that of its parent, from the root on."""
    node = torch.nn.functional.pad(branch_mask.cumsum(1), (1, 0))
    last = int(node.max())
    columns = torch.arange(values.shape[1], device=values.device)
    shrunk = values.gather(1, node * 0)
    for depth in range(1, last + 1):
        here = node >= depth
        begin = torch.where(here, columns, len(columns) - 1).amin(1, keepdim=True)
        own, weight = values.gather(1, begin), weights.gather(1, begin)
        # From here on, the value is still that of the parent.
        shrunk = torch.where(here, (weight * own + shrinkage * shrunk) / (weight + shrinkage), shrunk)
    return shrunk


@CREDITS.register("tempo")
@dataclass(frozen=True, kw_only=True)
class Tempo(TokenCredit):
    """Credit of the prefix tree.

    Args:
        scale: divide by the standard deviation of the group's rewards.
        eps: added to the standard deviation.
        td_weight: weight of d; 0 is GRPO.
        td_scale: divide d by the standard deviation of the `rewards`, or by its `own` over the tokens of the group.
        leave_one_out: leave a response out of the values of its own prefixes, which it would otherwise draw to itself.
        shrinkage: weight, in responses, of the parent's value in that of a node: less noise where few responses meet.
    """

    scale: bool = True
    eps: float = 1e-6
    td_weight: float = 1.0
    td_scale: Literal["rewards", "own"] = "rewards"
    leave_one_out: bool = False
    shrinkage: float = 0.0

    def __post_init__(self) -> None:
        require_at_least(0, eps=self.eps, td_weight=self.td_weight, shrinkage=self.shrinkage)
        require_one_of(self.td_scale, ("rewards", "own"), "td_scale")

    @property
    def parts(self) -> frozenset[Part]:
        """Advantages."""
        return frozenset({"advantages"})

    def tree(self, rollouts: Rollouts) -> PrefixTree:
        """The prefix trees behind the advantages."""
        return prefix_tree(rollouts, self.leave_one_out, self.shrinkage)

    def advantages(self, rollouts: Rollouts) -> Float[Tensor, "rows tokens"]:
        """The advantage of the response and of the token, 0 in a group that has one response or equal rewards."""
        return self._advantages(self.tree(rollouts))

    def report(self, rollouts: Rollouts) -> dict[str, float]:
        """How much of the generation the tree says something about."""
        return branch_report(self.tree(rollouts))

    def _advantages(self, tree: PrefixTree) -> Tensor:
        rollouts = tree.rollouts
        centred, deviation, _ = group_statistics(rollouts)
        td = tree.td
        own = _deviation_of(td, rollouts) if self.td_scale == "own" else deviation
        unit = deviation + self.eps if self.scale else torch.ones_like(deviation)
        td_unit = own + self.eps if self.scale or self.td_scale == "own" else unit
        both = centred[:, None] / unit[:, None] + self.td_weight * td / td_unit[:, None]
        return both * rollouts.of_policy


def _deviation_of(td: Tensor, rollouts: Rollouts) -> Tensor:
    """The standard deviation of d over all learned tokens of a row's group."""
    index, number = rollouts.group_index
    learned = rollouts.of_policy
    per_row = torch.stack([learned.sum(1).to(td), (td * learned).sum(1), (td.square() * learned).sum(1)])
    tokens, total, squares = td.new_zeros(3, number).index_add_(1, index, per_row)
    mean = total / tokens.clamp(min=1)
    return (squares / tokens.clamp(min=1) - mean.square()).clamp(min=0).sqrt()[index]


def branch_report(tree: PrefixTree) -> dict[str, float]:
    """How much of a batch has any signal of the tree.

    Returns:
        `branch_share`: learned tokens at which a response leaves others. `depth_alone`: tokens after which a response is alone, in the
        mean over those that ever are (nan if none). `tree_share`: share of the sum of |A| that comes from the tree.
    """
    rollouts = tree.rollouts
    learned = rollouts.of_policy
    alone = tree.counts == 1
    ever = alone.any(1) & (tree.counts[:, 0] > 1)
    depth = alone.to(torch.uint8).argmax(1)[ever]
    centred, deviation, _ = group_statistics(rollouts)
    unit = torch.where(deviation > 0, deviation, 1)[:, None]
    of_tree = (tree.td.abs() / unit * learned).sum()
    of_group = (centred.abs()[:, None] / unit * learned).sum()
    return {
        "branch_share": float((tree.branch_mask & learned).sum() / learned.sum().clamp(min=1)),
        "depth_alone": float(depth.double().mean()),
        "tree_share": float(of_tree / (of_tree + of_group).clamp(min=1e-12)),
    }


def prefix_tree_values(
    completion_ids: Tensor, completion_mask: Tensor, rewards: Tensor, group_ids: Tensor
) -> PrefixTree:
    """The prefix trees of a batch, for custom training loops.

    Args:
        completion_ids: right-padded token ids (rows, tokens).
        completion_mask: 1 at the tokens that are learned from; holes are the results of tools, which belong to the prefix.
        group_ids: which prompt each response answers.
    """
    return prefix_tree(Rollouts(completion_ids, completion_mask, rewards, group_ids))


def tempo_advantages(
    completion_ids: Tensor,
    completion_mask: Tensor,
    rewards: Tensor,
    group_ids: Tensor,
    *,
    scale_rewards: bool = True,
    eps: float = 1e-6,
    td_weight: float | int = 1.0,
    leave_one_out: bool = False,
    shrinkage: float | int = 0.0,
) -> Float[Tensor, "rows tokens"]:
    """The advantages of TEMPO, for custom training loops; arguments as for `prefix_tree_values` and `Tempo`."""
    credit = Tempo(
        scale=scale_rewards,
        eps=eps,
        td_weight=float(td_weight),
        leave_one_out=leave_one_out,
        shrinkage=float(shrinkage),
    )
    return credit.advantages(Rollouts(completion_ids, completion_mask, rewards, group_ids))
