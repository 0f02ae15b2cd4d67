"""The segmentation of the queried words: number of tokens, their lengths, and the token that holds the character asked about.

A word is cut alone, without a space before it and without special tokens.

    number_of_tokens     tokens of the word
    compression          word_length / number_of_tokens
    gold_over_length     answer / word_length
    target_token_length  characters of the first token that ends after position `answer` (index tasks only)

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
class WordSegmentation:
    """A word as a tokenizer cuts it.

    Attributes:
        tokens: pieces as the vocabulary writes them.
        starts: for each token, the character of the word at which it begins.
        ends: for each token, the character after it; never decreasing.
    """

    tokens: tuple[str, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    @classmethod
    def of_tokens(cls, tokens: Iterable[str]) -> "WordSegmentation":
        """Read a segmentation off consecutive token strings, as the released analysis does.

        SentencePiece's sign for a space is dropped from the first token, unless the token consists of it.
        """
        first, *others = [*tokens] or [""]
        pieces = (first[1:] if first.startswith(_META) and len(first) > 1 else first, *others)
        ends = tuple(accumulate(map(len, pieces)))
        return cls(pieces, (0, *ends[:-1]), ends)

    def length_at(self, position: int) -> float:
        """Number of characters of the token that holds the character at `position`; nan if no token does."""
        place = bisect_right(self.ends, position)
        if place == len(self.ends) or self.starts[place] > position:
            return float("nan")
        return float(self.ends[place] - self.starts[place])


Segmentation = WordSegmentation
"""The name of the class in `tokenry.evaluation.charbench`."""


def segment_words(
    words: Iterable[str], tokenizer: PreTrainedTokenizerBase | Tokenizer
) -> dict[str, WordSegmentation]:
    """Cut every distinct word."""
    distinct = list(dict.fromkeys(words))
    backend = Tokenizer.from_str(backend_tokenizer(tokenizer).to_str())
    # Truncation and padding set for other purposes would change the words.
    backend.no_truncation()
    backend.no_padding()
    encoded = backend.encode_batch(distinct, add_special_tokens=False)
    return {
        word: WordSegmentation(
            tuple(encoding.tokens),
            tuple(start for start, _ in encoding.offsets),
            tuple(accumulate((end for _, end in encoding.offsets), max)),
        )
        for word, encoding in zip(distinct, encoded, strict=True)
    }


def tokenization_features(items: DataFrame, tokenizer: PreTrainedTokenizerBase | Tokenizer) -> DataFrame:
    """Describe the word of every item, and how a fast tokenizer cuts it.

    Returns:
        One row per item, indexed as the items: the columns of `PROPERTIES`, and `tokens` (a tuple of pieces).
    """
    check_items(items)
    return features_of(items, segment_words(items["word"], tokenizer))


def features_of(items: DataFrame, segmentations: Mapping[str, WordSegmentation]) -> DataFrame:
    """Describe the word of every item, given a segmentation of every word; the columns are those of `tokenization_features`."""
    words, tasks = items["word"].tolist(), items["task"].tolist()
    uncut = next((word for word in words if word not in segmentations), None)
    if uncut is not None:
        raise UserError(
            f"there is no segmentation of the word {uncut!r}: give one for every word asked about."
        )
    gold = np.array([int(answer) for answer in items["answer"]])
    lengths = np.array([len(word) for word in words])
    cut = [segmentations[word] for word in words]
    number = np.array([len(segmentation.tokens) for segmentation in cut])
    return DataFrame(
        {
            "tokens": [segmentation.tokens for segmentation in cut],
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


def _target_lengths(
    tasks: Sequence[str], gold: Sequence[int], cut: Sequence[WordSegmentation]
) -> list[float]:
    return [
        segmentation.length_at(position) if task in INDEX_TASKS else float("nan")
        for task, position, segmentation in zip(tasks, gold, cut, strict=True)
    ]
