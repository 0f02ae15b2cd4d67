"""Losses of whole documents under a language model, in nats and in bits per character.

    bpc = Σ NLL / (ln 2 · characters)

Every document is read by itself, from the token that begins a text on; one longer than a window is read in windows that advance by
`stride`, whose first tokens are context that is not scored again. `packed=True` does what the released code does: all documents are one
stream, so that context leaks from one into the next, the first token is never scored, and what follows the last whole window is dropped.

Source: PreSelect (arXiv 2503.00808), released `packed_dataset.py`: blocks of 1901 tokens, of which 1900 predict, stride 512.
"""

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from torch import nn
from transformers import PreTrainedTokenizerBase

from tokenry.core.tensors.gate import require_causal_lm
from tokenry.core.text.bits_per_byte import TokenWindow, scored_spans, text_loss, window_nll
from tokenry.data.selection_settings import LossConfig


class DocumentLosses(NamedTuple):
    """Losses of documents.

    Attributes:
        nll: summed NLL in nats; nan for a document without a scored token.
        chars: length in characters.
        bpc: bits per character; nan likewise.
    """

    nll: Float[ndarray, "documents"]
    chars: Int[ndarray, "documents"]
    bpc: Float[ndarray, "documents"]


def document_bpc(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    progress: Callable[[float], None] = lambda share: None,
    **options: Any,
) -> DocumentLosses:
    """Measure the loss of every document, in evaluation mode and without gradients.

    Args:
        model: a causal language model, wrapped or not.
        tokenizer: its own.
        texts: the documents; an empty one has no loss.
        progress: called with the share that is done.
        **options: `window`, `stride`, `batch_tokens` and `packed` of `LossConfig`.

    Raises:
        UserError: a model that is no causal language model or cannot read these windows, or a tokenizer without a token that could begin
            a text.
    """
    config = LossConfig(**options)
    measure = _packed if config.packed else _one_by_one
    nll, scored = np.full(len(texts), math.nan), [number for number, text in enumerate(texts) if text]
    if scored:
        nll[scored] = measure(model, tokenizer, [texts[number] for number in scored], config, progress)
    chars = np.array([len(text) for text in texts], dtype=np.int64)
    return DocumentLosses(nll, chars, nll / (np.maximum(chars, 1) * math.log(2)))


def _one_by_one(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    config: LossConfig,
    progress: Callable[[float], None],
) -> Float[ndarray, "documents"]:
    found = text_loss(
        model,
        tokenizer,
        texts,
        max_length=config.window + 1,
        stride=config.advance,
        batch_tokens=config.batch_tokens,
        progress=progress,
    )
    return np.where(found.tokens > 0, found.nll, math.nan)


def _packed(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    config: LossConfig,
    progress: Callable[[float], None],
) -> Float[ndarray, "documents"]:
    require_causal_lm(model)
    encoded = tokenizer(list(texts))["input_ids"]
    stream = list(chain.from_iterable(encoded))
    owner = np.repeat(np.arange(len(texts)), [len(ids) for ids in encoded])
    windows = [
        TokenWindow(begin, stream[begin:end], scored - begin)
        for begin, end, scored in scored_spans(len(stream), config.window + 1, config.advance, whole=True)
    ]
    total, tokens = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.int64)
    for window, nll in window_nll(model, windows, batch_tokens=config.batch_tokens, progress=progress):
        owners = owner[window.text + window.scored : window.text + len(window.ids)]
        np.add.at(total, owners, nll)
        np.add.at(tokens, owners, 1)
    return np.where(tokens > 0, total, math.nan)
