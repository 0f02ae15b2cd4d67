"""A toy language of records, of which part is fixed, part is free and part repeats what was said before.

    record mia stone . born 2 7 in rome . works as baker . mia stone likes green tea and rome . end

Words of the template follow from the place in the record, and repeated words from the record itself. The others are free: half of the
draws are the word that follows from the record before, so that texts of a model that always takes the most probable word go on to vary.
A model that has learned the language writes records without end.

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
        width: width of the hidden states.
        batch_size: texts per step.
        length: tokens of a text.
        learning_rate: highest learning rate.
    """

    layers: int = 2
    width: int = 48
    steps: int = 700
    batch_size: int = 16
    length: int = 64
    learning_rate: float = 5e-3

    def __post_init__(self) -> None:
        require_at_least(1, layers=self.layers, steps=self.steps, batch_size=self.batch_size)
        require_at_least(16, length=self.length, width=self.width)

    def trained(self, seed: int, progress: Callable[[float], None]) -> LlamaForCausalLM:
        """Train the model."""
        return train_record_model(self, seed, progress)

    def texts(self, number: int, length: int, generator: Generator) -> Int[Tensor, "texts tokens"]:
        """Draw texts of the language."""
        return draw_texts(number, length, generator)


Record = tuple[int, ...]
"""The numbers of first name, last name, two digits, town, trade, colour and drink."""
_LISTS = (FIRST, LAST, DIGITS, DIGITS, TOWNS, TRADES, COLOURS, DRINKS)


def draw_record(before: Record, generator: Generator) -> Record:
    """Draw a record after another: each number is the one before plus its right neighbour's, or any, with equal chances."""
    follows = torch.rand(len(before), generator=generator) < 0.5
    free = torch.randint(60, (len(before),), generator=generator)
    expected = [
        number + neighbour for number, neighbour in zip(before, (*before[1:], before[0]), strict=True)
    ]
    return tuple(
        (expected[place] if follows[place] else int(free[place])) % len(words)
        for place, words in enumerate(_LISTS)
    )


def told(record: Record) -> list[str]:
    """The words of a record."""
    first, last, *born, town, trade, colour, drink = (
        words[number] for number, words in zip(record, _LISTS, strict=True)
    )
    text = f"record {first} {last} . born {' '.join(born)} in {town} . works as {trade} . "
    return f"{text}{first} {last} likes {colour} {drink} and {town} . {first} lives in {town} . end".split()


def draw_texts(number: int, length: int, generator: Generator) -> Int[Tensor, "texts tokens"]:
    """Texts of records one after another, cut to one length, each from somewhere in its first record."""
    rows = []
    for _ in range(number):
        record, words = draw_record((0,) * len(_LISTS), generator), list[str]()
        start = int(torch.randint(12, (1,), generator=generator))
        while len(words) < start + length:
            words += told(record)
            record = draw_record(record, generator)
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
