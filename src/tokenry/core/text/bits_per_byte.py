"""Bits per byte of plain text: the one measure that is fair between tokenizers.

    bits per byte = Σ NLL / (ln 2 · UTF-8 bytes)

Each text is predicted from the token that begins a text, so that every byte of it is predicted, whatever the tokenizer. A text longer
than a window is read in several: each begins anew, or, with a `stride`, sees the end of the one before as context:

    stride 2, windows of 5      < a b c d | b c d e f | d e f g h        of the second only e and f are scored, of the third g and h
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.stats import Estimate, ratio_estimate
from tokenry.core.tensors.gate import require_causal_lm, require_readable
from tokenry.core.tensors.losses import backbone, causal_lm, output_head, token_nll
from tokenry.core.tensors.modes import evaluation_mode


@dataclass(frozen=True)
class TextLoss:
    """What a model says about texts.

    Attributes:
        nll: summed NLL of each text in nats.
        text_bytes: UTF-8 bytes of each text.
    """

    nll: np.ndarray
    tokens: np.ndarray
    text_bytes: np.ndarray

    @property
    def bits_per_byte(self) -> Estimate:
        """Bits per UTF-8 byte, ± standard error over the texts (nan for a single one)."""
        totals = self.nll / math.log(2)
        if len(totals) == 1:
            return Estimate(float(totals[0] / self.text_bytes[0]), math.nan, 1)
        return ratio_estimate(totals, self.text_bytes)

    @property
    def perplexity(self) -> float:
        """Exp of the mean NLL per token: not comparable between tokenizers."""
        return math.exp(float(self.nll.sum() / self.tokens.sum()))

    def as_json(self) -> dict[str, float | int | None]:
        """Bits per byte and perplexity; a single text has no standard error."""
        estimate = self.bits_per_byte
        return {
            "value": estimate.value,
            "standard_error": estimate.standard_error if estimate.samples > 1 else None,
            "texts": estimate.samples,
            "tokens": int(self.tokens.sum()),
            "perplexity": self.perplexity,
        }


def bits_difference(one: TextLoss, other: TextLoss) -> Estimate:
    """Difference in bits per byte between two models, or two tokenizers, on the same texts, paired by text."""
    return ratio_estimate((one.nll - other.nll) / math.log(2), one.text_bytes)


class TokenWindow(NamedTuple):
    """A stretch of tokens that a model reads at once.

    Attributes:
        text: number of the text, or place of the first token in a stream.
        ids: token ids.
        scored: number of the first token whose NLL counts; those before it are context.
    """

    text: int
    ids: list[int]
    scored: int = 1


def text_loss(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int = 256,
    batch_size: int = 8,
    progress: Callable[[float], None] = lambda share: None,
    stride: int | None = None,
    batch_tokens: int | None = None,
) -> TextLoss:
    """Measure the NLL of plain texts, in evaluation mode and without gradients.

    Args:
        model: a causal language model, wrapped or not.
        tokenizer: its own, or one it was transplanted to.
        texts: none empty.
        max_length: tokens per window.
        batch_size: windows per forward pass.
        progress: called with the share of the windows that is done.
        stride: tokens by which the windows of a text advance, at most one less than their length: the rest is context that is not
            scored again. By default context does not reach over windows, and each begins with the token that begins a text.
        batch_tokens: tokens per forward pass with padding, in the place of `batch_size`.

    Raises:
        UserError: no text, an empty one, a tokenizer without a token that could begin a text, a stride that skips tokens, or a model
            that is no causal language model or cannot read these windows.
    """
    if not texts or not all(texts):
        raise UserError("bits per byte need text: give at least one text, and none that is empty.")
    require_causal_lm(model)
    windows = list(_windows(tokenizer, texts, max_length, stride))
    nll, tokens = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.int64)
    for window, of_tokens in window_nll(model, windows, batch_size, batch_tokens, progress):
        nll[window.text] += of_tokens.sum()
        tokens[window.text] += len(of_tokens)
    return TextLoss(nll, tokens, np.array([len(text.encode()) for text in texts]))


def window_nll(
    model: nn.Module,
    windows: Sequence[TokenWindow],
    batch_size: int = 8,
    batch_tokens: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Iterator[tuple[TokenWindow, np.ndarray]]:
    """Yield windows, the longest first, with the NLL in nats of the tokens that are scored in each; arguments as in `text_loss`."""
    read = list(itertools.chain.from_iterable(window.ids for window in windows))
    require_readable(model, read, [len(window.ids) for window in windows], "the texts")
    # The longest first shows a lack of memory at once.
    falling = sorted(windows, key=lambda window: -len(window.ids))
    done = 0
    with evaluation_mode(model):
        while done < len(falling):
            most = batch_size if batch_tokens is None else max(1, batch_tokens // len(falling[done].ids))
            batch = falling[done : done + most]
            yield from zip(batch, _batch_nll(model, batch), strict=True)
            done += len(batch)
            progress(done / len(falling))


def scored_spans(
    tokens: int, length: int, stride: int, whole: bool = False
) -> Iterator[tuple[int, int, int]]:
    """Cut a stream into overlapping windows: yields their beginnings, their ends, and the first token that each is the first to score.

    The first token of the stream is predicted by nothing.

    Args:
        tokens: length of the stream.
        length: tokens per window.
        stride: tokens by which windows advance.
        whole: whether windows shorter than `length` are dropped, and with them the end of the stream.

    Raises:
        UserError: a stride that skips tokens.
    """
    require_at_least(2, max_length=length)
    if not 1 <= stride < length:
        raise UserError(
            f"stride must be from 1 to {length - 1}, one less than the {length} tokens of a window, got {stride}: others would never "
            "be scored."
        )
    scored = 1
    for begin in range(0, tokens, stride):
        end = min(begin + length, tokens)
        if scored >= end or (whole and end - begin < length):
            return
        yield begin, end, scored
        scored = end


def first_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that stands before a text and predicts its first token: the bos token, or else the eos token.

    Raises:
        UserError: the tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise UserError(
        "the tokenizer has neither a bos nor an eos token, so nothing predicts the first token of a text: set one of them."
    )


def _windows(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, stride: int | None
) -> Iterator[TokenWindow]:
    first = first_token(tokenizer)
    for number, ids in enumerate(tokenizer(list(texts), add_special_tokens=False)["input_ids"]):
        if stride is None:
            for start in range(0, len(ids), max_length - 1):
                yield TokenWindow(number, [first, *ids[start : start + max_length - 1]])
        else:
            stream = [first, *ids]
            for begin, end, scored in scored_spans(len(stream), max_length, stride):
                yield TokenWindow(number, stream[begin:end], scored - begin)


@torch.no_grad()
def _batch_nll(model: nn.Module, windows: Sequence[TokenWindow]) -> list[np.ndarray]:
    inner: Any = causal_lm(model)
    device = next(inner.parameters()).device
    pad = nn.utils.rnn.pad_sequence
    ids: list[Tensor] = [torch.tensor(window.ids) for window in windows]
    attention_mask = pad([torch.ones_like(window) for window in ids], batch_first=True).to(device)
    input_ids = pad(ids, batch_first=True).to(device)
    context = torch.tensor([window.scored for window in windows], device=device)
    predicted = attention_mask.bool() & (torch.arange(input_ids.shape[1], device=device) >= context[:, None])
    hidden = backbone(inner)(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False
    ).last_hidden_state
    nll = token_nll(hidden, input_ids, output_head(model), predicted).double().cpu().numpy()
    return [row[window.scored : len(window.ids)] for row, window in zip(nll, windows, strict=True)]
