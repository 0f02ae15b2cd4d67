"""Negative log-likelihood on held-out samples, with standard errors, and paired differences between two models.

Right-padded batches of similar length; only the rows that predict a learnable token meet the output head.
The item is the sample; with n the summed NLL of an item (nats) and t its learnable tokens, or its bytes:

    mean            = Σ n / Σ t                                  (mean per token, not mean of the items' means)
    bits per byte   = Σ n / (ln 2 · Σ bytes)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from datasets import Dataset
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.workspace import fingerprint
from tokenry.core.stats import Estimate, Paired, ratio_estimate
from tokenry.core.tensors.alignment import IGNORED, check_labels, learnable_tokens, segment_ids
from tokenry.core.tensors.gate import require_causal_lm, require_readable
from tokenry.core.tensors.losses import backbone, causal_lm, output_head, token_nll
from tokenry.core.tensors.modes import evaluation_mode

Rows: TypeAlias = Dataset | Sequence[Mapping[str, Any]]
"""A `datasets.Dataset` or a list of dicts with `input_ids` and `labels` (-100 = not learned from)."""


@dataclass(frozen=True)
class HeldOut:
    """NLL of one model on held-out items, in the order of the data.

    Attributes:
        nll: summed NLL of the learnable tokens of each item, in nats.
        tokens: number of learnable tokens of each item.
        text_bytes: number of UTF-8 bytes of the text of these tokens; None without a tokenizer.
        items: hash of the token ids and labels of each item.
    """

    nll: Float[ndarray, "items"]
    tokens: Int[ndarray, "items"]
    text_bytes: Int[ndarray, "items"] | None
    items: tuple[str, ...]

    @property
    def nll_per_token(self) -> Estimate:
        """Mean NLL per learnable token in nats, ± standard error over the items."""
        return ratio_estimate(self.nll, self.tokens)

    @property
    def nll_per_token_of_items(self) -> Float[ndarray, "items"]:
        """Mean NLL per learnable token of each item in nats; nan for an item without any."""
        return np.divide(self.nll, self.tokens, out=np.full_like(self.nll, np.nan), where=self.tokens > 0)

    @property
    def bits_per_byte(self) -> Estimate | None:
        """Bits per UTF-8 byte of text, comparable between tokenizers; None when no tokenizer was given.

        The numerator counts every learnable token, including the one that ends the answer, which is no byte of text.
        """
        if self.text_bytes is None:
            return None
        return ratio_estimate(self.nll / math.log(2), self.text_bytes)


def held_out_nll(
    model: nn.Module,
    dataset: Rows,
    batch_size: int = 8,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> HeldOut:
    """Compute the NLL of every item's learnable tokens, in evaluation mode and without gradients.

    Args:
        model: a transformers causal language model, wrapped or not (PEFT, DDP). Its mode is restored afterwards.
        dataset: rows whose `input_ids` and `labels` have the same length, without padding.
        batch_size: number of samples per forward pass; it never changes the result beyond rounding.
        tokenizer: tokenizer that counts the bytes of the learnable text, for `HeldOut.bits_per_byte`.

    Raises:
        UserError: no learnable token, an NLL that is not finite, or data that do not fit the model.
    """
    require_at_least(1, batch_size=batch_size)
    require_causal_lm(model)
    items = _read_items(dataset, output_head(model).vocabulary)
    read = torch.cat([ids for ids, _ in items])
    require_readable(model, read, [len(ids) for ids, _ in items], "the held-out data")
    nll = np.zeros(len(items))
    tokens = np.zeros(len(items), dtype=np.int64)
    # Neighbours in length waste little padding, and the longest first shows a lack of memory at once.
    by_length = sorted(range(len(items)), key=lambda index: -len(items[index][0]))
    with evaluation_mode(model), torch.no_grad():
        for start in range(0, len(items), batch_size):
            batch = by_length[start : start + batch_size]
            nll[batch], tokens[batch] = _batch_nll(model, [items[index] for index in batch])
    if not tokens.any():
        raise UserError(
            "no token of the held-out data is learnable: labels are -100 everywhere (is the answer cut off by the maximum length?)."
        )
    if not np.isfinite(nll).all():
        raise UserError(
            f"the NLL is not finite on {int((~np.isfinite(nll)).sum())} of {len(nll)} held-out items: training has diverged; "
            "try a lower learning rate."
        )
    return HeldOut(
        nll=nll,
        tokens=tokens,
        text_bytes=None
        if tokenizer is None
        else np.array([_text_bytes(ids, labels, tokenizer) for ids, labels in items]),
        items=tuple(_item_hash(ids, labels) for ids, labels in items),
    )


def paired_difference(run: HeldOut, control: HeldOut, to: str = "control") -> Paired:
    """Estimate how much lower (negative) or higher the NLL per token of `run` is than that of `control`, in nats.

    The items are the same, so what makes an item hard for both cancels: the ratio estimator is applied to the
    differences of the items' summed NLL. The standard error holds the variation over items, not over seeds.

    Args:
        run: result of the model in question.
        control: result of the model that it is compared with, on the same items in the same order.
        to: name of the control in the record.
    """
    if run.items != control.items:
        raise UserError(
            f"the two runs were not measured on the same held-out items ({len(run.items)} and {len(control.items)} items): "
            "measure both on the same rows, in the same order, with the same tokenizer and maximum length."
        )
    found = ratio_estimate(run.nll - control.nll, run.tokens)
    return Paired(to=to, difference=found.value, standard_error=found.standard_error, samples=found.samples)


def _read_items(dataset: Rows, vocabulary: int) -> list[tuple[Tensor, Tensor]]:
    if len(dataset) < 2:
        raise UserError(f"held-out data need at least two samples for a standard error, got {len(dataset)}.")
    items = []
    for row in dataset:
        missing = [name for name in ("input_ids", "labels") if name not in row]
        if missing:
            raise UserError(
                f"held-out rows have no {' and no '.join(missing)} (columns found: {', '.join(sorted(row)) or 'none'}): "
                "encode the conversations first."
            )
        ids = torch.as_tensor(row["input_ids"], dtype=torch.long)
        labels = torch.as_tensor(row["labels"], dtype=torch.long)
        check_labels(ids[None], labels[None], vocabulary)
        items.append((ids, labels))
    return items


def _batch_nll(
    model: nn.Module, items: list[tuple[Tensor, Tensor]]
) -> tuple[Float[ndarray, "items"], Int[ndarray, "items"]]:
    inner: Any = causal_lm(model)
    device = next(inner.parameters()).device
    ids, labels = zip(*items, strict=True)
    pad = nn.utils.rnn.pad_sequence
    attention_mask = pad([torch.ones_like(one) for one in ids], batch_first=True).to(device)
    input_ids = pad(list(ids), batch_first=True).to(device)
    targets = pad(list(labels), batch_first=True, padding_value=IGNORED).to(device)
    learnable = learnable_tokens(targets, segment_ids(input_ids, attention_mask))
    hidden = backbone(inner)(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False
    ).last_hidden_state
    nll = token_nll(hidden, targets, output_head(model), learnable)
    summed = torch.where(learnable, nll, 0.0).double().sum(1)
    return summed.cpu().numpy(), learnable.sum(1).cpu().numpy()


def _text_bytes(ids: Tensor, labels: Tensor, tokenizer: PreTrainedTokenizerBase) -> int:
    """Count the bytes that the learnable tokens add to the text before them, run by run: a leading space counts."""
    learnable = labels != IGNORED
    learnable[:1] = False
    outside = learnable.new_zeros(1).int()
    edges = torch.diff(learnable.int(), prepend=outside, append=outside).nonzero()[:, 0].tolist()

    def length(end: int) -> int:
        text = tokenizer.decode(
            ids[:end].tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return len(text.encode("utf-8"))

    return sum(length(end) - length(start) for start, end in zip(edges[::2], edges[1::2], strict=True))


def _item_hash(ids: Tensor, labels: Tensor) -> str:
    return fingerprint(torch.cat([ids, labels]), length=16)
