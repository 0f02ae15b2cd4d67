"""ToMe: in every layer, merge the r most similar pairs of an even/odd bipartite matching of the tokens.

Source: Token Merging (arXiv 2210.09461). A = tokens 0, 2, 4, ...; B = tokens 1, 3, 5, ...; each token of A looks for its most similar
token of B (cosine of the keys, mean over heads), and the r best of A are merged into theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from tokenry.compression.vision.plan import MergePlan
from tokenry.compression.vision.reducer import Attention, LayerReducer, Tokens
from tokenry.core.errors import UserError
from tokenry.core.patching import Encoder


def parse_r(num_layers: int, r: int | Sequence[int] | tuple[int, float]) -> list[int]:
    """Tell how many tokens each layer merges.

    Args:
        num_layers: L.
        r: the same number in every layer; a list, one per layer (missing ones are 0); or (r, inflection) with a float inflection in
            [-1, 1]: from r·(1 - inflection) to r·(1 + inflection) in equal steps, so -1 merges most in the first layers.

    Raises:
        UserError: a number is negative, or there are more of them than layers.

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
    least = int(r * (1.0 - inflection))
    step = (2 * r - 2 * least) / max(1, num_layers - 1)
    return [int(least + step * layer) for layer in range(num_layers)]


def bipartite_soft_matching(
    metric: Float[Tensor, "batch tokens dim"], r: int, class_token: bool = False, distill_token: bool = False
) -> MergePlan:
    """Match even tokens with odd ones and merge the r best pairs.

    Args:
        metric: what tokens are compared by (cosine).
        r: tokens to remove; at most half of those that are not protected are.
        class_token: token 0 is never merged.
        distill_token: neither is token 1.

    Source: ToMe, bipartite soft matching.
    """
    return match_even_odd(metric, r, int(class_token) + int(distill_token))


def match_even_odd(metric: Float[Tensor, "batch tokens dim"], r: int, special: int) -> MergePlan:
    """`bipartite_soft_matching` for any number of leading special tokens, which stay where they are."""
    batch, tokens, _ = metric.shape
    r = max(0, min(r, (tokens - special) // 2))
    metric = normalize(metric.to(torch.promote_types(metric.dtype, torch.float32)), dim=-1, eps=1e-12)
    similarity = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)
    similarity[:, : (special + 1) // 2] = -torch.inf
    similarity[:, :, : special // 2] = -torch.inf
    if similarity.shape[2] == 0:
        return MergePlan.keep(torch.arange(tokens, device=metric.device).expand(batch, -1), tokens)
    best, partner = similarity.max(dim=2)
    order = best.argsort(dim=1, descending=True, stable=True)
    merged, left = order[:, :r], order[:, r:]
    if special:
        left = left.sort(dim=1).values
    kept = _special_first(left, tokens, special)
    # Special tokens of B stand among the first places; the others of B follow what is left of A.
    target = partner.gather(1, merged) + left.shape[1]
    return MergePlan(tokens, kept, 2 * merged, target)


def _special_first(left: Tensor, tokens: int, special: int) -> Tensor:
    """Order of the kept: special tokens as they stood, then what is left of A, then B."""
    odd = torch.arange(1, tokens, 2, device=left.device).expand(left.shape[0], -1)
    even_special, odd_special = (special + 1) // 2, special // 2
    first = torch.arange(special, device=left.device).expand(left.shape[0], -1)
    return torch.cat([first, 2 * left[:, even_special:], odd[:, odd_special:]], dim=1)


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
    metric = normalize(metric.to(torch.promote_types(metric.dtype, torch.float32)), dim=-1, eps=1e-12)
    index = torch.arange(whole, device=metric.device).view(-1, k)
    kept, merged = index[:, -1], index[:, :-1].flatten()
    target = (metric[:, merged] @ metric[:, kept].transpose(1, 2)).argmax(dim=2)
    return MergePlan(tokens, kept.expand(batch, -1), merged.expand(batch, -1), target)


@dataclass(frozen=True)
class _MergeSimilar(LayerReducer):
    r: int

    def reduce(self, hidden_states: Tensor, tokens: Tokens, attention: Attention) -> tuple[Tensor, Tokens]:
        return tokens.merge(hidden_states, match_even_odd(attention.keys, self.r, tokens.special))


@dataclass(frozen=True)
class ToMe:
    """Merge the r most similar pairs of tokens in every layer.

    Attributes:
        r: tokens that a layer removes; see `parse_r`. 13 on a ViT-S at 224 px saves about 41 % of the FLOPs.
        proportional_attention: merged tokens count by their size; leave it on unless the model was trained without.

    Source: ToMe (arXiv 2210.09461).
    """

    r: int | Sequence[int] | tuple[int, float] = 8
    proportional_attention: bool = True

    def __post_init__(self) -> None:
        parse_r(1000, self.r)

    def layer_reducers(self, encoder: Encoder) -> list[LayerReducer | None]:
        """One matching per layer.

        Raises:
            UserError: r lists more layers than there are, or the encoder reads text (padding would be merged).
        """
        return [_MergeSimilar(r) if r else None for r in parse_r(len(encoder.layers), self.r)]
