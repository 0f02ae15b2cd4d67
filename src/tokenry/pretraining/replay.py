"""Old text in the batches of a continued pretraining: an exact share of every batch, at no further compute.

    replayed in batch i   floor((i + 1) · b · f) − floor(i · b · f)          b samples per batch, f the share that is replayed
    in all                floor(N · f) replayed and N − floor(N · f) new of N samples: what is replayed takes the place of new text

Source: Ibrahim et al., Simple and Scalable Strategies to Continually Pre-train Large Language Models (arXiv 2403.08763), section 4.1.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError, require_at_least, require_fraction
from tokenry.core.train.numbered import TextBatches

_EXACT = 1e-9  # 0.05 · 20 is 1 replayed sample, whatever the floating point says


def replayed_before(samples: int | Int[ndarray, "*any"], fraction: float | int) -> Int[ndarray, "*any"]:
    """How many of the first `samples` are replayed."""
    require_fraction(fraction, "fraction")
    return np.asarray(np.floor(np.asarray(samples) * fraction + _EXACT), dtype=np.int64)


def replay_counts(batches: int, batch_size: int, fraction: float | int) -> Int[ndarray, "batches"]:
    """How many samples of each batch are replayed; their sum is exact after every batch."""
    require_at_least(1, batches=batches, batch_size=batch_size)
    return np.diff(replayed_before(np.arange(batches + 1) * batch_size, fraction))


def compute_equivalent(total: int, fraction: float | int) -> tuple[int, int]:
    """The replayed and the new ones of `total` samples or tokens, as many as without replay."""
    require_at_least(0, total=total)
    replayed = int(replayed_before(total, fraction))
    return replayed, total - replayed


class ReplayMixer:
    """Batches by number that mix new samples with old ones: batch `n` is always the same, so training can begin at any of them.

    New samples come in a seeded order, old ones in another; both begin anew in yet another order where they are used up.

    Args:
        old: samples of the earlier training; may be empty where nothing is replayed.
        new: samples of the new text; may be empty where all is replayed.
        fraction: share of every batch that is replayed.
        batch_size: samples per batch.
        total: samples in all; None for as many as there are new ones, the compute of one pass without replay.
        seed: random seed of the orders.

    Raises:
        UserError: a fraction that is none, nothing to take samples from, or too few of them for one batch.
    """

    def __init__(
        self,
        old: Sequence[Any] | Tensor,
        new: Sequence[Any] | Tensor,
        fraction: float | int,
        batch_size: int,
        total: int | None = None,
        seed: int = 0,
    ) -> None:
        require_fraction(fraction, "fraction")
        require_at_least(1, batch_size=batch_size)
        if fraction > 0 and not len(old):
            raise UserError(
                f"{fraction:g} of every batch is to be replayed, but there is no old text: give some, or fraction 0."
            )
        if fraction < 1 and not len(new):
            raise UserError(
                f"{1 - fraction:g} of every batch is new text, but there is none: give some, or fraction 1."
            )
        self.fraction, self.batch_size = fraction, batch_size
        self.total = (len(new) or len(old)) if total is None else total
        if self.total < batch_size:
            raise UserError(
                f"{self.total} samples are too few for one batch of {batch_size}: give more text, or a smaller batch."
            )
        self.replay_total, self.new_total = compute_equivalent(self.total, fraction)
        self._old, self._new = TextBatches(old, 1, seed), TextBatches(new, 1, seed + 1)

    def __len__(self) -> int:
        return self.total // self.batch_size

    @property
    def replay_per_batch(self) -> Int[ndarray, "batches"]:
        """How many samples of each batch are old."""
        return replay_counts(len(self), self.batch_size, self.fraction)

    def __getitem__(self, number: int) -> list[Any]:
        """The new samples of a batch, then the old ones."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        first, last = (int(place) * self.batch_size for place in (number, number + 1))
        old_first, old_last = (int(replayed_before(place, self.fraction)) for place in (first, last))
        return [
            *(self._new[place][0] for place in range(first - old_first, last - old_last)),
            *(self._old[place][0] for place in range(old_first, old_last)),
        ]


def packed_blocks(
    texts: Iterable[Sequence[int]], length: int, tokenizer: PreTrainedTokenizerBase
) -> Int[Tensor, "blocks length"]:
    """Lay tokenised texts end to end, each closed by the eos token, and cut them into blocks; a shorter remainder is dropped.

    Raises:
        UserError: a length without a token to predict, no eos token, or less text than one block.
    """
    require_at_least(2, length=length)
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError("the tokenizer has no eos token, so nothing parts one text from the next: set one.")
    closed = ([*ids] if ids and ids[-1] == end else [*ids, end] for ids in map(list, texts))
    joined = torch.tensor(list(chain.from_iterable(closed)), dtype=torch.long)
    blocks = len(joined) // length
    if not blocks:
        raise UserError(
            f"{len(joined)} tokens are too few for a block of {length}: give more text, or a smaller block."
        )
    return joined[: blocks * length].view(blocks, length)
