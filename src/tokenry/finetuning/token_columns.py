"""The columns of training data that speak about tokens: padding, weights, classes.

`weight` is one number per sample, `token_weights` one per token, and None stands for 1. `attention_mask` is 0 at the padding of rows
that were padded beforehand; padding is removed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, IterableDataset
from jaxtyping import Float
from torch import Tensor

from tokenry.core.errors import UserError
from tokenry.core.tensors.alignment import IGNORED
from tokenry.finetuning.token_index import flat, lengths_of, parts_of

PER_TOKEN = (
    "input_ids", "labels", "attention_mask", "completion_mask", "assistant_masks", "token_weights", "token_class",
)  # fmt: skip


def without_padding(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Remove the tokens that the data's own `attention_mask` hides, from all columns.

    Raises:
        UserError: a mask has another length than its `input_ids`.
    """
    names = dataset.column_names or list(next(iter(dataset), {}))
    if not {"input_ids", "attention_mask"} <= set(names):
        return dataset
    if isinstance(dataset, Dataset):
        _require_equal_lengths(dataset, "attention_mask", "give 1 for a token and 0 for padding")
        if not any(
            bool(pc.any(pc.equal(pc.list_flatten(part["attention_mask"]), 0)).as_py())
            for part in parts_of(dataset, "attention_mask")
        ):
            return dataset
    return dataset.map(_without_padding, fn_kwargs={"names": [name for name in PER_TOKEN if name in names]})


def _without_padding(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    mask = row["attention_mask"]
    if mask is None:
        return {}
    return {
        name: [value for value, real in zip(row[name], mask, strict=True) if real]
        for name in names
        if row[name] is not None
    }


def require_labels_per_token(dataset: Dataset) -> None:
    """Refuse rows with another number of labels than tokens."""
    _require_equal_lengths(
        dataset, "labels", f"give one label per token, {IGNORED} where nothing is to be learned"
    )


def _require_equal_lengths(dataset: Dataset, name: str, what: str) -> None:
    lengths, ids = lengths_of(dataset, name), lengths_of(dataset, "input_ids")
    (wrong,) = np.nonzero((lengths != ids) & (lengths >= 0))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(f"sample {row} has {ids[row]} input_ids but {lengths[row]} {name}: {what}.")


def require_weights(dataset: Dataset) -> None:
    """Refuse invalid weights, before any sample is cut or left out, so that the error can name it."""
    names = dataset.column_names
    name = next((name for name in ("token_weights", "weight") if name in names), None)
    if name is None:
        raise UserError(
            f"DatasetWeights needs a column `weight` or `token_weights`; the data has {', '.join(names)}."
        )
    kind = dataset.features.arrow_schema.field(name).type
    if name == "token_weights":
        if not _is_list(kind):
            _refuse_weight(
                dataset,
                name,
                "no list",
                "a list with one number per token (for one number per sample, `weight`)",
            )
        kind = kind.value_type
        tokens, given = lengths_of(dataset, "input_ids"), lengths_of(dataset, name)
        (wrong,) = np.nonzero((given != tokens) & (given >= 0))
        if len(wrong):
            row = int(wrong[0])
            raise UserError(
                f"sample {row} has {tokens[row]} tokens but {given[row]} token_weights: give one per token."
            )
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        _refuse_weight(dataset, name, _KINDS.get(str(kind), f"of the type {kind}"), "a number")
    first = 0
    for part in parts_of(dataset, name):
        column = part[name]
        values = pc.list_flatten(column) if name == "token_weights" else column
        numbers = _numbers(values, 1.0)
        (wrong,) = np.nonzero(~(np.isfinite(numbers) & (numbers >= 0)))
        if len(wrong):
            ends = (
                np.cumsum(pc.fill_null(pc.list_value_length(column), 0).to_numpy())
                if values is not column
                else None
            )
            row = int(wrong[0] if ends is None else np.searchsorted(ends, wrong[0], side="right"))
            raise UserError(
                f"sample {first + row} has the {name} {float(numbers[wrong[0]]):g}: weights in the data must be finite and 0 or more."
            )
        first += len(column)


_KINDS = {"string": "text", "large_string": "text", "bool": "a truth value"}


def _refuse_weight(dataset: Dataset, name: str, kind: str, allowed: str) -> None:
    values = (value for part in parts_of(dataset, name) for value in part[name].to_pylist())
    row, value = next((row, value) for row, value in enumerate(values) if value is not None)
    raise UserError(
        f"sample {row} has the {name} {value!r}, which is {kind}: each must be {allowed}; None stands for 1."
    )


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def weights_in(dataset: Dataset, keep_end: bool) -> Float[Tensor, "tokens"]:
    """Read `token_weights` or `weight` as one flat column over the tokens that remain after cutting."""
    if "token_weights" in dataset.column_names:
        return per_token(dataset, "token_weights", keep_end, missing=1.0)
    pieces = [
        np.repeat(_numbers(part["weight"], 1.0), pc.list_value_length(part["input_ids"]).to_numpy())
        for part in parts_of(dataset, "weight", "input_ids")
    ]
    return torch.from_numpy(np.concatenate(pieces))


def per_token(dataset: Dataset, name: str, keep_end: bool, missing: float) -> Float[Tensor, "tokens"]:
    """Read a column of lists as one flat column over the tokens that remain after cutting: beginnings, or ends (`keep_end`)."""
    pieces = []
    for part in parts_of(dataset, name, "input_ids"):
        lengths = pc.list_value_length(part["input_ids"]).to_pylist()
        for row, length in zip(_rows(part[name]), lengths, strict=True):
            if row is None:
                pieces.append(np.full(length, missing, dtype=np.float32))
                continue
            numbers = _numbers(row, missing)
            pieces.append(numbers[len(numbers) - length :] if keep_end else numbers[:length])
    return torch.from_numpy(np.concatenate(pieces))


def _rows(lists: pa.ChunkedArray) -> Iterable[pa.Array | None]:
    for chunk in lists.chunks:
        for row in chunk:
            yield row.values


def _numbers(values: pa.Array | pa.ChunkedArray, missing: float) -> np.ndarray:
    return np.asarray(pc.fill_null(values.cast(pa.float32()), missing))


def is_list_of_numbers(dataset: Dataset, name: str) -> bool:
    """Whether a column holds one list of whole numbers per sample, one number per token."""
    if name not in dataset.column_names:
        return False
    kind = dataset.features.arrow_schema.field(name).type
    whole_numbers = _is_list(kind) and pa.types.is_integer(kind.value_type)
    return whole_numbers and np.array_equal(lengths_of(dataset, name), lengths_of(dataset, "input_ids"))


def responses_in(dataset: Dataset) -> Float[Tensor, "tokens"]:
    """1 for every labelled token, as one flat column."""
    pieces = [(flat(part["labels"]) != IGNORED).astype(np.float32) for part in parts_of(dataset, "labels")]
    return torch.from_numpy(np.concatenate(pieces))
