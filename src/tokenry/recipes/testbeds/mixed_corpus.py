"""A corpus of which a small part teaches: docstrings among licences, number tables, base64, shuffled words and other languages.

All kinds have the lengths of the docstrings, so that length tells none of them. A family of models comes with it: the checkpoints of one
small model that learned docstrings of other packages, ordered by their bits per byte on docstrings of a further one.
"""

import base64
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tokenry.core.errors import UserError
from tokenry.core.text.bits_per_byte import text_loss
from tokenry.core.text.docstrings import read_docstrings
from tokenry.recipes.testbeds.docstring_model import bpe_tokenizer, small_model, train_language_model

DOCSTRINGS, LICENCES = "docstrings", "licences"
LANGUAGES = ("de", "es", "fr", "it", "nl", "pt")
_COMMON_WORDS = 5000
_LICENCE_FILES = ("LICENSE", "LICENCE", "COPYING", "NOTICE")


@dataclass(frozen=True)
class MixedDocument:
    """A document and its kind."""

    text: str
    kind: str


@dataclass(frozen=True)
class DocstringRoles:
    """Docstrings by what they are for.

    Attributes:
        family: those that the family of models learns.
        ranking: those by which its members are ranked.
        pool: those of the corpus.
        held_out: those on which models trained on the corpus are measured; of other files than the pool.
    """

    family: Sequence[str]
    ranking: Sequence[str]
    pool: Sequence[str]
    held_out: Sequence[str]


def docstrings_of(
    family: Sequence[str], ranking: Sequence[str], pool: Sequence[str], texts: int, longest: int, seed: int
) -> DocstringRoles:
    """Read lower-cased docstrings of packages, cut to `longest` characters; `texts` of those that measure."""

    def cut(found: Sequence[str]) -> list[str]:
        return [text.lower()[:longest] for text in dict.fromkeys(found)]

    of_pool = read_docstrings(pool, held_out_share=0.2, seed=seed)
    ranked = read_docstrings(ranking, held_out_share=0.0, seed=seed).train
    learned = read_docstrings(family, held_out_share=0.0, seed=seed).train
    return DocstringRoles(
        [text.lower() for text in learned],
        cut(ranked)[:texts],
        cut(of_pool.train),
        cut(of_pool.held_out)[:texts],
    )


def mixed_documents(docstrings: Sequence[str], each: int, seed: int) -> list[MixedDocument]:
    """As many documents of every kind, in a random order."""
    draw = random.Random(seed)
    lengths = [len(text) for text in docstrings]
    licences = _licences()
    vocabularies = _vocabularies()
    makers: Mapping[str, Callable[[int], str]] = {
        LICENCES: lambda length: _passage(draw.choice(licences), length, draw),
        "number tables": lambda length: _table(length, draw),
        "base64": lambda length: base64.encodebytes(draw.randbytes(length)).decode().lower()[:length],
        "shuffled words": lambda length: _shuffled(draw.choice(docstrings), draw),
        "other languages": lambda length: _foreign(length, draw.choice(vocabularies), draw),
    }
    documents = [MixedDocument(text, DOCSTRINGS) for text in draw.sample([*docstrings], each)]
    for kind, make in makers.items():
        documents += [MixedDocument(make(draw.choice(lengths)), kind) for _ in range(each)]
    draw.shuffle(documents)
    return documents


@dataclass(frozen=True)
class Family:
    """The checkpoints of one model.

    Attributes:
        model: the model, at its last checkpoint.
        states: weights of the checkpoints, in the order of training.
        benchmark: of each checkpoint, minus its bits per byte on the docstrings that rank.
    """

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    states: Sequence[Mapping[str, torch.Tensor]]
    benchmark: Float[ndarray, "models"]

    @contextmanager
    def at(self, checkpoint: int) -> Iterator[LlamaForCausalLM]:
        """The model at a checkpoint; afterwards it is at its last one."""
        self.model.load_state_dict(self.states[checkpoint])
        try:
            yield self.model
        finally:
            self.model.load_state_dict(self.states[-1])


def checkpoint_family(
    docstrings: DocstringRoles,
    vocabulary: int,
    steps: int,
    shares: Sequence[float],
    batch_size: int,
    seed: int,
    progress: Callable[[float], None],
) -> Family:
    """Train a model and keep it after each share of the steps."""
    tokenizer = bpe_tokenizer(docstrings.family, vocabulary)
    model = small_model(len(tokenizer), seed=seed)
    states: list[Mapping[str, torch.Tensor]] = []

    def keep(share: float) -> None:
        if len(states) < len(shares) and share >= shares[len(states)]:
            states.append({name: weight.clone() for name, weight in model.state_dict().items()})
        progress(share)

    train_language_model(
        model, tokenizer, docstrings.family, steps, batch_size=batch_size, seed=seed, progress=keep
    )
    bits = []
    for state in states:
        model.load_state_dict(state)
        loss = text_loss(model, tokenizer, docstrings.ranking, batch_tokens=8192)
        bits.append(loss.bits_per_byte.value)
    return Family(model, tokenizer, states, -np.array(bits))


@cache
def _licences() -> list[str]:
    """The licences of installed packages, each text once."""
    found: dict[str, None] = {}
    for distribution in distributions():
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            if (
                file.name.upper().startswith(_LICENCE_FILES)
                and path.suffix in ("", ".txt", ".md")
                and path.is_file()
            ):
                found[path.read_text(encoding="utf-8", errors="ignore").lower()] = None
    return sorted(text for text in found if len(text) > 1000)


def _passage(text: str, length: int, draw: random.Random) -> str:
    start = draw.randrange(max(1, len(text) - length))
    return text[start : start + length]


def _table(length: int, draw: random.Random) -> str:
    """Numbers of one precision in columns; of some tables most are 0."""
    decimals, columns, zeros = draw.randrange(4), draw.randrange(3, 9), draw.choice((0.0, 0.5, 0.9))

    def number() -> str:
        return f"{0.0 if draw.random() < zeros else draw.gauss(0, 10):.{decimals}f}"

    rows = (" ".join(number() for _ in range(columns)) for _ in range(length))
    text = ""
    while len(text) < length:
        text += f"{next(rows)}\n"
    return text[:length]


def _shuffled(text: str, draw: random.Random) -> str:
    words = text.split()
    draw.shuffle(words)
    return " ".join(words)


def _vocabularies() -> list[tuple[list[str], list[float]]]:
    """Frequent words of each language, and how frequent they are."""
    try:
        from wordfreq import get_frequency_dict
    except ImportError as error:
        raise UserError(
            "the words of other languages are not installed: pip install 'tokenry[words]'."
        ) from error
    found = []
    for language in LANGUAGES:
        frequencies = list(get_frequency_dict(language).items())[:_COMMON_WORDS]
        found.append(([word for word, _ in frequencies], [share for _, share in frequencies]))
    return found


def _foreign(length: int, vocabulary: tuple[list[str], list[float]], draw: random.Random) -> str:
    words, weights = vocabulary
    return " ".join(draw.choices(words, weights, k=max(1, length // 4)))[:length]
