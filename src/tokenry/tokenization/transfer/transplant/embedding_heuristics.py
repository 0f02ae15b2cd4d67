"""Rows for new tokens as weighted sums of old rows: TokenAdapt's local and global estimates, and their mixture.

    local    q = (softmax(cos(token, its pieces)) + length ratio) / 2        weights = softmax(q / T)
    global   weights = softmax(cos(token, its k nearest old tokens) / T), those below the threshold 0, renormalised
    hybrid   (1 − w) · local + w · global; where one of them fails, the other alone

Cosines are taken in an auxiliary space; the same weights serve the input and the output matrix. T is the temperature + 1e-5.

Source: TokenAdapt (arXiv 2505.09738) and its released code; `mean_of_pieces` is ReTok / FVT.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

# Maximum number of similarities held in memory at once.
_BLOCK_ELEMENTS = 1 << 24
_LEAST_TEMPERATURE = 1e-5

NO_SHARED = "the vocabularies share no token that has an auxiliary vector, so there is nothing to combine: use method='tokenadapt' or 'retok'."


@dataclass(frozen=True)
class Mixture:
    """Weighted sums of the rows of a matrix: row i is Σ_j weights[i, j] · matrix[indices[i, j]].

    Attributes:
        indices: indices of rows; arbitrary where the weight is 0.
        weights: weights of the rows, all 0 for a token that could not be composed.
    """

    indices: Int[Tensor, "tokens slots"]
    weights: Float[Tensor, "tokens slots"]

    @property
    def composed(self) -> Bool[Tensor, "tokens"]:
        """The tokens that have a row."""
        return (self.weights != 0).any(dim=-1)

    def rows(self, matrix: Float[Tensor, "old dim"]) -> Float[Tensor, "tokens dim"]:
        """Compute the rows, in the dtype and on the device of the weights; 0 for tokens that could not be composed."""
        counted = self.weights != 0
        if not counted.any():
            return self.weights.new_zeros(len(self.weights), matrix.shape[1])
        used, places = self.indices[counted].unique(return_inverse=True)
        offsets = counted.sum(dim=-1).cumsum(dim=0).roll(1)
        offsets[:1] = 0
        return nn.functional.embedding_bag(
            places,
            matrix[used.to(matrix.device)].to(self.weights),
            offsets,
            mode="sum",
            per_sample_weights=self.weights[counted],
        )


@dataclass(frozen=True)
class Wanted:
    """The tokens whose rows are wanted, seen from the old vocabulary and from the auxiliary space.

    Attributes:
        pieces: old ids that spell each token; -1 after the last.
        length_ratio: length of each piece as a share of the token's length.
        vectors: vectors in the auxiliary space; a row of zeros stands for none.
        itself: old id of the same token, which takes no part in its own estimate; -1 for none.
    """

    pieces: Int[Tensor, "tokens pieces"]
    length_ratio: Float[Tensor, "tokens pieces"]
    vectors: Float[Tensor, "tokens dim"]
    itself: Int[Tensor, "tokens"]

    def to(self, device: torch.device) -> "Wanted":
        """The same on a device."""
        return Wanted(*(tensor.to(device) for tensor in vars(self).values()))


def local_weights(
    similarity: Float[Tensor, "tokens pieces"],
    length_ratio: Float[Tensor, "tokens pieces"],
    mask: Bool[Tensor, "tokens pieces"],
    temperature: float,
) -> Float[Tensor, "tokens pieces"]:
    """Weigh the pieces of each token by their similarity to it and by their length; 0 without pieces.

    Source: TokenAdapt, local heuristic.
    """
    agreement = _masked_softmax(similarity, mask)
    quality = (agreement + length_ratio) / 2
    return _masked_softmax(quality / (temperature + _LEAST_TEMPERATURE), mask)


def global_weights(
    similarity: Float[Tensor, "tokens k"], temperature: float, threshold: float
) -> Float[Tensor, "tokens k"]:
    """Weigh the nearest old tokens by their similarity; 0 where none reaches the threshold.

    Source: TokenAdapt, global heuristic.
    """
    weights = _masked_softmax(similarity / (temperature + _LEAST_TEMPERATURE), similarity.isfinite())
    weights = weights.masked_fill(similarity < threshold, 0.0)
    total = weights.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, weights / total, 0.0)


def mean_of_pieces(wanted: Wanted) -> Mixture:
    """Average the rows of the pieces.

    Source: ReTok (arXiv 2410.04335); the same as FVT.
    """
    mask = wanted.pieces >= 0
    weights = mask / mask.sum(dim=-1, keepdim=True).clamp(min=1)
    return Mixture(wanted.pieces.clamp(min=0), weights.to(wanted.length_ratio.dtype))


def local_mixture(
    wanted: Wanted, old_vectors: Float[Tensor, "old dim"], temperature: float, needs_vectors: bool = False
) -> Mixture:
    """Compose each token of its pieces.

    Args:
        old_vectors: vectors of the old tokens in the auxiliary space; a row of zeros stands for none.
        temperature: temperature of the last softmax; at a low one the best piece wins.
        needs_vectors: whether pieces and tokens without a vector are left out, as in the released code; otherwise their similarity
            counts as 0, so that length alone decides.
    """
    mask, ids = wanted.pieces >= 0, wanted.pieces.clamp(min=0)
    tokens, old = _unit(wanted.vectors), _unit(old_vectors)
    comparable = mask & has_vector(tokens)[:, None] & has_vector(old)[ids]
    similarity = torch.zeros_like(wanted.length_ratio)
    similarity[comparable] = _pair_similarity(tokens, old, comparable.nonzero()[:, 0], ids[comparable])
    mask = comparable if needs_vectors else mask
    return Mixture(ids, local_weights(similarity, wanted.length_ratio, mask, temperature))


def global_mixture(
    wanted: Wanted, old_vectors: Float[Tensor, "old dim"], k: int, temperature: float, threshold: float
) -> Mixture:
    """Compose each token of the k old tokens nearest to it in the auxiliary space.

    Args:
        old_vectors: vectors of the old tokens in the auxiliary space; a row of zeros stands for none.
        k: number of neighbours; fewer where there are fewer old tokens.
        temperature: temperature of the softmax over the neighbours.
        threshold: cosine below which a neighbour does not count.
    """
    similarity, ids = nearest(wanted.vectors, old_vectors, k, wanted.itself)
    return Mixture(ids, global_weights(similarity, temperature, threshold))


def hybrid(local: Mixture, other: Mixture, global_weight: float) -> Mixture:
    """Mix two estimates, `global_weight` of the second; a token that only one of them has takes that one unscaled."""
    both = local.composed & other.composed
    of_local = torch.where(both, 1 - global_weight, 1.0).to(local.weights.dtype)
    of_other = torch.where(both, global_weight, 1.0).to(other.weights.dtype)
    return Mixture(
        torch.cat([local.indices, other.indices], dim=1),
        torch.cat([local.weights * of_local[:, None], other.weights * of_other[:, None]], dim=1),
    )


def nearest(
    queries: Float[Tensor, "tokens dim"],
    vectors: Float[Tensor, "old dim"],
    k: int,
    without: Int[Tensor, "tokens"],
) -> tuple[Float[Tensor, "tokens k"], Int[Tensor, "tokens k"]]:
    """Find the k vectors with the largest cosine, in blocks of one matrix product each.

    Args:
        queries: vectors whose neighbours are searched; a query of zeros has none.
        vectors: candidates; those of zeros are never found.
        k: number of neighbours; fewer where there are fewer vectors.
        without: index of a candidate that each query may not find; -1 for none.

    Returns:
        Cosines, descending, −inf where there are fewer than k; and indices.
    """
    k = min(k, len(vectors))
    block = max(1, _BLOCK_ELEMENTS // max(1, len(vectors)))
    unit, absent = _unit(vectors), ~has_vector(vectors)
    values, ids = queries.new_empty(len(queries), k), without.new_empty(len(queries), k)
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        similarity = _unit(queries[part]) @ unit.T
        similarity[:, absent] = -torch.inf
        similarity[~has_vector(queries[part])] = -torch.inf
        rows = (without[part] >= 0).nonzero()[:, 0]
        similarity[rows, without[part][rows]] = -torch.inf
        values[part], ids[part] = similarity.topk(k, dim=-1)
    return values, ids


def has_vector(vectors: Float[Tensor, "tokens dim"]) -> Bool[Tensor, "tokens"]:
    """Whether each row is a vector; a row of zeros stands for none."""
    return (vectors != 0).any(dim=-1)


def _unit(vectors: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens dim"]:
    return nn.functional.normalize(vectors, dim=-1)


def _pair_similarity(
    queries: Float[Tensor, "tokens dim"],
    vectors: Float[Tensor, "old dim"],
    left: Int[Tensor, "pairs"],
    right: Int[Tensor, "pairs"],
) -> Float[Tensor, "pairs"]:
    block = max(1, _BLOCK_ELEMENTS // max(1, queries.shape[1]))
    pairs = zip(left.split(block), right.split(block), strict=True)
    return torch.cat([(queries[one] * vectors[other]).sum(dim=-1) for one, other in pairs])


def _masked_softmax(
    scores: Float[Tensor, "tokens slots"], mask: Bool[Tensor, "tokens slots"]
) -> Float[Tensor, "tokens slots"]:
    """Softmax over the slots of the mask; 0 elsewhere, and in rows without any."""
    weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    return weights.masked_fill(~mask, 0.0)
