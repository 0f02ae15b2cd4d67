"""What a tokenizer makes of the queried words: how many tokens, how long, and the one that holds the character asked about.

A word is cut alone, without a space before it and without special tokens.

    number_of_tokens     of the word
    compression          word_length / number_of_tokens
    gold_over_length     answer / word_length
    target_token_length  characters of the first token that ends behind position `answer` (index tasks only)

Lengths are in characters (code points), from the offsets of the fast tokenizer: the raw pieces of a byte-level vocabulary, whose
lengths the released analysis takes, are as long as the text for ASCII words only.

Source: CharBench (arXiv 2508.02591), section 5; omriuz/CharBench, analysis/utils.py.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from pandas import DataFrame
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import backend_tokenizer
from tokenry.evaluation.charbench.items import INDEX_TASKS, check_items

TOKENIZATION = ("number_of_tokens", "compression", "target_token_length")
PROPERTIES = ("word_length", "gold", "gold_over_length", "unique_characters", *TOKENIZATION)

_META = "▁"


@dataclass(frozen=True)
class Segmentation:
    """How a word is cut.

    Attributes:
        tokens: pieces as the vocabulary writes them.
        starts: of each token, the character of the word at which it begins.
        ends: of each token, the character behind it; never falling.
    """

    tokens: tuple[str, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    @classmethod
    def of_tokens(cls, tokens: Iterable[str]) -> "Segmentation":
        """Read a segmentation off token strings, one after the other, as the released analysis does.

        Args:
            tokens: the first may begin with SentencePiece's sign for a space, which is dropped unless it is all there is of the token.
        """
        first, *others = [*tokens] or [""]
        pieces = (first[1:] if first.startswith(_META) and len(first) > 1 else first, *others)
        ends = tuple(accumulate(map(len, pieces)))
        return cls(pieces, (0, *ends[:-1]), ends)

    def length_at(self, position: int) -> float:
        """Characters of the token that holds the character at `position`; nan where no token does."""
        place = bisect_right(self.ends, position)
        if place == len(self.ends) or self.starts[place] > position:
            return float("nan")
        return float(self.ends[place] - self.starts[place])


def segment_words(
    words: Iterable[str], tokenizer: PreTrainedTokenizerBase | Tokenizer
) -> dict[str, Segmentation]:
    """Cut every distinct word.

    Raises:
        UserError: a slow tokenizer, which tells no offsets.
    """
    distinct = list(dict.fromkeys(words))
    backend = Tokenizer.from_str(backend_tokenizer(tokenizer).to_str())
    # What a user set for other purposes would cut words short or fill them up.
    backend.no_truncation()
    backend.no_padding()
    encoded = backend.encode_batch(distinct, add_special_tokens=False)
    return {
        word: Segmentation(
            tuple(each.tokens),
            tuple(start for start, _ in each.offsets),
            tuple(accumulate((end for _, end in each.offsets), max)),
        )
        for word, each in zip(distinct, encoded, strict=True)
    }


def tokenization_features(items: DataFrame, tokenizer: PreTrainedTokenizerBase | Tokenizer) -> DataFrame:
    """Describe the word of every item, and how a tokenizer cuts it.

    Args:
        items: as of `build_charbench`.
        tokenizer: a fast one.

    Returns:
        One row per item, indexed as the items: the columns of `PROPERTIES`, and `tokens` (a tuple of pieces).

    Raises:
        UserError: items that cannot be (see `check_items`), or a tokenizer without offsets.
    """
    check_items(items)
    return features_of(items, segment_words(items["word"], tokenizer))


def features_of(items: DataFrame, segmentations: Mapping[str, Segmentation]) -> DataFrame:
    """Describe the word of every item, cut in any way.

    Args:
        items: as of `build_charbench`.
        segmentations: of every word.

    Raises:
        UserError: a word that is not cut.
    """
    words, tasks = items["word"].tolist(), items["task"].tolist()
    uncut = next((word for word in words if word not in segmentations), None)
    if uncut is not None:
        raise UserError(
            f"there is no segmentation of the word {uncut!r}: give one for every word asked about."
        )
    gold = np.array([int(answer) for answer in items["answer"]])
    lengths = np.array([len(word) for word in words])
    cut = [segmentations[word] for word in words]
    number = np.array([len(each.tokens) for each in cut])
    return DataFrame(
        {
            "tokens": [each.tokens for each in cut],
            "word_length": lengths,
            "gold": gold,
            "gold_over_length": gold / lengths,
            "unique_characters": [len(set(word)) for word in words],
            "number_of_tokens": number,
            "compression": lengths / np.where(number, number, np.nan),
            "target_token_length": _target_lengths(tasks, gold.tolist(), cut),
        },
        index=items.index,
    )


def _target_lengths(tasks: Sequence[str], gold: Sequence[int], cut: Sequence[Segmentation]) -> list[float]:
    return [
        each.length_at(position) if task in INDEX_TASKS else float("nan")
        for task, position, each in zip(tasks, gold, cut, strict=True)
    ]
