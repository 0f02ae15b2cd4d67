"""Bits per byte of plain text: the one measure that is fair between tokenizers.

    bits per byte = Σ NLL / (ln 2 · UTF-8 bytes)

Each window of a text is predicted from the token that begins a text, so that every byte of it is predicted, whatever the tokenizer.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.stats import Estimate, ratio_estimate
from tokenry.core.tensors.gate import require_causal_lm, require_readable
from tokenry.core.tensors.losses import backbone, causal_lm, output_head, token_nll
from tokenry.core.tensors.modes import evaluation_mode


@dataclass(frozen=True)
class TextLoss:
    """What a model says about texts.

    Attributes:
        nll: summed NLL of each text in nats.
        tokens: tokens of each text.
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


def text_loss(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int = 256,
    batch_size: int = 8,
    progress: Callable[[float], None] = lambda share: None,
) -> TextLoss:
    """Measure the NLL of plain texts, in evaluation mode and without gradients.

    Args:
        model: a causal language model, wrapped or not.
        tokenizer: its own, or one it was transplanted to.
        texts: none empty.
        max_length: tokens per window; context does not reach over windows.
        batch_size: windows per forward pass.
        progress: called with the share of the windows that is done.

    Raises:
        UserError: no text, an empty one, a tokenizer without a token that could begin a text, or a model that is no causal language
            model or cannot read these windows.
    """
    if not texts or not all(texts):
        raise UserError("bits per byte need text: give at least one text, and none that is empty.")
    require_causal_lm(model)
    windows = _windows(tokenizer, texts, max_length)
    read = list(itertools.chain.from_iterable(ids for _, ids in windows))
    require_readable(model, read, [len(ids) for _, ids in windows], "the texts")
    nll, tokens = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.int64)
    # The longest first shows a lack of memory at once.
    windows.sort(key=lambda window: -len(window[1]))
    with evaluation_mode(model):
        for start in range(0, len(windows), batch_size):
            batch = windows[start : start + batch_size]
            for (text, ids), summed in zip(batch, _batch_nll(model, [ids for _, ids in batch]), strict=True):
                nll[text] += summed
                tokens[text] += len(ids) - 1
            progress(min(1.0, (start + batch_size) / len(windows)))
    return TextLoss(nll, tokens, np.array([len(text.encode()) for text in texts]))


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
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> list[tuple[int, list[int]]]:
    first = first_token(tokenizer)
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [
        (number, [first, *ids[start : start + max_length - 1]])
        for number, ids in enumerate(encoded)
        for start in range(0, len(ids), max_length - 1)
    ]


@torch.no_grad()
def _batch_nll(model: nn.Module, windows: Sequence[list[int]]) -> list[float]:
    inner: Any = causal_lm(model)
    device = next(inner.parameters()).device
    pad = nn.utils.rnn.pad_sequence
    ids: list[Tensor] = [torch.tensor(window) for window in windows]
    attention_mask = pad([torch.ones_like(window) for window in ids], batch_first=True).to(device)
    input_ids = pad(ids, batch_first=True).to(device)
    predicted = attention_mask.bool()
    predicted[:, 0] = False
    hidden = backbone(inner)(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False
    ).last_hidden_state
    nll = token_nll(hidden, input_ids, output_head(model), predicted)
    return torch.where(predicted, nll, 0.0).double().sum(1).tolist()
