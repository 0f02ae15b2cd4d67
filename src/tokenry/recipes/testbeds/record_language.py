"""A toy language of records, of which part is fixed, part is free and part repeats what was said before.

    record mia stone . born 2 7 in rome . works as baker . mia stone likes green tea and rome . end

Words of the template follow from the place in the record, repeated words from the record itself, and the others are free, drawn with
probabilities of their own: some first names go with some trades. A model that has learned the language writes records without end.

Source: the testbed is ours, after the small-scale check of multi-token prediction with masks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Generator, Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tokenry.core.errors import require_at_least
from tokenry.recipes.kit import fit, one_cycle

FIRST = ("mia", "tom", "eva", "ben", "ida", "sam")
LAST = ("stone", "river", "hill", "wood")
TOWNS = ("rome", "oslo", "lima", "cairo")
TRADES = ("baker", "pilot", "nurse")
COLOURS = ("green", "black", "white")
DRINKS = ("tea", "coffee", "juice")
DIGITS = tuple("0123456789")
TEMPLATE = ("<pad>", "record", ".", "born", "in", "works", "as", "likes", "and", "end", "lives")
WORDS = (*TEMPLATE, *FIRST, *LAST, *TOWNS, *TRADES, *COLOURS, *DRINKS, *DIGITS)
"""The vocabulary."""
_ID = {word: number for number, word in enumerate(WORDS)}
LONGEST = 512


@dataclass(frozen=True)
class RecordModel:
    """Size and training of a model of the language.

    Attributes:
        layers: number of layers.
        width: width of the hidden states.
        steps: steps of training.
        batch_size: texts per step.
        length: tokens of a text.
        learning_rate: highest learning rate.
    """

    layers: int = 2
    width: int = 48
    steps: int = 900
    batch_size: int = 16
    length: int = 64
    learning_rate: float = 5e-3

    def __post_init__(self) -> None:
        require_at_least(1, layers=self.layers, steps=self.steps, batch_size=self.batch_size)
        require_at_least(16, length=self.length, width=self.width)


def draw_record(generator: Generator) -> list[str]:
    """One record."""

    def drawn(words: Sequence[str], near: int = 0) -> str:
        # Half of the draws are the word at `near`, so that the free words are not all alike.
        place = int(torch.randint(2 * len(words), (1,), generator=generator))
        return words[place % len(words) if place < len(words) else near % len(words)]

    first, last, town = drawn(FIRST), drawn(LAST), drawn(TOWNS)
    number = FIRST.index(first)
    trade, colour = drawn(TRADES, number), drawn(COLOURS, number)
    drink = drawn(DRINKS, COLOURS.index(colour))
    born = [drawn(DIGITS, number), drawn(DIGITS, number)]
    text = f"record {first} {last} . born {' '.join(born)} in {town} . works as {trade} . "
    return f"{text}{first} {last} likes {colour} {drink} and {town} . {first} lives in {town} . end".split()


def draw_texts(number: int, length: int, generator: Generator) -> Int[Tensor, "texts tokens"]:
    """Texts of records one after another, cut to one length, each from somewhere in its first record."""
    rows = []
    for _ in range(number):
        words: list[str] = []
        start = int(torch.randint(12, (1,), generator=generator))
        while len(words) < start + length:
            words += draw_record(generator)
        rows.append([_ID[word] for word in words[start : start + length]])
    return torch.tensor(rows)


def written(tokens: Sequence[int]) -> str:
    """The words of tokens."""
    return " ".join(WORDS[token] for token in tokens)


def train_record_model(
    setting: RecordModel, seed: int, progress: Callable[[float], None] = lambda share: None
) -> LlamaForCausalLM:
    """Train a Llama on the language."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=setting.width,
        intermediate_size=2 * setting.width,
        num_hidden_layers=setting.layers,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        pad_token_id=_ID["<pad>"],
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).train()
    texts = draw_texts(1024, setting.length, generator)

    def loss(rows: Tensor) -> Tensor:
        value: Tensor = model(input_ids=rows, labels=rows).loss
        return value

    batches = (
        texts[torch.randint(len(texts), (setting.batch_size,), generator=generator)]
        for _ in range(setting.steps)
    )
    fit(model, batches, loss, setting.steps, setting.learning_rate, one_cycle, clip=1.0, progress=progress)
    return model.eval()
