"""Tokenizers with the pre-tokenizers of the field, small ones, and models that know exactly what they write."""

import functools
import itertools
import json

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests.golden import golden_json
from tests.tiny.backends import sentencepiece
from tokenry.core.text.byte_level import to_byte_characters
from tokenry.decoding.byte_level.byte_lm import ByteLM

GOLDEN = golden_json("10-byte-probabilities", "dev-byte-probs.json")

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
RIGHT_TO_LEFT = r"\d{1,3}(?=(?:\d{3})*\b)"

TEXTS = [
    "the cat sat on the mat, isn't it?  We're there   now\n\n  if x:\n    y = 1234567 + 89\n",
    "naïve café — déjà vu 漢字 東京 東京 don't they'll I'VE 12 345 1000000 2024",
    "FooBar fooBAR HTTPServer 'quoted' ''re 're\t\t x  \n   y — “it’s” 😀 😀 été",
]


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def _bytes(use_regex: bool = False) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


PRE_TOKENIZERS = {
    "none": _bytes(),
    "gpt2": _bytes(True),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _bytes(True)]),
    "llama3": pre_tokenizers.Sequence([_split(LLAMA3), _bytes()]),
    "o200k": pre_tokenizers.Sequence([_split(O200K), _bytes()]),
    "deepseek": pre_tokenizers.Sequence(
        [_split(r"\p{N}{1,3}"), _split(r"[一-龥぀-ゟ゠-ヿ]+"), _split(DEEPSEEK), _bytes()]
    ),
    "right to left": pre_tokenizers.Sequence([_split(RIGHT_TO_LEFT), _bytes(True)]),
}


@functools.cache
def byte_level(name: str, vocabulary: int = 420) -> Tokenizer:
    """A byte-level tokenizer with one of the pre-tokenizers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = PRE_TOKENIZERS[name], decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    return tokenizer


@functools.cache
def metaspace(split: bool) -> Tokenizer:
    """SentencePiece with byte fallback, as newer files describe it."""
    state = json.loads(sentencepiece().to_str())
    state["normalizer"] = None
    state["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "first",
        "split": split,
    }
    return Tokenizer.from_str(json.dumps(state))


@functools.cache
def gemma() -> Tokenizer:
    """SentencePiece with byte fallback, without the space before a text, and a pre-tokenizer that never cuts."""
    tokenizer = sentencepiece()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return tokenizer


TOKENIZERS = {
    **{name: functools.partial(byte_level, name) for name in PRE_TOKENIZERS},
    "sentencepiece": functools.cache(sentencepiece),
    "metaspace": functools.partial(metaspace, False),
    "metaspace, cut": functools.partial(metaspace, True),
    "gemma": gemma,
}


def golden_lm(case: dict, invalid: str, **options) -> ByteLM:
    """The byte-pair machine and the bigram model of a golden case."""
    names = [to_byte_characters(bytes.fromhex(data)) for data in case["vocab_hex"]]
    merges = [(names[left], names[right]) for left, right in case["merges"]]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = _bytes(), decoders.ByteLevel()
    table, size = torch.tensor(case["lm_logprobs"], dtype=torch.float64), len(names)
    return ByteLM(
        lambda sequences: table[[ids[-1] if ids else size for ids in sequences]],
        tokenizer,
        invalid={"tr": "renormalize"}.get(invalid, invalid),
        eos_token_ids=[size],
        **options,
    )


class KnownTexts:
    """A language model of finitely many texts with known probabilities, which gives nothing to what its tokenizer never writes."""

    def __init__(self, tokenizer: Tokenizer, characters: str, longest: int, seed: int = 0) -> None:
        texts = [
            "".join(some)
            for length in range(1, longest + 1)
            for some in itertools.product(characters, repeat=length)
            # Where a space is put before a text, one that has it already looks the same.
            if some[0] != " "
        ]
        weights = np.random.default_rng(seed).exponential(size=len(texts))
        self.tokenizer, self.end = tokenizer, tokenizer.get_vocab_size()
        self.texts = {
            text.encode(): weight / weights.sum() for text, weight in zip(texts, weights, strict=True)
        }
        self._mass: dict[tuple[int, ...], float] = {}
        self._next: dict[tuple[int, ...], set[int]] = {}
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
        for encoding, probability in zip(encodings, self.texts.values(), strict=True):
            ids = (*encoding.ids, self.end)
            for place in range(len(ids) + 1):
                self._mass[ids[:place]] = self._mass.get(ids[:place], 0.0) + probability
                self._next.setdefault(ids[:place], set()).update(ids[place : place + 1])

    def __call__(self, sequences: list[tuple[int, ...]]) -> torch.Tensor:
        rows = torch.full((len(sequences), self.end + 1), -torch.inf, dtype=torch.float64)
        for row, ids in zip(rows, sequences, strict=True):
            for token in self._next.get(ids, ()):
                row[token] = np.log(self._mass[(*ids, token)] / self._mass[ids])
        return rows

    def byte_lm(self, **options) -> ByteLM:
        return ByteLM(self, self.tokenizer, eos_token_ids=[self.end], **options)

    def prefix(self, data: bytes) -> float:
        return sum(probability for text, probability in self.texts.items() if text.startswith(data))

    def next_bytes(self, data: bytes) -> np.ndarray:
        found = np.zeros(257)
        for text, probability in self.texts.items():
            if text.startswith(data):
                found[text[len(data)] if len(text) > len(data) else 256] += probability
        return found / found.sum()
