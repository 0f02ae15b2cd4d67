"""The NLL of every target of a training set under one fixed model: one pass, shared between ranks, kept in a cache.

Samples are sorted by length, so that a batch has next to no padding; only target rows meet the output head.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from tokenry.core.alignment import IGNORED, learnable_tokens, segment_ids
from tokenry.finetuning.forward import NllOnly, add_token_loss
from tokenry.finetuning.nll_cache import NllCache, Sample
from tokenry.finetuning.signals import Signals
from tokenry.finetuning.token_store import TokenStore


def samples_of(rows: Iterable[dict]) -> Iterator[Sample]:
    """Take packed rows apart into samples; rows carry `input_ids`, `labels`, `token_index` and perhaps `seq_lengths`."""
    for row in rows:
        ids, labels, index = (np.asarray(row[name]) for name in ("input_ids", "labels", "token_index"))
        ends = np.cumsum(row.get("seq_lengths") or [len(ids)])
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            targets = labels[start:end] != -100
            targets[:1] = False
            yield Sample(ids[start:end], targets, index[start:end])


def dataset_nll(
    model: nn.Module,
    samples: Sequence[Sample],
    size: int,
    *,
    cache: NllCache | None = None,
    tokens_per_batch: int = 8192,
    progress: bool = True,
    title: str = "history",
) -> Tensor:
    """Compute the NLL of all targets, in nats, as one flat column over the training set (nan where there is no target).

    Under torch.distributed every rank computes its part and all receive the whole.

    Args:
        model: a causal language model, whole on this device; it is put in eval mode for the pass.
        samples: what `samples_of` gives.
        size: number of tokens in the training set.
        cache: known losses; new ones are added by the first rank.
        tokens_per_batch: padded tokens of one forward.
        progress: show a progress bar on stderr.
        title: what the progress bar says.
    """
    known = {sample.key: cache.get(sample) for sample in samples} if cache else {}
    missing = [sample for sample in samples if known.get(sample.key) is None]
    store = TokenStore(size)
    store.add("nll", torch.full((size,), float("nan")))
    if missing:
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        _compute(
            model, missing[rank::world], store.columns["nll"], tokens_per_batch, progress and rank == 0, title
        )
        store.share_between_ranks(["nll"], next(model.parameters()).device)
        if cache and rank == 0:
            cache.add(missing, [store.columns["nll"][sample.target_index].clone() for sample in missing])
    for sample in samples:
        losses = known.get(sample.key)
        if losses is not None:
            store.columns["nll"][sample.target_index] = losses
    return store.columns["nll"]


def flat_signals(samples: Sequence[Sample], store: TokenStore) -> Signals:
    """Lay the whole training set out as one row, with every column of `store` as a signal."""
    labels = torch.full((1, store.size), IGNORED)
    segments = torch.full((1, store.size), -1)
    for number, sample in enumerate(samples):
        labels[0, sample.target_index] = torch.from_numpy(sample.input_ids[sample.targets]).long()
        segments[0, torch.from_numpy(sample.token_index)] = number
    return Signals(labels, segments, {name: column[None] for name, column in store.columns.items()})


def _compute(
    model: nn.Module,
    samples: Sequence[Sample],
    column: Tensor,
    tokens_per_batch: int,
    progress: bool,
    title: str,
) -> None:
    add_token_loss(model)
    device = next(model.parameters()).device
    batches = list(_batches(samples, tokens_per_batch))
    with evaluating(model), torch.no_grad():
        for batch in track(batches, description=title, disable=not progress, console=Console(stderr=True)):
            length = max(len(sample.input_ids) for sample in batch)
            ids, mask, labels = (torch.zeros(len(batch), length, dtype=torch.long) for _ in range(3))
            for row, sample in enumerate(batch):
                end = len(sample.input_ids)
                ids[row, :end] = torch.from_numpy(sample.input_ids)
                mask[row, :end] = 1
                labels[row, :end] = torch.from_numpy(np.where(sample.targets, sample.input_ids, -100))
            labels[mask == 0] = -100
            ids, mask, labels = ids.to(device), mask.to(device), labels.to(device)
            segments = segment_ids(ids, mask)
            scored = NllOnly(Signals(labels, segments))
            model(input_ids=ids, attention_mask=mask, token_loss=scored)
            learnable = learnable_tokens(labels, segments)
            column[torch.cat([sample.target_index for sample in batch])] = scored.nll[learnable].float().cpu()


def _batches(samples: Sequence[Sample], tokens_per_batch: int) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    for sample in sorted((s for s in samples if s.targets.any()), key=lambda s: -len(s.input_ids)):
        if batch and (len(batch) + 1) * len(batch[0].input_ids) > tokens_per_batch:
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
