"""The weighed loss as a function, for custom training loops: the loss that `TokenWeighingTrainer` minimises, batch by batch.

    loss, tokens = weighed_loss(model, batch, SSToken(), known={"history_nll": before}, progress=step / steps)
    loss.backward()

    loss = Σ weights · nll / total

`total` is the weight of the whole optimisation step. By default the batch is the step; under gradient accumulation,
`step_weight(batches, ...)` computes it before the first of them is scored.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from datasets import Dataset
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tokenry.core.errors import UserError
from tokenry.core.tensors.alignment import IGNORED, check_labels, segment_ids
from tokenry.core.tensors.gate import has_whole_weights
from tokenry.core.tensors.losses import causal_lm, check_output_head, output_head
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.signals import LIVE_SIGNALS, Signals
from tokenry.finetuning.collation import model_inputs
from tokenry.finetuning.dataset_pass import dataset_nll, samples_of
from tokenry.finetuning.forward import ReadSignals, WeighedLoss, add_token_loss
from tokenry.finetuning.history import MovingAverage
from tokenry.finetuning.sstoken import SSToken
from tokenry.finetuning.token_index import RUNS
from tokenry.finetuning.weighing import TokenWeighing

Batch = Mapping[str, Any]
"""`input_ids` and `labels` (-100 where nothing is learned), `attention_mask` where there is padding, `position_ids` for packed rows."""

Known = Mapping[str, Tensor]
"""Signals by name, aligned to the tokens: `history_nll`, `base_nll`, `reference_nll`, `out_of_fold_nll`, `dataset_weight`, `uniform`, or `kept`."""

_SOURCES = {
    "history_nll": "token_losses(model, batch) of an earlier state of the model, or history_losses(model, rows) before training",
    "base_nll": "token_losses(base_model, batch)",
    "reference_nll": "token_losses(reference_model, batch)",
    "out_of_fold_nll": "token_losses(model, batch) of a model that was trained without these samples",
    "dataset_weight": "the weight of every token",
    "uniform": "one random number per token, the same in every epoch",
    "kept": "1 for every token to learn from, chosen over the whole data set",
}


@dataclass(frozen=True)
class WeighedTokens:
    """The tokens of one batch under a weighing.

    Attributes:
        weights: weight of every token; 0 where nothing is learned.
        nll: NLL of the tokens in nats; nan where it was not needed.
        signals: signals that the weights were computed from.
        total: divisor of the sum over the tokens.
    """

    weights: Float[Tensor, "batch seq"]
    nll: Float[Tensor, "batch seq"]
    signals: Signals
    total: Float[Tensor, ""]


def weighed_loss(
    model: nn.Module,
    batch: Batch,
    weighing: TokenWeighing,
    known: Known | None = None,
    *,
    total: Float[Tensor, ""] | float | None = None,
    progress: float = 1.0,
    epoch: float = math.inf,
    content: Bool[Tensor, "batch seq"] | None = None,
) -> tuple[Float[Tensor, ""], WeighedTokens]:
    """Compute the loss of a batch under a weighing, with its graph, and the weights of the tokens.

    The batch is one forward pass of the model in its current mode. Wrapped models (PEFT, DDP) and autocast work as for any forward.

    Args:
        model: a transformers causal language model.
        batch: a batch as a collator makes it; other columns are passed to the model.
        weighing: which tokens to learn from.
        known: the signals that a forward of `model` cannot compute, see `Known`.
        total: divisor of the sum. None: the weight of this batch. Under gradient accumulation: `step_weight` of the batches of the
            step. Where gradients are averaged over ranks (DDP): that sum over all ranks, divided by their number.
        progress: fraction of the optimisation steps done, for a warm-up in steps; by default the warm-up is over.
        epoch: epochs done, for a warm-up in epochs; by default the warm-up is over.
        content: tokens that are content rather than chat template, for `attention="content"`.

    Raises:
        UserError: a batch or a model that cannot be learned from, or a signal that must be `known` and is not.
    """
    _prepare(model, batch)
    signals = _known_signals(batch, weighing, known, progress, epoch)
    inputs = model_inputs(batch)
    signals = _with_live_history(model, inputs, weighing, signals)
    _require_known(weighing, signals)
    weighed = WeighedLoss(weighing, signals, content)
    loss = model(**inputs, token_loss=weighed).loss
    whole = weighing.weight_sum(signals) if total is None else torch.as_tensor(total)
    whole = whole.to(loss.device).float()
    tokens = WeighedTokens(weighed.weights.detach(), weighed.nll.detach(), weighed.signals, whole)
    return loss / whole.clamp(min=1e-8), tokens


def sstoken_loss(
    model: nn.Module,
    batch: Batch,
    history: Float[Tensor, "batch seq"],
    config: SSToken | None = None,
    **options: Any,
) -> tuple[Float[Tensor, ""], WeighedTokens]:
    """Compute the loss of a batch under ssToken.

    Args:
        model: as for `weighed_loss`.
        batch: as for `weighed_loss`.
        history: NLL of every token under an earlier state of the model, in nats, from `token_losses` or `history_losses`.
        config: the weighing; None is `SSToken()`.
        **options: `total`, `progress` and the like, as for `weighed_loss`.

    Source: ssToken (arXiv 2510.18250), objective.
    """
    return weighed_loss(model, batch, config or SSToken(), {"history_nll": history}, **options)


def step_weight(
    batches: Iterable[Batch],
    weighing: TokenWeighing,
    known: Sequence[Known] | None = None,
    *,
    epoch: float = math.inf,
) -> Float[Tensor, ""]:
    """Sum the weights of the micro-batches of one optimisation step, before any of them is scored.

    Args:
        batches: the micro-batches.
        weighing: which tokens will be learned from.
        known: the known signals of each batch, for weights that the data gives.
    """
    batches = list(batches)
    told = list(known) if known is not None else [{}] * len(batches)
    if not batches or len(told) != len(batches):
        raise UserError(
            f"a step has at least one batch, and `known` one entry per batch; got {len(batches)} batches and {len(told)} entries."
        )
    weights = []
    for batch, of_batch in zip(batches, told, strict=True):
        signals = _known_signals(batch, weighing, of_batch, 1.0, epoch)
        if not weighing.needs & LIVE_SIGNALS:  # the data may give the weights; otherwise they are counted
            _require_known(weighing, signals)
        weights.append(weighing.weight_sum(signals).float())
    return torch.stack(weights).sum()


def token_losses(model: nn.Module, batch: Batch) -> Float[Tensor, "batch seq"]:
    """Compute the NLL of every target of a batch in nats, in evaluation mode and without a graph; nan elsewhere.

    Args:
        model: a transformers causal language model; its mode is restored.
        batch: as for `weighed_loss`.
    """
    _prepare(model, batch)
    labels, segments = _targets(batch)
    reading = ReadSignals(Signals(labels, segments))
    with torch.no_grad(), evaluation_mode(model):
        model(**model_inputs(batch), token_loss=reading)
    return reading.values["nll"]


def history_losses(
    model: nn.Module, rows: Dataset | Sequence[Mapping[str, Any]], *, tokens_per_batch: int = 8192
) -> list[Float[Tensor, "seq"]]:
    """Compute the NLL of every target of a data set in nats, in one pass over samples sorted by length; nan elsewhere.

    Args:
        model: a transformers causal language model, in the state that later losses are compared with.
        rows: rows with `input_ids` and `labels`, without padding.
        tokens_per_batch: padded tokens of one forward.

    Returns:
        One float32 column per row, in their order; laid out as the batch is (padding included), they are `history_nll`.
    """
    vocabulary = output_head(model).vocabulary
    lengths = [_checked_length(row, number, vocabulary) for number, row in enumerate(rows)]
    ends = list(accumulate(lengths, initial=0))
    indexed = (
        {"input_ids": row["input_ids"], "labels": row["labels"], RUNS: [start, end]}
        for row, start, end in zip(rows, ends, ends[1:], strict=False)
    )
    size = ends[-1]
    column = dataset_nll(
        model, list(samples_of(indexed)), size, tokens_per_batch=tokens_per_batch, progress=False
    )
    return list(column.split(lengths))


def _checked_length(row: Mapping[str, Any], number: int, vocabulary: int) -> int:
    if missing := [name for name in ("input_ids", "labels") if row.get(name) is None]:
        raise UserError(f"row {number} has no {missing[0]}: give token ids and labels, see `encode_rows`.")
    ids, labels = (torch.as_tensor(row[name])[None] for name in ("input_ids", "labels"))
    check_labels(ids, labels, vocabulary)
    return ids.shape[1]


def _prepare(model: nn.Module, batch: Batch) -> None:
    """Refuse labels that do not fit; let the model take a token loss, and check once that its logits are understood."""
    labels, _ = _targets(batch)
    check_labels(batch["input_ids"], labels, output_head(model).vocabulary)
    if not getattr(causal_lm(model).forward, "takes_token_loss", False):
        if has_whole_weights(model):
            check_output_head(model)
        add_token_loss(model)


def _targets(batch: Batch) -> tuple[Tensor, Tensor]:
    """Labels and segments of a batch."""
    if missing := [name for name in ("input_ids", "labels") if batch.get(name) is None]:
        raise UserError(
            f"the batch has no {missing[0]}: give input_ids and labels, with {IGNORED} where nothing is learned "
            f"(found: {', '.join(batch) or 'nothing'})."
        )
    segments = segment_ids(batch["input_ids"], batch.get("attention_mask"), batch.get("position_ids"))
    return batch["labels"], segments


def _known_signals(
    batch: Batch, weighing: TokenWeighing, known: Known | None, progress: float, epoch: float
) -> Signals:
    labels, segments = _targets(batch)
    values = dict(known or {})
    for name, value in values.items():
        if value.shape != labels.shape:
            raise UserError(
                f"{name} has shape {tuple(value.shape)} but the batch {tuple(labels.shape)}: give one number per token, padding included."
            )
        values[name] = value.to(labels.device, torch.promote_types(value.dtype, torch.float32))
    if weighing.learns_from_prompt:
        values["response"] = (labels != IGNORED).float()
        labels = torch.where(segments >= 0, batch["input_ids"], IGNORED)
    return Signals(labels, segments, values, progress, epoch)


def _require_known(weighing: TokenWeighing, signals: Signals) -> None:
    """Refuse a batch without a signal that a forward of the model cannot compute."""
    if not weighing.selects(signals.epoch):
        return
    looked_up = {"kept"} if weighing.scope == "dataset" and weighing.share < 1.0 else weighing.needs
    missing = sorted((looked_up - (LIVE_SIGNALS - {"history_nll"})) - signals.values.keys())
    if missing:
        name = missing[0]
        raise UserError(
            f"{type(weighing).__name__} needs {name}, which a forward of the model cannot tell: pass known={{{name!r}: …}}, "
            f"{_SOURCES.get(name, 'one number per token')}."
        )


def _with_live_history(
    model: nn.Module, inputs: dict[str, Any], weighing: TokenWeighing, signals: Signals
) -> Signals:
    """Add the NLL under earlier weights: adapters switched off, or a moving average."""
    source = weighing.history_source
    wanted = "history_nll" in weighing.needs and "history_nll" not in signals.values
    if not (wanted and source.live and weighing.selects(signals.epoch)):
        return signals
    if isinstance(source, MovingAverage):
        if not source.averages:
            raise UserError(
                "a moving average follows the model from step to step: make one, history = MovingAverage(), call history.check(model) before "
                "training and history.after_step(model) after every step, and pass SSToken(history=history)."
            )
    else:
        source.check(model)
    scored = ReadSignals(signals)
    with torch.no_grad(), evaluation_mode(model), source.earlier_weights(model):
        model(**inputs, token_loss=scored)
    return signals.with_values(history_nll=scored.values["nll"])
