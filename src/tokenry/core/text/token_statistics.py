"""How many tokens a tokenizer makes of a document, special tokens included, as an encoder reads them.

reduction           1 − mean tokens of b / mean tokens of a
fertility           tokens / words                   of all documents; for languages without spaces, characters per token
truncated           share of the documents with more than max_length tokens
padding waste       1 − Σ tokens / Σ over batches of (longest document · documents)         after truncation
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.text.token_counts import AnyTokenizer, text_token_counts


@dataclass(frozen=True)
class TokenStats:
    """Tokens of documents.

    Attributes:
        mean: mean number of tokens, with special tokens.
        p95: 95th percentile.
        truncated: share of the documents that are cut at the maximum length.
        fertility: tokens per word; nan without words.
        characters_per_token: characters per token; nan without tokens.
        padding_waste: share of the positions that are padding, in batches of the documents in their order.
        sorted_padding_waste: the same in batches of documents of about one length.
    """

    documents: int
    mean: float
    median: float
    p95: float
    truncated: float
    fertility: float
    characters_per_token: float
    padding_waste: float
    sorted_padding_waste: float

    def reduction_from(self, other: "TokenStats") -> float:
        """Share of the tokens that are saved against another tokenizer on the same documents."""
        return 1 - self.mean / other.mean if other.mean else 0.0


def token_stats(
    tokenizer: AnyTokenizer,
    texts: Sequence[str],
    *,
    max_length: int,
    words: Callable[[str], Sequence[Any]] = str.split,
    batch_size: int = 16,
) -> TokenStats:
    """Count the tokens of documents.

    Args:
        tokenizer: any tokenizer.
        max_length: maximum number of tokens that the encoder reads.
        words: cuts a document into words; by default at white space.
        batch_size: documents of a batch, for the padding.
    """
    counts = text_token_counts(tokenizer, texts, special_tokens=True)
    return stats_of_counts(
        counts,
        characters=sum(map(len, texts)),
        words=sum(len(words(text)) for text in texts),
        max_length=max_length,
        batch_size=batch_size,
    )


def stats_of_counts(
    counts: Int[ndarray, "documents"], *, characters: int, words: int, max_length: int, batch_size: int
) -> TokenStats:
    """The same from the tokens of each document, and the characters and words of all of them."""
    if not len(counts):
        raise UserError("there are no documents: give at least one.")
    require_at_least(1, max_length=max_length, batch_size=batch_size)
    tokens, read = int(counts.sum()), np.minimum(counts, max_length)
    return TokenStats(
        documents=len(counts),
        mean=float(counts.mean()),
        median=float(np.median(counts)),
        p95=float(np.percentile(counts, 95)),
        truncated=float((counts > max_length).mean()),
        fertility=tokens / words if words else float("nan"),
        characters_per_token=characters / tokens if tokens else float("nan"),
        padding_waste=padding_waste(read, batch_size),
        sorted_padding_waste=padding_waste(np.sort(read), batch_size),
    )


def padding_waste(lengths: Int[ndarray, "documents"], batch_size: int) -> float:
    """Share of the positions that are padding, in batches of neighbours; 0 where there is no token."""
    starts = np.arange(0, len(lengths), batch_size)
    longest = np.maximum.reduceat(lengths, starts)
    padded = int((longest * np.diff(np.append(starts, len(lengths)))).sum())
    return 1 - int(lengths.sum()) / padded if padded else 0.0
