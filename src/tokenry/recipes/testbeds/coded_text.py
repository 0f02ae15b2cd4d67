"""The same text as bytes, BPE tokens and coded streams, and a small transformer that learns to predict each of them.

M1      an n-gram of bytes, counted on docstrings that neither stream holds
M2      a GPT-2 of two layers, the same steps and tokens for every stream: equal FLOPs beside the embeddings
loss    bits per token on stretches of the held-out text, which no model has seen
"""

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from tokenry.core.io.progress import Progress, one_stage, part
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.text.docstrings import read_docstrings
from tokenry.recipes.kit import cosine, fit
from tokenry.tokenization.equal_info import (
    ArithmeticCodec,
    EqualInfoCodec,
    WittenBellModel,
    coder_resets,
    gzip_stream,
    stream_tokens,
)
from tokenry.tokenization.training import train_bpe

AC, WINDOWS, CODER_ONLY, BYTES, BPE = "AC", "EqualInfo[16]", "coder reset only", "bytes", "BPE"
BYTE_TOKENS = 256


@dataclass(frozen=True)
class CodedTextSizes:
    """Size of the experiment at one scale.

    Attributes:
        packages: packages whose docstrings are the text.
        counted: bytes that M1 and the BPE are made from.
        text: bytes that M2 can learn from.
        held_out: bytes that M2 is measured on.
        ratios: bytes on which compression ratios are measured.
        bpe: tokens of the BPE.
        layers: layers of M2.
        width: its width.
        heads: its heads.
        length: tokens that it reads at once.
        batch_size: stretches of a step.
        steps: steps.
        learning_rate: highest learning rate.
        seeds: one M2 for each.
    """

    packages: tuple[str, ...] = ("sklearn", "scipy", "pandas")
    counted: int = 1_000_000
    text: int = 2_000_000
    held_out: int = 150_000
    ratios: int = 50_000
    bpe: int = 1024
    layers: int = 2
    width: int = 128
    heads: int = 4
    length: int = 128
    batch_size: int = 16
    steps: int = 200
    learning_rate: float = 2e-3
    seeds: tuple[int, ...] = (0, 1)


@dataclass(frozen=True)
class CodedText:
    """A text in three parts: what M1 is counted on, what M2 learns, what M2 is measured on."""

    counted: bytes
    text: bytes
    held_out: bytes


@dataclass(frozen=True)
class StreamLoss:
    """What M2 makes of a stream.

    Attributes:
        bits: bits per token of each held-out stretch, a row for every seed.
        unigram: the same for the frequencies of the tokens that M2 has learned from.
        first: the mean over tokens that begin a window of two tokens; nan where a stream has none.
        second: over those that end one.
        tokens_per_byte: of the held-out text.
    """

    bits: Float[np.ndarray, "seeds stretches"]
    unigram: Float[np.ndarray, "stretches"]
    first: float
    second: float
    tokens_per_byte: float

    @property
    def gain(self) -> Float[np.ndarray, "stretches"]:
        """How far M2 is below the unigram on each stretch, the mean over seeds."""
        return self.unigram - self.bits.mean(axis=0)

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of the held-out text."""
        return float(self.bits.mean()) * self.tokens_per_byte


def coded_text(sizes: CodedTextSizes, seed: int = 0) -> CodedText:
    """Read the docstrings, whole ones to each part, each once."""
    texts = [*dict.fromkeys(read_docstrings(sizes.packages, held_out_share=0.0).train)]
    random.Random(seed).shuffle(texts)
    parts, rest = [], iter(texts)
    for size in (sizes.held_out, sizes.counted, sizes.text):
        parts.append(_joined(rest, size))
    return CodedText(parts[1], parts[2], parts[0])


def _joined(texts: Iterator[str], size: int) -> bytes:
    data = bytearray()
    for text in texts:
        data += text.encode() + b"\0"
        if len(data) >= size:
            break
    return bytes(data[:size])


class TextStreams:
    """Turns a text into the tokens of each stream.

    Args:
        counted: what M1 and the BPE are made from.
        bpe: tokens of the BPE.
    """

    def __init__(self, counted: bytes, bpe: int) -> None:
        self.m1 = WittenBellModel(counted)
        self._bpe = train_bpe([counted.decode(errors="ignore")], bpe)
        self.vocabulary = dict.fromkeys((AC, WINDOWS, CODER_ONLY, BYTES), BYTE_TOKENS) | {BPE: bpe}

    def tokens(self, stream: str, text: bytes) -> Int[np.ndarray, "tokens"]:
        """The tokens of a text; a window is two tokens of 8 bits."""
        if stream == BYTES:
            return np.frombuffer(text, np.uint8).astype(np.int64)
        if stream == BPE:
            return np.array(self._bpe.encode(text.decode(errors="ignore")).ids)
        if stream == AC:
            return stream_tokens(ArithmeticCodec(self.m1).encode(text), 8)
        if stream == CODER_ONLY:
            return coder_resets(self.m1, text).to_tokens(8)
        parts = [text[place : place + _PART] for place in range(0, len(text), _PART)]
        coded = EqualInfoCodec(self.m1).encode_many(parts, self_test=False)
        return np.concatenate([windows.to_tokens(8) for windows in coded])


_PART = 10_240
"""Bytes of an example of the paper."""


def learned(
    streams: TextStreams, text: CodedText, names: tuple[str, ...], sizes: CodedTextSizes, progress: Progress
) -> Mapping[str, StreamLoss]:
    """Train M2 on each stream, and measure it on the held-out text."""
    found = {}
    for number, name in enumerate(names):
        told = part(progress, number / len(names), (number + 1) / len(names))
        told(f"coding, {name}", 0.0)
        train, held_out = streams.tokens(name, text.text), streams.tokens(name, text.held_out)
        told_of_training = one_stage(part(told, 0.3, 1.0), f"training M2, {name}")
        found[name] = _loss_of(
            train, held_out, streams.vocabulary[name], len(text.held_out), sizes, told_of_training
        )
    return found


def _loss_of(
    train: np.ndarray,
    held_out: np.ndarray,
    vocabulary: int,
    n_bytes: int,
    sizes: CodedTextSizes,
    progress: Progress,
) -> StreamLoss:
    stretches = torch.from_numpy(held_out[: len(held_out) // sizes.length * sizes.length]).view(
        -1, sizes.length
    )
    costs = []
    for number, seed in enumerate(sizes.seeds):
        told = part(progress, number / len(sizes.seeds), (number + 1) / len(sizes.seeds))
        model = _trained(train, vocabulary, sizes, seed, told)
        costs.append(_token_bits(model, stretches))
    used = train[: sizes.steps * sizes.batch_size * sizes.length]
    shares = (np.bincount(used, minlength=vocabulary) + 1) / (len(used) + vocabulary)
    bits = torch.stack(costs).numpy()
    # The first token of a stretch is predicted by nothing; a stretch begins with a window.
    unigram = -np.log2(shares)[stretches[:, 1:].numpy()]
    return StreamLoss(
        bits.mean(axis=2),
        unigram.mean(axis=1),
        float(bits[:, :, 1::2].mean()),
        float(bits[:, :, 0::2].mean()),
        len(held_out) / n_bytes,
    )


def _trained(
    train: np.ndarray, vocabulary: int, sizes: CodedTextSizes, seed: int, progress: Progress
) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=sizes.length,
        n_embd=sizes.width,
        n_layer=sizes.layers,
        n_head=sizes.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config).train()
    rows = torch.from_numpy(train[: len(train) // sizes.length * sizes.length]).view(-1, sizes.length)
    fit(
        model,
        _batches(rows, sizes, seed),
        lambda ids: model(input_ids=ids, labels=ids).loss,
        sizes.steps,
        sizes.learning_rate,
        cosine,
        clip=1.0,
        progress=lambda share: progress("training", share),
    )
    return model


def _batches(rows: Tensor, sizes: CodedTextSizes, seed: int) -> Iterator[Tensor]:
    """Stretches in a random order, each once before any is seen again."""
    generator = Generator().manual_seed(seed)
    while True:
        yield from rows[torch.randperm(len(rows), generator=generator)].split(sizes.batch_size)


@torch.no_grad()
def _token_bits(
    model: GPT2LMHeadModel, stretches: Int[Tensor, "stretches length"]
) -> Float[Tensor, "stretches predicted"]:
    with evaluation_mode(model):
        found = []
        for ids in stretches.split(64):
            log_probs = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
            found.append(-log_probs.gather(-1, ids[:, 1:, None])[..., 0].double() / math.log(2))
    return torch.cat(found)


def ratio_of_gzip(text: bytes) -> float:
    """Bytes of a text over those that zlib makes of it."""
    return len(text) / len(gzip_stream(text))
