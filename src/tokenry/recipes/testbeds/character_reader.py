"""A small encoder that answers questions about the letters of a word, given only the word's tokens.

    input     task, character asked about, BPE tokens of the bare word
    output    one of the answers 0 to the longest word's length, read from the first place

The spelling of a token is never given: the model can only learn it from the answers about other words with the same token.
"""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from pandas import DataFrame
from tokenizers import Tokenizer, models, trainers
from torch import Tensor, nn

from tokenry.core.stats import ratio_estimate
from tokenry.evaluation.charbench import TASKS, items_of
from tokenry.evaluation.charbench.items import characters_of
from tokenry.evaluation.charbench.segmentation import WordSegmentation, segment_words
from tokenry.recipes.kit import cosine, fit


@dataclass(frozen=True)
class ReaderConfig:
    """Data, model and training of the reader.

    Attributes:
        words: number of words, the most frequent ones.
        unseen: number of these words, drawn at random, that are kept for testing.
        test_items: number of items about unseen words.
        vocabulary: vocabulary size of the BPE, which is trained on all words.
        heads: attention heads of the encoder.
        steps: training steps.
        batch_size: items per step; each item is seen once.
        learning_rate: peak learning rate (warm-up, then cosine).
    """

    words: int = 24_000
    unseen: int = 3_000
    test_items: int = 8_000
    vocabulary: int = 800
    layers: int = 3
    width: int = 96
    heads: int = 4
    steps: int = 1_500
    batch_size: int = 128
    learning_rate: float = 2e-3
    seed: int = 0


class CharacterReader(nn.Module):
    """The encoder.

    Args:
        config: sizes of the encoder.
        inputs: number of different ids.
        longest: number of ids of the longest input.
        answers: number of answers to choose from.
    """

    def __init__(self, config: ReaderConfig, inputs: int, longest: int, answers: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(inputs, config.width, padding_idx=0)
        self.positions = nn.Parameter(0.02 * torch.randn(longest, config.width))
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, 4 * config.width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, config.layers, nn.LayerNorm(config.width), enable_nested_tensor=False
        )
        self.head = nn.Linear(config.width, answers)

    def forward(self, input_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch answers"]:
        """Logits of the answers; 0 is padding."""
        hidden = self.tokens(input_ids) + self.positions[: input_ids.shape[1]]
        return self.head(self.encoder(hidden, src_key_padding_mask=input_ids == 0)[:, 0])


class Inputs:
    """Items as ids: padding, tasks, no character and the characters, then the tokens of the BPE.

    Args:
        tokenizer: tokenizer whose tokens the model reads.
        words: words whose characters are asked about.
    """

    def __init__(self, tokenizer: Tokenizer, words: Sequence[str]) -> None:
        names: list[object] = [None, *TASKS, ("character", None)]
        names += [("character", character) for character in sorted(set("".join(words)))]
        self._first = {name: number for number, name in enumerate(names)}
        self._vocabulary = tokenizer.get_vocab()
        self.number = len(names) + len(self._vocabulary)
        self.longest = 2 + max(map(len, words))

    def __call__(
        self, items: DataFrame, segmentations: Mapping[str, WordSegmentation]
    ) -> Int[Tensor, "items seq"]:
        """Write items as rows, padded with 0, given the segmentations of their words."""
        ids = torch.zeros(len(items), self.longest, dtype=torch.long)
        rows = zip(items["task"], characters_of(items), items["word"], strict=True)
        for row, (task, character, word) in enumerate(rows):
            tokens = [len(self._first) + self._vocabulary[token] for token in segmentations[word].tokens]
            start = [self._first[task], self._first["character", character]]
            ids[row, : 2 + len(tokens)] = torch.tensor(start + tokens)
        return ids[:, : int((ids != 0).sum(dim=1).max())]


@dataclass(frozen=True)
class Trained:
    """A trained reader and its test items.

    Attributes:
        model: the reader in evaluation mode.
        inputs: the encoding of items as ids.
        items: items about unseen words.
    """

    model: CharacterReader
    inputs: Inputs
    items: DataFrame
    segmentations: Mapping[str, WordSegmentation]
    tokenizer: Tokenizer

    def predict(
        self, items: DataFrame, segmentations: Mapping[str, WordSegmentation], batch_size: int = 500
    ) -> Float[ndarray, "items"]:
        """Answer items about words that are cut in this way."""
        with torch.inference_mode():
            batches = self.inputs(items, segmentations).split(batch_size)
            answers = torch.cat([self.model(batch).argmax(dim=1) for batch in batches])
        return answers.numpy().astype(float)


def train_reader(
    words: Sequence[str], config: ReaderConfig, report: Callable[[float], None] = lambda share: None
) -> Trained:
    """Train a tokenizer and a reader, and set unseen words aside.

    Args:
        words: words in lower case.
        config: sizes; its number of words is not used.
        report: function that is told the share of the steps that is done.
    """
    tokenizer = train_word_bpe(words, config.vocabulary)
    segmentations = segment_words(words, tokenizer)
    draws = random.Random(config.seed)
    shuffled = draws.sample(list(words), len(words))
    unseen, seen = shuffled[: config.unseen], shuffled[config.unseen :]
    train = draw_items(seen, config.steps * config.batch_size, draws)
    torch.manual_seed(config.seed)
    inputs = Inputs(tokenizer, words)
    model = CharacterReader(config, inputs.number, inputs.longest, 1 + max(map(len, words)))
    ids, targets = inputs(train, segmentations), torch.tensor(train["answer"].map(int).to_numpy())
    fit(
        model.train(),
        zip(ids.split(config.batch_size), targets.split(config.batch_size), strict=True),
        lambda batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        config.steps,
        config.learning_rate,
        cosine,
        clip=1.0,
        progress=report,
    )
    return Trained(
        model.eval(), inputs, draw_items(unseen, config.test_items, draws), segmentations, tokenizer
    )


def train_word_bpe(words: Sequence[str], vocabulary: int) -> Tokenizer:
    """Train a BPE on words alone, each counted once."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=vocabulary, show_progress=False, special_tokens=[])
    )
    return tokenizer


def draw_items(words: Sequence[str], number: int, draws: random.Random) -> DataFrame:
    """Draw items: the tasks in turn, a word, and a place in it."""
    tasks = list(itertools.islice(itertools.cycle(TASKS), number))
    chosen = draws.choices(words, k=number)
    letters = [
        None if task == TASKS[0] else draws.choice(word) for task, word in zip(tasks, chosen, strict=True)
    ]
    return items_of(tasks, chosen, letters)


def spelled(segmentation: WordSegmentation, span: tuple[int, int]) -> WordSegmentation:
    """Cut one token, given by the span of its characters, into single characters; the other tokens of the word do not change."""
    spans: list[tuple[int, int]] = []
    for token in zip(segmentation.starts, segmentation.ends, strict=True):
        spans += [(place, place + 1) for place in range(*token)] if token == span else [token]
    word = "".join(segmentation.tokens)
    return WordSegmentation(
        tuple(word[start:end] for start, end in spans),
        tuple(start for start, _ in spans),
        tuple(end for _, end in spans),
    )


@dataclass(frozen=True)
class Recut:
    """Effect of cutting a token of the test words into characters, on the same items: tables of `word` and `change` (−1, 0 or 1).

    Attributes:
        target: changes where the token that holds the character is cut.
        other: changes where another token is cut.
    """

    target: DataFrame
    other: DataFrame

    def as_json(self) -> dict[str, Any]:
        """The mean change of either with its standard error over words, and the number of items."""

        def of_words(change: DataFrame) -> tuple[float, float]:
            by_word = change.groupby("word")["change"]
            sizes = by_word.size().to_numpy(dtype=np.int64)
            found = ratio_estimate(by_word.sum().to_numpy(dtype=float), sizes)
            return found.value, found.standard_error

        return {
            "target": of_words(self.target),
            "other": of_words(self.other),
            "items": len(self.target),
        }


def cut_anew(trained: Trained, task: str) -> Recut:
    """Cut the token that holds the character, or another one, and compare the answers to the same items.

    The items are those about words with at least two tokens of two or more characters, one of which holds the character.
    """
    items = trained.items[trained.items["task"] == task]
    kept: list[int] = []
    target: list[WordSegmentation] = []
    other: list[WordSegmentation] = []
    for number, (word, answer) in enumerate(zip(items["word"], items["answer"].map(int), strict=True)):
        cut = trained.segmentations[word]
        long = [span for span in zip(cut.starts, cut.ends, strict=True) if span[1] - span[0] > 1]
        holding = [span for span in long if span[0] <= answer < span[1]]
        if holding and len(long) > 1:
            kept.append(number)
            target.append(spelled(cut, holding[0]))
            other.append(spelled(cut, next(span for span in long if span not in holding)))
    chosen = items.iloc[kept]
    before = right(chosen, trained.predict(chosen, trained.segmentations)).astype(float)

    def change(cuts: Sequence[WordSegmentation]) -> DataFrame:
        # A word can occur again with another segmentation.
        names = [str(number) for number in range(len(chosen))]
        renamed = chosen.assign(word=names)
        after = right(renamed, trained.predict(renamed, dict(zip(names, cuts, strict=True))))
        return DataFrame({"word": chosen["word"].tolist(), "change": after.astype(float) - before})

    return Recut(change(target), change(other))


def right(items: DataFrame, predictions: Float[ndarray, "items"]) -> Bool[ndarray, "items"]:
    """Whether each prediction is the answer."""
    return np.asarray(items["answer"].map(int).to_numpy() == predictions)
