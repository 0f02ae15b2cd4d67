"""What the logits of a row say, from one chunked pass over the head, however much is asked: without a graph, in float32.

    nll            = −log p(target)                              rank   = number of tokens with a higher logit than the target
    entropy        = −Σ p · log p                                top    = the k largest logits and their ids, the largest first
    second_moment  = Σ p · (log p)²      (the variance of log p under the model is second_moment − entropy²)
    log_squares    = log Σ p²                                    mean_logit = Σ logits / vocabulary

With q the distribution of a second model over the same tokens (`reference`):

    cross_entropy  = −Σ q · log p                                cross_second_moment = Σ q · (log p)²

The matrix product with the head is most of the price, so that several of them cost little more than one.
"""

from collections.abc import Collection
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.core.tensors.chunked_loss import CHUNK_ELEMENTS, chunks
from tokenry.core.tensors.output_head import OutputHead
from tokenry.core.tensors.row_losses import normalise

_OF_REFERENCE = ("cross_entropy", "cross_second_moment")
STATISTICS = ("nll", "entropy", "rank", "second_moment", "log_squares", "mean_logit", "top", *_OF_REFERENCE)
_OF_TARGETS = frozenset({"nll", "rank"})
_OF_DISTRIBUTION = frozenset({"entropy", "second_moment", "log_squares", *_OF_REFERENCE})


class RowStatistics(NamedTuple):
    """Statistics of every row; None where they were not asked for.

    Attributes:
        nll: −log p(target) in nats.
        entropy: of the predicted distribution, in nats.
        rank: number of tokens with a higher logit than the target.
        second_moment: mean of the squared log-probabilities under the predicted distribution.
        log_squares: log of the probability that two draws from the distribution agree.
        top_logits: largest logits, the largest first.
        top_ids: tokens of `top_logits`.
        cross_entropy: of the distribution against the reference's, in nats.
        cross_second_moment: mean of the squared log-probabilities under the reference's distribution.
    """

    nll: Float[Tensor, "rows"] | None = None
    entropy: Float[Tensor, "rows"] | None = None
    rank: Int[Tensor, "rows"] | None = None
    second_moment: Float[Tensor, "rows"] | None = None
    log_squares: Float[Tensor, "rows"] | None = None
    mean_logit: Float[Tensor, "rows"] | None = None
    top_logits: Float[Tensor, "rows k"] | None = None
    top_ids: Int[Tensor, "rows k"] | None = None
    cross_entropy: Float[Tensor, "rows"] | None = None
    cross_second_moment: Float[Tensor, "rows"] | None = None


Reference = tuple[Float[Tensor, "rows reference_dim"], OutputHead]
"""Hidden states of a second model at the same rows, and its head. Of two vocabularies that differ in size (rows of padding), the smaller one
counts in both models."""


def row_statistics(
    rows: Float[Tensor, "rows dim"],
    targets: Int[Tensor, "rows"] | None,
    head: OutputHead,
    wanted: Collection[str],
    *,
    top_k: int = 100,
    reference: Reference | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> RowStatistics:
    """Compute the statistics named in `wanted`.

    Args:
        rows: hidden states.
        targets: tokens that `nll` and `rank` are about.
        head: maps hidden states to logits.
        wanted: names among `STATISTICS`.
        top_k: number of logits in `top`.
        reference: the second model, for the cross statistics.
        chunk_elements: logits that are held at once.
    """
    for name in wanted:
        require_one_of(name, STATISTICS, "a row statistic")
    if targets is None and _OF_TARGETS & set(wanted):
        raise UserError("nll and rank are about a target of each row: give targets.")
    if reference is None and set(_OF_REFERENCE) & set(wanted):
        raise UserError("cross statistics compare two models: give the rows and the head of the reference.")
    if "top" in wanted:
        require_at_least(1, top_k=top_k)
        if top_k > head.vocabulary:
            raise UserError(f"top_k is {top_k}, and the vocabulary has {head.vocabulary} tokens.")
    parts: list[RowStatistics] = []

    def score(rows: Tensor) -> Tensor:
        for part in list(chunks(rows.shape[0], head.vocabulary, chunk_elements)) or [slice(0, 0)]:
            of_part = None if targets is None else targets[part]
            logits, others = head.scratch_logits(rows[part]), None
            if reference is not None:
                others = reference[1].logits(reference[0][part])
                shared = min(logits.shape[-1], others.shape[-1])
                logits, others = logits[:, :shared], others[:, :shared].to(logits.device)
            parts.append(_of_chunk(logits, of_part, wanted, top_k, others))
            del logits, others  # or they would be alive beside the logits of the next chunk
        return rows

    with torch.no_grad():
        head.in_forward(rows, score)
    return RowStatistics(
        *(None if values[0] is None else torch.cat(values) for values in zip(*parts, strict=True))
    )


def row_nll(
    rows: Float[Tensor, "rows dim"],
    targets: Int[Tensor, "rows"],
    head: OutputHead,
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Float[Tensor, "rows"]:
    """Compute −log p(target) of every row in nats, without a graph, in float32."""
    nll = row_statistics(rows, targets, head, ("nll",), chunk_elements=chunk_elements).nll
    assert nll is not None
    return nll


def row_entropy(
    rows: Float[Tensor, "rows dim"], head: OutputHead, *, chunk_elements: int = CHUNK_ELEMENTS
) -> Float[Tensor, "rows"]:
    """Compute the entropy of the predicted distribution of every row in nats, without a graph, in float32."""
    entropy = row_statistics(rows, None, head, ("entropy",), chunk_elements=chunk_elements).entropy
    assert entropy is not None
    return entropy


def _of_chunk(
    logits: Float[Tensor, "rows vocabulary"],
    targets: Int[Tensor, "rows"] | None,
    wanted: Collection[str],
    top_k: int,
    reference: Float[Tensor, "rows vocabulary"] | None,
) -> RowStatistics:
    """The statistics of a chunk of logits, which are overwritten."""
    rank = nll = entropy = second_moment = log_squares = top_logits = top_ids = None
    cross_entropy = cross_second_moment = None
    mean_logit = logits.mean(-1) if "mean_logit" in wanted else None
    if "top" in wanted:
        top_logits, top_ids = logits.topk(top_k)
    if "rank" in wanted:
        assert targets is not None
        rank = (logits > logits.gather(-1, targets[:, None])).sum(-1)
    if not _OF_DISTRIBUTION & set(wanted):
        if "nll" in wanted:
            assert targets is not None
            nll, _, _ = normalise(logits, targets)
        return RowStatistics(nll, None, rank, None, None, mean_logit, top_logits, top_ids)
    # As in `normalise`; the logits stay beside their exponentials. A logit of −inf has probability 0, and 0 · −inf is no number.
    logits -= logits.amax(-1, keepdim=True)
    powers = logits.exp()
    normaliser = powers.sum(-1)
    if "nll" in wanted:
        assert targets is not None
        nll = normaliser.log() - logits.gather(-1, targets[:, None])[:, 0]
    if "log_squares" in wanted:
        log_squares = torch.linalg.vecdot(powers, powers).log() - 2 * normaliser.log()
    log_p = logits.sub_(normaliser.log()[:, None]).clamp_(min=torch.finfo(logits.dtype).min / 2)
    if "entropy" in wanted:
        entropy = -torch.linalg.vecdot(powers, log_p) / normaliser
    if "second_moment" in wanted:
        second_moment = torch.linalg.vecdot(powers.mul_(log_p), log_p) / normaliser
    if reference is not None:
        weighted = reference.softmax(-1).to(log_p.dtype).mul_(log_p)
        cross_entropy = -weighted.sum(-1)
        cross_second_moment = torch.linalg.vecdot(weighted, log_p)
    return RowStatistics(
        nll, entropy, rank, second_moment, log_squares, mean_logit, top_logits, top_ids, cross_entropy, cross_second_moment
    )  # fmt: skip
