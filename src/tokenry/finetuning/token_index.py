"""The index of a token: every token of the prepared training set has one, whatever happens to its row later.

Tokens are numbered in the order of the data. A row carries the runs of indices that it consists of, [start, end, start, end, …]:
one run for a sample, several for a packed row. So a sample costs 16 bytes, however long it is; the index of every single
token is written out for a batch only:

    two samples of 3 and 2 tokens      runs [0, 3] and [3, 5]
    packed into one row, second first  runs [3, 5, 0, 3], written out as 3 4 0 1 2
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features
from datasets.table import InMemoryTable, concat_tables
from trl import pack_dataset

RUNS = "token_runs"
# TRL packs the data in parts of this size: packed in the same parts, the rows are the same.
ROWS_PER_PART = 1000


def parts_of(dataset: Dataset, *columns: str) -> Iterator[pa.Table]:
    """Some columns of a data set, a thousand rows at a time: a whole column would hold the data a second time."""
    return iter(dataset.select_columns(list(columns)).with_format("arrow").iter(batch_size=ROWS_PER_PART))


def flat(lists: pa.ChunkedArray) -> np.ndarray:
    """The elements of a column of lists; a view of its memory if that is contiguous."""
    pieces = [pc.list_flatten(piece).to_numpy(zero_copy_only=False) for piece in lists.chunks]
    return pieces[0] if len(pieces) == 1 else np.concatenate([*pieces, np.empty(0, np.int64)])


def lengths_of(dataset: Dataset, column: str) -> np.ndarray:
    """The lengths of the lists in a column; -1 for a missing list."""
    parts = [
        pc.fill_null(pc.list_value_length(part[column]), -1).to_numpy() for part in parts_of(dataset, column)
    ]
    return np.concatenate([*parts, np.empty(0, np.int64)]).astype(np.int64)


def with_runs(dataset: Dataset, ends: np.ndarray) -> Dataset:
    """Give every row the run of indices from `ends[row]` to `ends[row + 1]`."""
    runs = np.stack([ends[:-1], ends[1:]], axis=1).astype(np.int64)
    if RUNS in dataset.column_names:
        dataset = dataset.remove_columns(RUNS)
    dataset, place = _placed(dataset, runs)
    offsets = np.arange(0, 2 * len(place) + 1, 2, dtype=np.int32)
    return with_column(dataset, RUNS, pa.ListArray.from_arrays(offsets, place.reshape(-1)), runs.tobytes())


def with_column(dataset: Dataset, name: str, column: pa.Array | pa.ChunkedArray, content: bytes) -> Dataset:
    """Add a column to the stored rows, which may be more than those selected, without copying any other.

    (`Dataset.add_column` copies the whole table where rows were filtered, shuffled or split before.)

    Args:
        dataset: a data set without such a column.
        column: one value per stored row.
        content: bytes that identify the column in the caches of `datasets`.
    """
    table = concat_tables([dataset.data, InMemoryTable.from_arrays([column], names=[name])], axis=1)
    info = dataset.info.copy()
    info.features = Features(
        {**dataset.features, **Features.from_arrow_schema(table.schema.empty_table().select([name]).schema)}
    )
    digest = hashlib.blake2b(f"{dataset._fingerprint} {name}".encode() + content, digest_size=8)
    return Dataset(
        table, info=info, split=dataset.split, indices_table=dataset._indices, fingerprint=digest.hexdigest()
    )


def _placed(dataset: Dataset, values: np.ndarray) -> tuple[Dataset, np.ndarray]:
    """Move the values of the selected rows to the places where these rows are stored."""
    if dataset._indices is None:
        return dataset, values
    stored = dataset._indices.column(0).to_numpy()
    if len(np.unique(stored)) < len(stored):  # a row that was selected twice gets two runs
        return dataset.flatten_indices(), values
    placed = np.zeros((len(dataset.data), *values.shape[1:]), values.dtype)
    placed[stored] = values
    return dataset, placed


def expanded(runs: Sequence[int] | np.ndarray) -> np.ndarray:
    """Write out the runs of a row: one index per token."""
    ends = np.asarray(runs, dtype=np.int64).reshape(-1, 2)
    lengths = ends[:, 1] - ends[:, 0]
    shifts = ends[:, 0] - (np.cumsum(lengths) - lengths)
    return np.arange(lengths.sum()) + np.repeat(shifts, lengths)


def pack_with_runs(dataset: Dataset, max_length: int, strategy: str, processes: int | None) -> Dataset:
    """Pack as TRL does, and give every packed row the runs of its tokens."""
    indexed = dataset.select_columns(["input_ids", "labels", RUNS])
    packed = indexed.with_format("arrow").map(
        _pack_part,
        batched=True,
        batch_size=ROWS_PER_PART,
        fn_kwargs={"max_length": max_length, "strategy": strategy},
        num_proc=processes,
        desc="Packing train dataset",
    )
    return packed.with_format(None)


def _pack_part(part: pa.Table, max_length: int, strategy: str) -> pa.Table:
    """Pack some rows together with one index per token, then turn the indices back into runs."""
    offsets = np.cumsum([0, *pc.list_value_length(part["input_ids"]).to_numpy()]).astype(np.int32)
    # The lists of a part share their values with all other parts, so new ones are made.
    values = {
        "input_ids": flat(part["input_ids"]),
        "labels": flat(part["labels"]),
        RUNS: expanded(flat(part[RUNS])),
    }
    columns = {name: pa.ListArray.from_arrays(offsets, of_tokens) for name, of_tokens in values.items()}
    with _without_progress_bars():
        rows = Dataset(InMemoryTable.from_pydict(columns), fingerprint="part")
        packed = pack_dataset(rows, max_length, strategy).with_format("arrow")[:]
    place = packed.column_names.index(RUNS)
    return packed.set_column(place, RUNS, _as_runs(packed[RUNS]))


def _as_runs(index: pa.ChunkedArray) -> pa.ListArray:
    values, lengths = flat(index), pc.list_value_length(index).to_numpy()
    begins = np.ones(len(values), dtype=bool)
    begins[1:] = np.diff(values) != 1
    ends_of_rows = np.cumsum(lengths)
    begins[ends_of_rows[:-1]] = True
    (starts,) = np.nonzero(begins)
    ends = np.append(starts[1:], len(values)) - 1
    runs = np.stack([values[starts], values[ends] + 1], axis=1)
    offsets = np.concatenate([[0], np.searchsorted(starts, ends_of_rows)]) * 2
    return pa.ListArray.from_arrays(offsets.astype(np.int32), runs.reshape(-1))


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Hide the bar of a part: there is one for all of them."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
