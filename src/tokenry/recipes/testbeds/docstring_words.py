"""Docstrings as words of bytes or as whole words, with how often each occurs in training, and with typing errors in what stands before a word.

Words are cut as the paper does, so that a word with its end is a word with the space behind it: the flat model reads the same bytes.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from tokenry.architectures import (
    ByteSpelling,
    FlatLM,
    WholeWordSpelling,
    Word,
    WordCoder,
    WordModel,
    collate_flat,
)
from tokenry.core.text.docstrings import read_docstrings

LONGEST = 20
TYPOS = 0.2
_PACKAGES, _FILES = ("sklearn", "scipy"), 100


@dataclass(frozen=True)
class DocstringWords:
    """The text of one seed.

    Attributes:
        seed: random seed of the held-out files, batches and typing errors.
        length: words of a window.
        windows: held-out windows at most.
    """

    seed: int
    length: int = 40
    windows: int = 400

    @cached_property
    def streams(self) -> tuple[list[Word], list[Word]]:
        """Training words and held-out words, without those of more than 20 bytes."""
        coder = WordCoder(ByteSpelling(), longest=LONGEST)
        found = read_docstrings(_PACKAGES, 0.05, self.seed, _FILES)
        sides = []
        for texts in (found.train, found.held_out):
            words = (word for text in texts for word in coder.splitter.words(text.lower()))
            spelled = (tuple(coder.units.encode(word)) for word in words)
            sides.append([word for word in spelled if len(word) <= LONGEST])
        return sides[0], sides[1]

    @cached_property
    def counts(self) -> Counter[Word]:
        """How often each word occurs in the training text."""
        return Counter(self.streams[0])

    @cached_property
    def whole_words(self) -> WholeWordSpelling:
        """The words that occur three times or more in the training text."""
        return WholeWordSpelling.of(ByteSpelling().decode(word) for word in self.streams[0])

    @cached_property
    def held_out(self) -> list[list[Word]]:
        """Windows of held-out words."""
        words = self.streams[1]
        starts = range(0, len(words) - self.length + 1, self.length)
        return [words[start : start + self.length] for start in starts][: self.windows]

    def batches(
        self, collate: Callable[[Sequence[Sequence[Word]]], dict[str, Tensor]], size: int
    ) -> Iterator[dict[str, Tensor]]:
        """Random windows of training words without end."""
        words, draw = self.streams[0], random.Random(self.seed)
        while True:
            starts = [draw.randrange(len(words) - self.length) for _ in range(size)]
            yield collate([words[start : start + self.length] for start in starts])

    def word_bits(self, model: WordModel) -> np.ndarray:
        """Bits per byte, a space after each counted, of every held-out word but the first of a window."""
        scored = model.score_words(self.held_out, 32)
        nll = np.concatenate([nll for nll, _ in scored])
        return nll / np.log(2) / np.array([len(word) + 1 for word in self._predicted])

    def seen(self) -> np.ndarray:
        """How often each of those words occurs in the training text."""
        return np.array([self.counts[word] for word in self._predicted])

    @property
    def _predicted(self) -> list[Word]:
        return [word for window in self.held_out for word in window[1:]]

    def typo_cost(self, model: WordModel) -> np.ndarray:
        """Bits that the last word of each window costs more where a fifth of the words before it are mistyped."""
        draw = random.Random(self.seed)
        mistyped = [[*(mistype(word, draw) for word in window[:-1]), window[-1]] for window in self.held_out]
        plain, wrong = (
            np.array([nll[-1] for nll, _ in model.score_words(side, 32)]) / np.log(2)
            for side in (self.held_out, mistyped)
        )
        return wrong - plain


@dataclass(frozen=True)
class WholeWordReader:
    """A flat model of whole words that is given words of bytes.

    Attributes:
        model: the model.
        spelling: its units.
    """

    model: FlatLM
    spelling: WholeWordSpelling

    def collate(self, windows: Sequence[Sequence[Word]]) -> dict[str, Tensor]:
        """A batch for the model."""
        return collate_flat(self._respelled(windows), len(self.spelling.vocabulary))

    def score_words(
        self, windows: Sequence[Sequence[Word]], batch_size: int = 8
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """As the model."""
        return self.model.score_words(self._respelled(windows), batch_size)

    def _respelled(self, windows: Sequence[Sequence[Word]]) -> list[list[Word]]:
        read = ByteSpelling().decode
        return [[tuple(self.spelling.encode(read(word))) for word in window] for window in windows]


def mistype(word: Word, draw: random.Random) -> Word:
    """Swap two neighbouring letters in one word of five, where it has two."""
    if draw.random() >= TYPOS or len(word) < 2:
        return word
    place = draw.randrange(len(word) - 1)
    return (*word[:place], word[place + 1], word[place], *word[place + 2 :])
