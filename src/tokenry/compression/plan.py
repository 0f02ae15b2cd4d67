"""The fate of each token where a layer reduces their number: kept in place, merged into a kept one, or dropped.

    merged(x)[j]   = reduce of x over {kept[j]} and the tokens whose target is j
    unmerged(y)[i] = y at the place of token i

Every reduction method ends in such a plan; merging, masks, sources and undoing are shared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from tokenry.compression.precision import precise
from tokenry.core.errors import UserError
from tokenry.core.tensors.choices import top_k_indices

Reduce = Literal["mean", "sum", "amax"]

DROPPED = -1
"""The place of a dropped token."""
EMPTY = -1
"""What is kept at a place where nothing stands."""


@dataclass(frozen=True)
class MergePlan:
    """The tokens of a batch before and after; a token that is neither kept nor merged is dropped.

    Attributes:
        tokens: number of tokens before.
        kept: the token at each place afterwards, `EMPTY` where none stands (where rows of a batch end with different numbers).
        merged: the tokens that are merged into a kept one; a kept token among them, with `DROPPED` as its target, fills up a row.
        target: the place that each of these goes to; several may share one, and `DROPPED` drops the token (where rows of a batch merge
            different numbers).
        ragged: whether a target may be `DROPPED`.
        sparse: whether a place may be `EMPTY`.
    """

    tokens: int
    kept: Int[Tensor, "batch kept"]
    merged: Int[Tensor, "batch merged"]
    target: Int[Tensor, "batch merged"]
    ragged: bool = False
    sparse: bool = False

    @classmethod
    def keep(cls, kept: Int[Tensor, "batch kept"], tokens: int) -> "MergePlan":
        """Keep these tokens in this order and drop the others."""
        none = kept[:, :0]
        return cls(tokens, kept, none, none)

    @classmethod
    def from_groups(cls, group_ids: Int[Tensor, "batch tokens"]) -> "MergePlan":
        """Make one token of each group of neighbours, at the place of its number.

        Example: of rows with the groups (0, 1, 1, 2) and (0, 0, 0, -1), the first has 3 places; the second has 1, and 2 empty ones.

        Args:
            group_ids: group of each token, from 0 in every row, the same or the next one from token to token; -1 drops a token (padding).

        Raises:
            UserError: the groups of a row do not follow each other like that.
        """
        group_ids = group_ids.long()
        start = group_ids.new_full((len(group_ids), 1), DROPPED)
        before = torch.cat([start, group_ids[:, :-1]], dim=1)
        dropped = group_ids == DROPPED
        joins = (group_ids == before) & ~dropped
        begins = (group_ids == before.cummax(dim=1).values + 1) & ~dropped
        known = joins | begins | dropped
        if not bool(known.all()):
            row, token = (~known).nonzero()[0].tolist()
            raise UserError(
                "groups are numbered 0, 1, 2, … from the first token of a text to its last, each of neighbours, with -1 for padding; token "
                f"{token} of row {row} is in group {int(group_ids[row, token])} after {int(before[row, token])}: use group_tokens."
            )
        groups, others = begins.sum(dim=1), (~begins).sum(dim=1)
        width = group_ids.shape[1]
        fewest, places, most = torch.stack([groups.min(), groups.max(), others.max()]).tolist()
        tokens = torch.arange(width, device=group_ids.device).expand_as(group_ids)
        kept = torch.full_like(torch.cat([start, group_ids], dim=1), EMPTY)
        kept.scatter_(1, torch.where(begins, group_ids, width), tokens)
        # The tokens that are not kept stand first; in a row with fewer of them than another, kept ones that go nowhere follow.
        merged = begins.to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        target = torch.where(joins, group_ids, DROPPED).gather(1, merged)
        ragged = bool((target == DROPPED).any())
        return cls(width, kept[:, :places], merged, target, ragged, sparse=fewest < places)

    def sending(self, target: Int[Tensor, "batch tokens"]) -> "MergePlan":
        """Keep the same tokens, and send each of the others to its place in `target`, which may be `DROPPED`."""
        gone = torch.ones_like(target).scatter(1, self.kept, 0)
        merged = top_k_indices(gone, self.tokens - self.kept.shape[1])
        return MergePlan(self.tokens, self.kept, merged, target.gather(1, merged), ragged=True)

    @property
    def first(self) -> Int[Tensor, "batch kept"]:
        """The token at each place; token 0 for an empty one, where it must be hidden."""
        return self.kept.clamp_min(0) if self.sparse else self.kept

    @property
    def drops(self) -> bool:
        """Whether a token is dropped."""
        return self.ragged or self.kept.shape[1] + self.merged.shape[1] < self.tokens

    def merge(
        self, x: Shaped[Tensor, "batch tokens *channels"], reduce: Reduce = "mean"
    ) -> Shaped[Tensor, "batch kept *channels"]:
        """Put every token where the plan sends it; each place holds the mean, sum or maximum of its tokens.

        Raises:
            UserError: `x` has another number of tokens than the plan was made for.
        """
        if x.shape[1] != self.tokens:
            raise UserError(
                f"the plan is for {self.tokens} tokens, but there are {x.shape[1]}: match and merge the same tokens."
            )
        first, target = self.first, self.target
        if self.ragged:  # dropped tokens go to one more place, which is cut off
            first = torch.cat([first, torch.zeros_like(first[:, :1])], dim=1)
            target = torch.where(target == DROPPED, first.shape[1] - 1, target)
        kept, merged = _take(x, first), _take(x, self.merged)
        if self.sparse:
            kept[:, : self.kept.shape[1]].masked_fill_(_wide(self.kept == EMPTY, x), 0)
        reduced = _scatter(kept, target, merged, reduce)
        return reduced[:, :-1] if self.ragged else reduced

    def merge_weighted(
        self, x: Float[Tensor, "batch tokens channels"], size: Float[Tensor, "batch tokens 1"] | None = None
    ) -> tuple[Float[Tensor, "batch kept channels"], Float[Tensor, "batch kept 1"]]:
        """Merge by the mean weighted with sizes, so that every first token counts once.

        Args:
            x: the tokens.
            size: number of first tokens that each stands for; None means one.

        Returns:
            The merged tokens and their sizes, which add up (float32 or better).

        Source: ToMe (arXiv 2210.09461), weighted average of merged patches.
        """
        wide = precise(x)
        if size is None:
            return self.merge(wide).to(x.dtype), self.merge(wide.new_ones((*x.shape[:2], 1)), "sum")
        total = self.merge(size, "sum")
        # Shares before the sum, so that a token that nothing is merged into (share 1) stays the same to the last bit.
        share = size / self.unmerge(total, size)
        return self.merge(wide * share, "sum").to(x.dtype), total

    def place(self) -> Int[Tensor, "batch tokens"]:
        """Place of each token afterwards; `DROPPED` for dropped ones."""
        places = torch.full(
            (self.kept.shape[0], self.tokens + 1), DROPPED, dtype=torch.long, device=self.kept.device
        )
        standing = torch.arange(self.kept.shape[1], device=self.kept.device).expand_as(self.kept)
        # Kept ones after the merged, among which they may stand to fill up a row; what is kept at an empty place is cut off.
        kept = torch.where(self.kept == EMPTY, self.tokens, self.kept) if self.sparse else self.kept
        return places.scatter(1, self.merged, self.target).scatter(1, kept, standing)[:, :-1]

    def unmerge(
        self,
        y: Float[Tensor, "batch kept channels"],
        dropped: Float[Tensor, "batch tokens channels"] | None = None,
    ) -> Float[Tensor, "batch tokens channels"]:
        """Go back to all tokens: each gets a copy of the token at its place.

        Args:
            y: the tokens afterwards.
            dropped: values of dropped tokens, usually the tokens before; None means 0.
        """
        place = self.place()[..., None]
        copied = _take(y, place[..., 0].clamp_min(0))
        if not self.drops:
            return copied
        return torch.where(place == DROPPED, torch.zeros_like(copied) if dropped is None else dropped, copied)

    def merge_source(self, source: Float[Tensor, "batch tokens first"]) -> Float[Tensor, "batch kept first"]:
        """Follow which of the first tokens each token is made of: the maximum of one-hot rows."""
        return self.merge(source, "amax")

    def merge_mask(self, mask: Bool[Tensor, "batch tokens"] | None) -> Bool[Tensor, "batch kept"] | None:
        """Merge a padding mask: a place is seen if one of its tokens was, an empty one never; None where all are seen."""
        if mask is None:
            return self.kept != EMPTY if self.sparse else None
        return self.merge(mask.to(torch.uint8), "amax").bool()

    def merge_pairs(self, pairs: Bool[Tensor, "batch tokens tokens"]) -> Bool[Tensor, "batch kept kept"]:
        """Merge a mask of queries and keys: a place sees another if one of its tokens saw one of the other's."""
        queries = self.merge(pairs.to(torch.uint8), "amax")
        return self.merge(queries.transpose(1, 2), "amax").transpose(1, 2).bool()


def compose_places(
    plans: Sequence[MergePlan], tokens: int, batch: int, device: torch.device
) -> Int[Tensor, "batch tokens"]:
    """Place of each of the first tokens after all plans; `DROPPED` for dropped ones."""
    places = torch.arange(tokens, device=device).expand(batch, -1)
    for plan in plans:
        ahead = plan.place().gather(1, places.clamp_min(0))
        places = torch.where(places == DROPPED, DROPPED, ahead)
    return places


def source_map(places: Int[Tensor, "batch tokens"], kept: int) -> Bool[Tensor, "batch kept tokens"]:
    """Write places as rows: row j marks the tokens that place j is made of."""
    return places[:, None, :] == torch.arange(kept, device=places.device)[:, None]


def special_first(
    index: Int[Tensor, "batch chosen"], special: int
) -> Int[Tensor, "batch special_and_chosen"]:
    """The special tokens, then the tokens with these indices among the others."""
    first = torch.arange(special, device=index.device).expand(index.shape[0], -1)
    return torch.cat([first, index + special], dim=1)


# Whole rows of a table with one row per token: to gather and to scatter number by number takes six times as long.


def _rows(index: Int[Tensor, "batch taken"], tokens: int) -> Int[Tensor, "batch*taken"]:
    first = torch.arange(index.shape[0], device=index.device)[:, None] * tokens
    return (index + first).flatten()


def _take(
    x: Shaped[Tensor, "batch tokens *channels"], index: Int[Tensor, "batch taken"]
) -> Shaped[Tensor, "batch taken *channels"]:
    return x.flatten(0, 1).index_select(0, _rows(index, x.shape[1])).unflatten(0, index.shape)


def _scatter(out: Tensor, target: Tensor, x: Tensor, reduce: Reduce) -> Tensor:
    if target.shape[1] == 0:
        return out
    if reduce == "amax":
        index = _wide(target, x).expand_as(x)
        return out.scatter_reduce(1, index, x, "amax", include_self=True)
    rows = _rows(target, out.shape[1])
    total = out.flatten(0, 1).index_add_(0, rows, x.flatten(0, 1)).view_as(out)  # `out` is a copy already
    if reduce == "sum":
        return total
    members = torch.ones_like(out.flatten(0, 1)[:, :1]).index_add(
        0, rows, torch.ones_like(x.flatten(0, 1)[:, :1])
    )
    return total.div_(_wide(members.view(out.shape[:2]), out))


def _wide(
    values: Shaped[Tensor, "batch tokens"], x: Shaped[Tensor, "batch _ *channels"]
) -> Shaped[Tensor, "batch tokens *ones"]:
    """One value for all channels of a token."""
    return values.view(*values.shape, *[1] * (x.ndim - 2))
