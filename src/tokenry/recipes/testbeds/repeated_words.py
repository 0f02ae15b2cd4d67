"""Texts that repeat a list of made-up words: whoever has read the list once, and tells its words apart, knows every word that follows.

kuf ab lomi ab gaf | kuf ab lomi ab gaf | kuf ab ...
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tokenry.architectures import Word, WordModel

LETTERS, LONGEST = 12, 5
Model = torch.nn.Module


@dataclass(frozen=True)
class RepeatedWords:
    """The task of one seed.

    Attributes:
        seed: random seed of words and texts.
        vocabulary: number of words.
        period: words of a list.
        length: words of a text.
    """

    seed: int
    vocabulary: int = 16
    period: int = 5
    length: int = 12

    @cached_property
    def words(self) -> list[Word]:
        """The words: two to five of twelve letters, numbered from 1."""
        draw, found = random.Random(self.seed), dict[Word, None]()
        while len(found) < self.vocabulary:
            found[tuple(draw.randint(1, LETTERS) for _ in range(draw.randint(2, LONGEST)))] = None
        return [*found]

    def text(self, number: int) -> list[Word]:
        """One text; those of negative numbers are for testing."""
        draw = random.Random(f"{self.seed} {number}")
        listed = [draw.choice(self.words) for _ in range(self.period)]
        return [listed[place % self.period] for place in range(self.length)]

    def batches(
        self,
        collate: Callable[[Sequence[Sequence[Word]]], dict[str, Tensor]],
        size: int,
        units: int | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """Fresh texts without end; with `units`, stretches of them that are no longer than so many."""
        number = 0
        while True:
            texts = [self.text(number + place) for place in range(size)]
            if units is not None:
                texts = [
                    first_units(text[number % self.period :], units) for number, text in enumerate(texts)
                ]
            yield collate(texts)
            number += size

    def accuracy(self, model: WordModel, texts: int, units: int | None = None) -> np.ndarray:
        """Whether the last word of each test text is spelled right, from all before it or from the last `units`."""
        tested = [self.text(-1 - number) for number in range(texts)]
        if units is not None:
            tested = [first_units(text[::-1], units)[::-1] for text in tested]
        return np.array([right[-1] for _, right in model.score_words(tested, 64)], dtype=float)


def first_units(text: Sequence[Word], units: int) -> list[Word]:
    """The first words of a text that, with their ends, have no more than so many units."""
    ends = np.cumsum([len(word) + 1 for word in text])
    return [*text[: int((ends <= units).sum())]]
