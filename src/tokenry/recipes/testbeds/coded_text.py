"""The same text as bytes, BPE tokens and coded streams, and a small transformer that learns to predict each of them.

    M1      an n-gram of bytes, counted on docstrings that neither stream holds
    M2      a GPT-2 of two layers, the same steps and tokens for every stream: equal FLOPs beside the embeddings

A text is coded example by example, 10,240 bytes each as in the paper; held-out examples are the units of every comparison.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from tokenry.core.io.progress import Progress, in_turn, named, one_stage, part
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.text.docstrings import read_docstrings
from tokenry.recipes.kit import cosine, fit
from tokenry.tokenization.equal_info import (
    ArithmeticCodec,
    CodedWindows,
    EqualInfoCodec,
    WittenBellModel,
    coder_resets,
    stream_tokens,
    wrong_windows,
)
from tokenry.tokenization.training import train_bpe

AC, WINDOWS, CODER_ONLY, BYTES, BPE = "AC", "windows", "coder reset only", "bytes", "BPE"


@dataclass(frozen=True)
class CodedTextSizes:
    """Size of the experiment at one scale.

    Attributes:
        packages: packages whose docstrings are the text.
        counted: bytes that M1 and the BPE are made from.
        text: bytes that M2 can learn from.
        held_out: bytes that M2 is measured on.
        example_bytes: bytes of an example.
        ratio_bytes: bytes of the examples on which compression ratios are measured.
        ratio_examples: number of these.
        windows: sizes of their windows in bits.
        bpe: tokens of the BPE.
        layers: layers of M2.
        width: its width.
        heads: its heads.
        length: tokens that it reads at once, a whole number of windows.
        batch_size: stretches of a step.
        steps: steps.
        learning_rate: highest learning rate.
        seeds: one M2 for each, on the streams of the headline.
        few_seeds: on the other streams.
    """

    packages: tuple[str, ...] = ("sklearn", "scipy", "pandas")
    counted: int = 1_000_000
    text: int = 2_000_000
    held_out: int = 153_600
    example_bytes: int = 10_240
    ratio_bytes: int = 4_096
    ratio_examples: int = 10
    windows: tuple[int, ...] = (16, 32, 64, 128)
    bpe: int = 1024
    layers: int = 2
    width: int = 128
    heads: int = 4
    length: int = 128
    batch_size: int = 16
    steps: int = 200
    learning_rate: float = 2e-3
    seeds: tuple[int, ...] = (0, 1)
    few_seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class CodedText:
    """A text in three parts: what M1 is counted on, what M2 learns, what M2 is measured on."""

    counted: bytes
    text: bytes
    held_out: bytes


@dataclass(frozen=True)
class StreamLoss:
    """What M2 makes of a stream, for each held-out example.

    Attributes:
        bits: bits per token, the mean over seeds.
        unigram: the same for the frequencies of the tokens that M2 has learned from.
        by_place: for their frequencies at each place of a window of two tokens.
        tokens_per_byte: tokens of the example over its bytes.
    """

    bits: Float[np.ndarray, "examples"]
    unigram: Float[np.ndarray, "examples"]
    by_place: Float[np.ndarray, "examples"]
    tokens_per_byte: Float[np.ndarray, "examples"]

    @property
    def bits_per_byte(self) -> Float[np.ndarray, "examples"]:
        """Bits per byte of the text."""
        return self.bits * self.tokens_per_byte


@dataclass(frozen=True)
class WindowSizeTrial:
    """Windows of one size, for each example.

    Attributes:
        greedy: bit ratio of greedy windows.
        free: of free windows.
        wrong: share of the greedy windows that decode to another text.
        lossless: whether every free window gives its text back.
    """

    greedy: Float[np.ndarray, "examples"]
    free: Float[np.ndarray, "examples"]
    wrong: Float[np.ndarray, "examples"]
    lossless: bool


def coded_text(sizes: CodedTextSizes, seed: int = 0) -> CodedText:
    """Read the docstrings, whole ones to each part, each once."""
    texts = [*dict.fromkeys(read_docstrings(sizes.packages, held_out_share=0.0).train)]
    random.Random(seed).shuffle(texts)
    rest = iter(texts)
    held_out, counted, text = (_joined(rest, size) for size in (sizes.held_out, sizes.counted, sizes.text))
    return CodedText(counted, text, held_out)


def _joined(texts: Iterator[str], size: int) -> bytes:
    data = bytearray()
    for text in texts:
        data += text.encode() + b"\0"
        if len(data) >= size:
            break
    return bytes(data[:size])


class TextStreams:
    """Turns examples into the tokens of each stream.

    Args:
        counted: what M1 and the BPE are made from.
        bpe: tokens of the BPE.
    """

    def __init__(self, counted: bytes, bpe: int) -> None:
        self.m1 = WittenBellModel(counted)
        self._bpe = train_bpe([counted.decode(errors="ignore")], bpe)
        self._coded: Mapping[str, Callable[[bytes], Any]] = {
            AC: lambda text: stream_tokens(ArithmeticCodec(self.m1).encode(text), 8),
            WINDOWS: lambda text: EqualInfoCodec(self.m1).encode(text, self_test=False).to_tokens(8),
            CODER_ONLY: lambda text: coder_resets(self.m1, text).to_tokens(8),
            BYTES: lambda text: np.frombuffer(text, np.uint8),
            BPE: lambda text: self._bpe.encode(text.decode(errors="ignore")).ids,
        }

    def vocabulary(self, stream: str) -> int:
        """Tokens of a stream."""
        return self._bpe.get_vocab_size() if stream == BPE else 256

    def tokens(self, stream: str, example: bytes) -> Int[np.ndarray, "tokens"]:
        """The tokens of an example; a window of 16 bits is two tokens."""
        return np.asarray(self._coded[stream](example), dtype=np.int64)


def examples_of(text: bytes, size: int) -> list[bytes]:
    """A text in examples of one size; the rest is left out."""
    return [text[place : place + size] for place in range(0, len(text) - size + 1, size)]


def window_trials(
    streams: TextStreams, text: bytes, sizes: CodedTextSizes, progress: Progress
) -> dict[int, WindowSizeTrial]:
    """Code examples in windows of each size."""
    examples = examples_of(text, sizes.ratio_bytes)[: sizes.ratio_examples]
    found = {}
    for number, window_bits in enumerate(sizes.windows):
        progress(f"windows of {window_bits} bits", number / len(sizes.windows))
        greedy, free = (
            EqualInfoCodec(streams.m1, window_bits, end_of_window=end) for end in ("greedy", "free")
        )
        cut, freed = greedy.encode_many(examples), free.encode_many(examples)
        pairs = list(zip(cut, examples, strict=True))
        back = [bytes(example) for example in free.decode_many(freed)]
        found[window_bits] = WindowSizeTrial(
            _bit_ratios(cut, examples),
            _bit_ratios(freed, examples),
            np.array([wrong_windows(greedy, coded, example).mean() for coded, example in pairs]),
            back == examples,
        )
    return found


def _bit_ratios(coded: Sequence[CodedWindows], examples: Sequence[bytes]) -> np.ndarray:
    return np.array(
        [
            8 * len(text) / (found.window_bits * len(found.codes))
            for found, text in zip(coded, examples, strict=True)
        ]
    )


def stream_ratios(streams: TextStreams, text: bytes, sizes: CodedTextSizes) -> np.ndarray:
    """Bit ratio of the arithmetic code of each example."""
    examples = examples_of(text, sizes.ratio_bytes)[: sizes.ratio_examples]
    return np.array([len(example) / len(streams.tokens(AC, example)) for example in examples])


def learned(
    streams: TextStreams, text: CodedText, names: Sequence[str], sizes: CodedTextSizes, progress: Progress
) -> dict[str, StreamLoss]:
    """Train M2 on each stream, once for each seed, and measure it on the held-out examples."""
    found = {}
    for name, told in in_turn(names, progress):
        told(f"coding, {name}", 0.0)
        train = _train_stream(streams, name, text.text, sizes)
        held_out = [
            streams.tokens(name, example) for example in examples_of(text.held_out, sizes.example_bytes)
        ]
        told_of_training = one_stage(part(told, 0.2, 1.0), f"training M2, {name}")
        own = replace(sizes, seeds=sizes.seeds if name in (AC, WINDOWS) else sizes.few_seeds)
        found[name] = _loss_of(train, held_out, streams.vocabulary(name), own, told_of_training)
    return found


def _train_stream(streams: TextStreams, name: str, text: bytes, sizes: CodedTextSizes) -> np.ndarray:
    """As many tokens as M2 reads, each once."""
    needed, parts = sizes.steps * sizes.batch_size * sizes.length, []
    for example in examples_of(text, sizes.example_bytes):
        parts.append(streams.tokens(name, example))
        needed -= len(parts[-1])
        if needed <= 0:
            break
    return np.concatenate(parts)


def _loss_of(
    train: np.ndarray,
    held_out: Sequence[np.ndarray],
    vocabulary: int,
    sizes: CodedTextSizes,
    progress: Progress,
) -> StreamLoss:
    # A stretch begins with a window: it holds a whole number of them, and so does every example.
    examples = [_stretches(tokens, sizes.length) for tokens in held_out]
    bits = np.zeros(len(examples))
    for seed, told in in_turn(sizes.seeds, progress):
        model = _trained(_stretches(train, sizes.length), vocabulary, sizes, seed, told)
        bits += np.array([_token_bits(model, example) for example in examples]) / len(sizes.seeds)
    places = [_costs(train[place::2], vocabulary) for place in (0, 1)]
    predicted = [example.numpy()[:, 1:] for example in examples]
    return StreamLoss(
        bits,
        np.array([_costs(train, vocabulary)[tokens].mean() for tokens in predicted]),
        # The second token of a stretch, which is predicted first, ends a window.
        np.array([np.stack([places[1], places[0]])[_turns(tokens), tokens].mean() for tokens in predicted]),
        np.array([len(tokens) / sizes.example_bytes for tokens in held_out]),
    )


def _turns(tokens: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.arange(tokens.shape[1]) % 2, tokens.shape)


def _costs(tokens: np.ndarray, vocabulary: int) -> np.ndarray:
    """Bits of each token by its frequency, none of which is 0."""
    return -np.log2((np.bincount(tokens, minlength=vocabulary) + 1) / (len(tokens) + vocabulary))


def _stretches(tokens: np.ndarray, length: int) -> Int[Tensor, "stretches length"]:
    return torch.from_numpy(tokens[: len(tokens) // length * length]).view(-1, length)


def _trained(
    rows: Int[Tensor, "stretches length"],
    vocabulary: int,
    sizes: CodedTextSizes,
    seed: int,
    progress: Progress,
) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    shape = {
        "n_positions": sizes.length,
        "n_embd": sizes.width,
        "n_layer": sizes.layers,
        "n_head": sizes.heads,
    }
    quiet = {
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    model = GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, **shape, **quiet)).train()
    fit(
        model,
        _batches(rows, sizes, seed),
        lambda ids: model(input_ids=ids, labels=ids).loss,
        sizes.steps,
        sizes.learning_rate,
        cosine,
        clip=1.0,
        progress=named(progress, "training"),
    )
    return model


def _batches(rows: Tensor, sizes: CodedTextSizes, seed: int) -> Iterator[Tensor]:
    """Stretches in a random order, each once before any is seen again."""
    generator = Generator().manual_seed(seed)
    while True:
        yield from rows[torch.randperm(len(rows), generator=generator)].split(sizes.batch_size)


@torch.no_grad()
def _token_bits(model: GPT2LMHeadModel, stretches: Int[Tensor, "stretches length"]) -> float:
    """Bits per token, the first of each stretch, which nothing predicts, left out."""
    with evaluation_mode(model):
        nll = [float(model(input_ids=ids, labels=ids).loss) * len(ids) for ids in stretches.split(64)]
    return sum(nll) / len(stretches) / math.log(2)
