"""Signals of all targets of a training set under one fixed model: one pass, with a cache for the NLL.

Samples are sorted by length, so that batches have little padding; only target rows pass through the output head.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow.compute as pc
import torch
import torch.distributed as dist
from datasets import Dataset
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from tokenry.core.chat.template import content_mask
from tokenry.core.tensors.alignment import IGNORED
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.signals import AttentionProbe, Signals
from tokenry.finetuning.forward import ReadSignals, add_token_loss
from tokenry.finetuning.nll_cache import IndexedSample, NllCache
from tokenry.finetuning.token_index import RUNS, expanded, flat, parts_of
from tokenry.finetuning.token_store import TokenStore

Value = TypeVar("Value")

# A batch of this many tokens keeps a processor busy; a sample of similar length has at least this fraction of the longest.
_FEWEST_TOKENS, _SIMILAR = 512, 0.85


def samples_of(rows: Dataset | Iterable[Mapping[str, Any]]) -> Iterator[IndexedSample]:
    """Split packed rows into samples; rows carry `input_ids`, `labels`, `token_runs` and perhaps `seq_lengths`.

    The samples of a data set are views of its memory.
    """
    if isinstance(rows, Dataset):
        packed = "seq_lengths" in rows.column_names
        for part in parts_of(rows, "input_ids", "labels", RUNS, *["seq_lengths"] * packed):
            ids, labels, runs = (flat(part[name]) for name in ("input_ids", "labels", RUNS))
            lengths = flat(part["seq_lengths"]) if packed else pc.list_value_length(part["labels"]).to_numpy()
            yield from _samples(ids, labels, expanded(runs), lengths)
    else:
        for row in rows:
            ids, labels = (np.asarray(row[name]) for name in ("input_ids", "labels"))
            yield from _samples(ids, labels, expanded(row[RUNS]), np.array([len(ids)]))


def _samples(
    ids: np.ndarray, labels: np.ndarray, index: np.ndarray, lengths: np.ndarray
) -> Iterator[IndexedSample]:
    ends = np.cumsum(lengths)
    starts = ends - lengths
    targets = labels != IGNORED
    targets[starts[lengths > 0]] = False  # a first token has no prediction
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        yield IndexedSample(ids[start:end], targets[start:end], _as_range(index[start:end]))


def _as_range(index: np.ndarray) -> np.ndarray | range:
    """A sample has consecutive indices, unless TRL wrapped it from several shuffled ones."""
    first, last = (int(index[0]), int(index[-1])) if len(index) else (0, -1)
    consecutive = last - first + 1 == len(index) and bool((np.diff(index) == 1).all())
    return range(first, last + 1) if consecutive else index.copy()


def dataset_nll(
    model: nn.Module,
    samples: Sequence[IndexedSample],
    size: int,
    *,
    cache: NllCache | None = None,
    holders: Sequence[int] = (0,),
    device: torch.device | None = None,
    tokens_per_batch: int = 8192,
    progress: bool = True,
    title: str = "history",
) -> Tensor:
    """Compute the NLL of all targets, in nats, as one flat column over the training set (nan where there is no target).

    Under torch.distributed every rank that holds the model computes its part, and all receive the whole.

    Args:
        model: a causal language model, whole on this device; it is put in eval mode for the pass.
        samples: what `samples_of` gives.
        size: number of tokens in the training set.
        cache: known losses, used by the first rank only, as other machines may not have the folder.
        holders: the ranks that hold the model, see `weight_holders`.
        device: device through which ranks communicate.
        tokens_per_batch: padded tokens of one forward.
        progress: show a progress bar on stderr.
        title: title of the progress bar.
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    store = TokenStore(size)
    store.add("nll", torch.full((size,), float("nan")))
    missing = []
    for number, sample in enumerate(samples if rank == 0 else ()):
        losses = cache.get(sample) if cache else None
        if losses is None:
            missing.append(number)
        else:
            index = sample.index[None]
            where = torch.from_numpy(sample.targets)[None]
            store.record("nll", index, torch.zeros(where.shape).masked_scatter(where, losses), where)
    missing = as_the_first_rank_says(missing)
    if missing and rank in holders:
        part = [samples[number] for number in missing[list(holders).index(rank) :: len(holders)]]
        shown = progress and rank == 0
        read_dataset(model, part, store, tokens_per_batch=tokens_per_batch, progress=shown, title=title)
    store.share_between_ranks(device or torch.device("cpu"))
    if cache and missing and rank == 0:
        computed = [samples[number] for number in missing]
        cache.add(computed, [store.columns["nll"][sample.target_index].clone() for sample in computed])
    return store.columns["nll"]


def weight_holders(fingerprint: str | None) -> list[int]:
    """The ranks that hold the same weights as the first rank; none if the first has no whole weights (None).

    With `fsdp_cpu_ram_efficient_loading`, only the first rank of each machine has the weights until training begins.
    """
    if not dist.is_initialized():
        return [] if fingerprint is None else [0]
    fingerprints: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(fingerprints, fingerprint)
    return [rank for rank, other in enumerate(fingerprints) if other and other == fingerprints[0]]


def as_the_first_rank_says(value: Value) -> Value:
    """The value of the first rank, on all of them."""
    if not dist.is_initialized():
        return value
    told = [value]
    dist.broadcast_object_list(told, src=0)
    return told[0]


def flat_signals(samples: Sequence[IndexedSample], store: TokenStore) -> Signals:
    """The whole training set as one row, with every column of `store` as a signal."""
    labels = torch.full((1, store.size), IGNORED, dtype=torch.int32)
    segments = torch.full((1, store.size), -1, dtype=torch.int32)
    for number, sample in enumerate(samples):
        labels[0, sample.target_index] = torch.from_numpy(sample.input_ids[sample.targets]).int()
        segments[0, sample.index] = number
    return Signals(labels, segments, {name: column[None] for name, column in store.columns.items()})


def read_dataset(
    model: nn.Module,
    samples: Sequence[IndexedSample],
    store: TokenStore,
    needed: frozenset[str] = frozenset({"nll"}),
    *,
    probe: AttentionProbe | None = None,
    template: tuple[tuple[int, ...], ...] = (),
    tokens_per_batch: int = 8192,
    progress: bool = True,
    title: str = "reading",
) -> None:
    """Read signals of all targets in one pass and record them in `store` under their names.

    Args:
        model: a causal language model, whole on this device; it is put in eval mode for the pass.
        samples: what `samples_of` gives.
        store: the columns of the training set.
        needed: signals to read, of `nll`, `entropy` and `prompt_attention`.
        probe: layers and columns of the attention.
        template: the pieces of the chat template (`tokenry.core.chat.template`), for attention to content.
        tokens_per_batch: padded tokens of one forward.
        progress: show a progress bar on stderr.
        title: title of the progress bar.
    """
    add_token_loss(model)
    device = next(model.parameters()).device
    batches = list(_batches(samples, tokens_per_batch))
    with evaluation_mode(model), torch.no_grad():
        for batch in track(batches, title, console=Console(stderr=True)) if progress else batches:
            ids, segments, labels, index = (tensor.to(device) for tensor in _padded(batch))
            content = content_mask(ids, template) if template else None
            reading = ReadSignals(Signals(labels, segments), needed, probe, content)
            model(input_ids=ids, token_loss=reading)  # padding follows the tokens, which do not see it
            for name, values in reading.values.items():
                store.record(name, index, values, reading.signals.learnable)


def _padded(batch: Sequence[IndexedSample]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lay samples out as right-padded ids, segments, labels and token indices."""
    shape = (len(batch), max(len(sample.input_ids) for sample in batch))
    ids, segments = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    labels, index = torch.full(shape, IGNORED), torch.full(shape, -1)
    for row, sample in enumerate(batch):
        end = len(sample.input_ids)
        ids[row, :end] = torch.from_numpy(np.array(sample.input_ids))  # it may lie in read-only memory
        segments[row, :end] = row
        labels[row, :end] = torch.from_numpy(np.where(sample.targets, sample.input_ids, IGNORED))
        index[row, :end] = sample.index
    return ids, segments, labels, index


def _batches(samples: Sequence[IndexedSample], tokens_per_batch: int) -> Iterator[list[IndexedSample]]:
    """Batches of similar length, the longest first: a batch that is worth a forward takes no sample much shorter than its first."""
    batch: list[IndexedSample] = []
    for sample in sorted((s for s in samples if s.targets.any()), key=lambda s: -len(s.input_ids)):
        longest = len(batch[0].input_ids) if batch else 0
        full = (len(batch) + 1) * longest > tokens_per_batch
        worth = len(batch) * longest >= _FEWEST_TOKENS
        if batch and (full or (worth and len(sample.input_ids) < _SIMILAR * longest)):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch
