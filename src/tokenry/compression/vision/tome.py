"""ToMe: in every layer, merge the r most similar pairs of an even/odd bipartite matching of the tokens.

Source: Token Merging (arXiv 2210.09461). A = tokens 0, 2, 4, ...; B = tokens 1, 3, 5, ...; each token of A looks for its most similar
token of B (cosine of the keys, mean over heads), and the r best of A are merged into theirs.
In text, padding matches nothing: the result for a text does not depend on how much it is padded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from tokenry.compression.plan import DROPPED, MergePlan
from tokenry.compression.precision import precise
from tokenry.compression.reducer import REDUCERS, Attention, LayerReducer, Tokens
from tokenry.compression.vision.shares import EncoderShape, counts_at
from tokenry.core.errors import UserError
from tokenry.core.tensors.patching import Encoder


def parse_r(num_layers: int, r: int | Sequence[int] | tuple[int, float]) -> list[int]:
    """Number of tokens that each layer merges.

    Args:
        num_layers: number of layers, L.
        r: the same number in every layer; a list, one per layer (missing ones are 0); or (r, inflection) with a float inflection in
            [-1, 1]: from r·(1 - inflection) to r·(1 + inflection) in equal steps, so -1 merges most in the first layers.

    Raises:
        UserError: a number is negative, there are more of them than layers, or the inflection is out of range.

    Source: ToMe, merging schedules.
    """
    if isinstance(r, int):
        numbers = [r] * num_layers
    elif len(r) == 2 and isinstance(r[1], float):
        numbers = _inflected(num_layers, int(r[0]), r[1])
    else:
        numbers = [int(number) for number in r]
    if len(numbers) > num_layers:
        raise UserError(
            f"r lists {len(numbers)} layers, but the model has {num_layers}: give at most one number per layer."
        )
    if any(number < 0 for number in numbers):
        raise UserError(f"r must not be negative, got {r}: it is the number of tokens that a layer merges.")
    return numbers + [0] * (num_layers - len(numbers))


def _inflected(num_layers: int, r: int, inflection: float) -> list[int]:
    if not -1.0 <= inflection <= 1.0:
        raise UserError(
            f"the inflection of r must be in [-1, 1], got {inflection}: -1.0 merges most in the first layers, 1.0 in the last."
        )
    least = int(r * (1.0 - inflection))
    step = (2 * r - 2 * least) / max(1, num_layers - 1)
    return [int(least + step * layer) for layer in range(num_layers)]


def bipartite_soft_matching(
    metric: Float[Tensor, "batch tokens dim"], r: int, class_token: bool = False, distill_token: bool = False
) -> MergePlan:
    """Match even tokens with odd ones and merge the r best pairs.

    Args:
        metric: what tokens are compared by (cosine).
        r: number of tokens to remove; at most half of those that are not protected.
        class_token: token 0 is never merged.
        distill_token: token 1 is never merged either.

    Source: ToMe, bipartite soft matching.
    """
    return match_even_odd(metric, r, int(class_token) + int(distill_token))


@torch.no_grad()
def match_even_odd(metric: Float[Tensor, "batch tokens dim"], r: int, special: int) -> MergePlan:
    """`bipartite_soft_matching` for any number of leading special tokens, which stay where they are."""
    tokens = metric.shape[1]
    r = min(r, (tokens - special) // 2)
    if r <= 0:
        return keep_all(metric)
    best, partner = _even_odd_similarity(metric, special).max(dim=2)
    order = best.argsort(dim=1, descending=True, stable=True)
    merged, left = order[:, :r], order[:, r:]
    if special:
        left = left.sort(dim=1).values
    kept = _special_first(left, tokens, special)
    # Special tokens of B stand among the first places; the others of B follow what is left of A.
    target = partner.gather(1, merged) + left.shape[1]
    return MergePlan(tokens, kept, 2 * merged, target)


def keep_all(metric: Float[Tensor, "batch tokens dim"]) -> MergePlan:
    """The plan that keeps every token where it is."""
    batch, tokens, _ = metric.shape
    return MergePlan.keep(torch.arange(tokens, device=metric.device).expand(batch, -1), tokens)


def _even_odd_similarity(metric: Tensor, special: int) -> Float[Tensor, "batch even odd"]:
    unit = unit_vectors(metric)
    similarity = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
    similarity[:, : (special + 1) // 2] = -torch.inf
    similarity[:, :, : special // 2] = -torch.inf
    return similarity


def _special_first(left: Tensor, tokens: int, special: int) -> Tensor:
    """Order of the kept: special tokens as they stood, then what is left of A, then B."""
    odd = torch.arange(1, tokens, 2, device=left.device).expand(left.shape[0], -1)
    even_special, odd_special = (special + 1) // 2, special // 2
    first = torch.arange(special, device=left.device).expand(left.shape[0], -1)
    return torch.cat([first, 2 * left[:, even_special:], odd[:, odd_special:]], dim=1)


@torch.no_grad()
def match_even_odd_padded(
    metric: Float[Tensor, "batch tokens dim"], r: int, special: int, mask: Bool[Tensor, "batch tokens"]
) -> MergePlan:
    """`match_even_odd` for texts padded on the right: each merges what it would alone, and padding that no text needs is dropped.

    Args:
        metric: what tokens are compared by (cosine).
        r: number of tokens to remove from each text; at most half of those that are not special.
        special: number of leading special tokens.
        mask: False for padding.
    """
    tokens = metric.shape[1]
    if tokens < 2:
        return keep_all(metric)
    seen_together = mask[:, ::2, None] & mask[:, None, 1::2]
    best, partner = _even_odd_similarity(metric, special).masked_fill_(~seen_together, -torch.inf).max(dim=2)
    lengths = mask.sum(dim=1)
    removed = ((lengths - special) // 2).clamp(0, r)
    rank = best.argsort(dim=1, descending=True, stable=True).argsort(dim=1)

    place = torch.arange(tokens, device=metric.device)
    # A text that merges nothing keeps its order.
    odd = ((place % 2 == 1) & (place >= special) & (removed > 0)[:, None]).long()
    group = torch.where(mask, odd, PADDING)
    group[:, ::2][rank < removed[:, None]] = MERGED
    into = torch.zeros_like(group)
    into[:, ::2] = 2 * partner + 1
    return MergePlan(tokens, *arrange(group, into, int((lengths - removed).max())), ragged=True)


PADDING, MERGED = 2, 3


def arrange(
    group: Int[Tensor, "batch tokens"], into: Int[Tensor, "batch tokens"], left: int
) -> tuple[Int[Tensor, "batch left"], Int[Tensor, "batch gone"], Int[Tensor, "batch gone"]]:
    """Put the tokens of each row in the order of their groups, `left` of them kept: rows may merge different numbers.

    Example with left = 3: groups (0, MERGED, 1, PADDING) keep tokens 0, 2 and 3; token 1 goes to the place of the token it is merged into.

    Args:
        group: group of each token: 0 and 1 are kept, then `PADDING` as far as there is room; `MERGED` goes.
        into: the token that each merged one goes into; not read elsewhere.
        left: number of tokens kept in every row; no row has more of groups 0 and 1, or fewer with padding.

    Returns:
        The kept tokens, those that go, and the place of each of these afterwards (`DROPPED` for padding).
    """
    order = group.argsort(dim=1, stable=True)
    place = order.argsort(dim=1)
    kept, gone = order[:, :left], order[:, left:]
    target = place.gather(1, into.gather(1, gone))
    return kept, gone, target.where(group.gather(1, gone) == MERGED, DROPPED)


def unit_vectors(metric: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
    """Scale vectors to length 1 in float32 or better; a zero vector stays zero."""
    return normalize(precise(metric), dim=-1, eps=1e-12)


@torch.no_grad()
def kth_bipartite_matching(metric: Float[Tensor, "batch tokens dim"], k: int) -> MergePlan:
    """Keep every k-th token and merge all others into the most similar of these; the last tokens mod k are dropped.

    Raises:
        UserError: k is below 2.

    Source: ToMe, k-th variant.
    """
    if k < 2:
        raise UserError(f"k must be at least 2, got {k}: every k-th token is kept.")
    batch, tokens, _ = metric.shape
    whole = tokens // k * k
    unit = unit_vectors(metric)
    index = torch.arange(whole, device=metric.device).view(-1, k)
    kept, merged = index[:, -1], index[:, :-1].flatten()
    target = (unit[:, merged] @ unit[:, kept].transpose(1, 2)).argmax(dim=2)
    return MergePlan(tokens, kept.expand(batch, -1), merged.expand(batch, -1), target)


@dataclass(frozen=True)
class _MergeSimilar(LayerReducer):
    r: int

    def reduce(self, hidden_states: Tensor, tokens: Tokens, attention: Attention) -> tuple[Tensor, Tokens]:
        if tokens.mask is None:
            plan = match_even_odd(attention.keys, self.r, tokens.special)
        else:
            plan = match_even_odd_padded(attention.keys, self.r, tokens.special, tokens.mask)
        return tokens.merge(hidden_states, plan)


@REDUCERS.register("tome")
@dataclass(frozen=True)
class ToMe:
    """Merge the r most similar pairs of tokens in every layer, of images or texts.

    Attributes:
        r: tokens that a layer removes; see `parse_r`. 13 on a ViT-S at 224 px saves about 41 % of the FLOPs.
        proportional_attention: merged tokens count by their size; leave it on unless the model was trained without.

    Source: ToMe (arXiv 2210.09461).
    """

    r: int | Sequence[int] | tuple[int, float] = 8
    proportional_attention: bool = True

    def __post_init__(self) -> None:
        parse_r(1000, self.r)

    @classmethod
    def at(cls, share: float, shape: EncoderShape) -> dict[str, Any]:
        """The options that cost a share of the dense FLOPs: in every layer as many tokens as PiToMe removes."""
        left = counts_at(share, shape)
        return {"r": [before - after for before, after in zip([shape.tokens, *left[:-1]], left, strict=True)]}

    def layer_reducers(self, encoder: Encoder) -> list[LayerReducer | None]:
        """One matching per layer.

        Raises:
            UserError: r lists more layers than there are.
        """
        return [_MergeSimilar(r) if r else None for r in parse_r(len(encoder.layers), self.r)]
