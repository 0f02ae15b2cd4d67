"""The corpus token count at every smaller vocabulary, from one BPE training.

The merges of a training to V tokens are the first merges of any longer training on the same text, so that

    tokenizer(V)  = the merges up to the one that makes token V
    tokens(V)     = tokens of a piece when the lowest merge that applies is, for the first time, none of those

Both are exact, and counted for all sizes in one replay of the merges over the distinct pieces of the evaluation text.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from tokenizers import Tokenizer

from tokenry.core.errors import UserError
from tokenry.core.text.token_counts import Segments, corpus_token_count, per_segment, require_text
from tokenry.tokenization.premiums.grid_config import SIZES, require_increasing
from tokenry.tokenization.training.byte_level_training import (
    PATTERN,
    require_vocab_size,
    train_bpe,
    train_unigram,
)
from tokenry.tokenization.training.merge_lists import Merges, bpe_state, merges_at


def ctc_curve(
    train_texts: Iterable[str],
    eval_texts: Iterable[str],
    sizes: Sequence[int] = SIZES,
    algorithm: str = "bpe",
    pattern: str = PATTERN,
    special_tokens: Sequence[str] = (),
) -> dict[int, int]:
    """Count the tokens of the evaluation text at each vocabulary size; BPE needs one training for all sizes.

    Where the training text is too small for a size, the tokenizer is smaller, and all larger sizes have the same count.
    """
    require_increasing(sizes)
    require_vocab_size(sizes[0], special_tokens)
    eval_texts = list(eval_texts)
    require_text(eval_texts)
    if algorithm == "bpe":
        tokenizer = train_bpe(train_texts, sizes[-1], pattern, special_tokens)
        return {
            size: int(count.sum()) for size, count in counts_by_size(tokenizer, eval_texts, sizes).items()
        }
    if algorithm == "unigram":
        train_texts = list(train_texts)
        return {
            size: corpus_token_count(train_unigram(train_texts, size, pattern, special_tokens), eval_texts)
            for size in sizes
        }
    raise UserError(f"the algorithm must be bpe or unigram, got {algorithm!r}.")


def counts_by_size(
    tokenizer: Tokenizer, texts: Sequence[str], sizes: Sequence[int]
) -> dict[int, Int[ndarray, "texts"]]:
    """Count the tokens of each text with each smaller vocabulary of a BPE tokenizer.

    Args:
        tokenizer: BPE tokenizer trained to the largest of the sizes, or as far as its text allowed.
        texts: texts, each encoded alone.
        sizes: increasing vocabulary sizes; beyond the tokenizer's own the counts no longer change.
    """
    vocabulary, merges = bpe_state(tokenizer)
    limits = merges_at(vocabulary, merges, sizes)
    ranks, made = _ranked(vocabulary, merges)
    pieces = _pieces(tokenizer, texts)
    known: dict[str, list[int]] = {}
    for piece in Counter(piece for of_text in pieces for piece in of_text):
        known[piece] = _lengths([vocabulary[character] for character in piece], ranks, made, limits)
    zero = [0] * len(sizes)
    table = np.array(
        [np.sum([known[piece] for piece in of_text] or [zero], axis=0) for of_text in pieces], dtype=np.int64
    ).reshape(len(pieces), len(sizes))
    return {size: table[:, place] for place, size in enumerate(sizes)}


def segment_counts_by_size(
    tokenizer: Tokenizer, segments: Segments, sizes: Sequence[int]
) -> dict[int, Int[ndarray, "segments"]]:
    """Count the tokens of each segment with each smaller vocabulary; the arguments are those of `counts_by_size`."""
    texts = [text for segment in segments for text in segment]
    require_text(texts)
    counts = counts_by_size(tokenizer, texts, sizes)
    return {size: per_segment(table, segments) for size, table in counts.items()}


def _ranked(vocabulary: Mapping[str, int], merges: Merges) -> tuple[dict[tuple[int, int], int], list[int]]:
    """Rank by pair of ids, and by rank the id that is made."""
    ranks = {(vocabulary[left], vocabulary[right]): rank for rank, (left, right) in enumerate(merges)}
    return ranks, [vocabulary[left + right] for left, right in merges]


def _pieces(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[str]]:
    cut = tokenizer.pre_tokenizer.pre_tokenize_str
    normalise = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    return [[piece for piece, _ in cut(normalise(text))] for text in texts]


def _lengths(
    ids: list[int],
    ranks: Mapping[tuple[int, int], int],
    made: Sequence[int],
    limits: Sequence[int],
) -> list[int]:
    """Tokens of one piece under each number of merges (`limits`, not decreasing), from one pass over all merges.

    With the merges 0: a+b, 1: c+d, 2: ab+cd and the limits 1, 2 and 3, the piece `abcd` has 3, 2 and 1 tokens.
    """
    after, before = [*range(1, len(ids)), -1], [-1, *range(len(ids) - 1)]
    waiting = [
        (rank, left, pair) for left, pair in enumerate(pairwise(ids)) if (rank := ranks.get(pair)) is not None
    ]
    heapq.heapify(waiting)
    length = len(ids)
    found: list[int] = []
    while waiting:
        rank, left, pair = heapq.heappop(waiting)
        right = after[left]
        if right < 0 or (ids[left], ids[right]) != pair:
            continue
        # The lowest merge that applies is beyond these limits: for them the piece no longer changes.
        while len(found) < len(limits) and limits[len(found)] <= rank:
            found.append(length)
        if len(found) == len(limits):
            return found
        ids[left], ids[right], length = made[rank], -1, length - 1
        after[left] = after[right]
        for first, second in ((left, after[left]), (before[left], left)):
            if first >= 0 and second >= 0:
                if first == left:
                    before[second] = left
                new_pair = ids[first], ids[second]
                if (new_rank := ranks.get(new_pair)) is not None:
                    heapq.heappush(waiting, (new_rank, first, new_pair))
    return found + [length] * (len(limits) - len(found))
