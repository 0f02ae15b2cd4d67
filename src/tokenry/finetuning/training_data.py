"""The training data of a weighed run: prepared as TRL does, every token numbered, and what is known of it beside it in a store.

Tokens are numbered in the order of the data, after samples are cut to their maximum length and before they are shuffled or packed.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from datasets import Dataset
from trl import SFTConfig

from tokenry.finetuning.token_columns import (
    is_list_of_numbers,
    per_token,
    require_labels_per_token,
    require_weights,
    responses_in,
    weights_in,
)
from tokenry.finetuning.token_index import lengths_of, pack_with_runs, with_column, with_runs
from tokenry.finetuning.token_store import TokenStore
from tokenry.finetuning.weighing import TokenWeighing


def prepare_indexed(
    dataset: Dataset,
    prepare: Callable[[Dataset, SFTConfig], Dataset],
    args: SFTConfig,
    weighing: TokenWeighing,
    *,
    packing: bool,
    padding_free: bool,
    record_signals: bool,
) -> tuple[Dataset, TokenStore]:
    """Tokenise, cut, number, shuffle and pack, in this order.

    Args:
        dataset: the rows as the user gave them, without padding.
        prepare: TRL's preparation, without packing.
        args: the training arguments.
        weighing: decides which columns the store needs.
        packing: whether samples are packed into rows.
        padding_free: whether rows that were packed before are learned from as several samples.
        record_signals: also store the tokens' classes.
    """
    uncut = copy.copy(args)
    uncut.shuffle_dataset = False  # tokens are numbered in the order of the data
    uncut.max_length = None
    dataset = prepare(dataset, uncut)
    require_labels_per_token(dataset)
    if "dataset_weight" in weighing.needs:
        require_weights(dataset)
    if args.max_length is not None and not packing:  # packing cuts the samples itself
        cut = copy.copy(uncut)
        cut.max_length = args.max_length
        dataset = prepare(dataset, cut)
    ends = np.cumsum([0, *lengths_of(dataset, "input_ids")], dtype=np.int64)
    store = TokenStore(int(ends[-1]))
    _add_columns(store, dataset, weighing, args.truncation_mode == "keep_end", record_signals)
    if weighing.learns_from_prompt:
        ids = dataset.data.column("input_ids")
        dataset = with_column(dataset.remove_columns("labels"), "labels", ids, b"input_ids")
    if "seq_lengths" in dataset.column_names and not padding_free:
        dataset = dataset.remove_columns("seq_lengths")  # rows are learned from as one sample each
    dataset = with_runs(dataset, ends)
    if args.shuffle_dataset:
        dataset = dataset.shuffle(seed=args.seed)
    if packing:
        dataset = pack_with_runs(dataset, args.max_length, args.packing_strategy, args.dataset_num_proc)
        if args.shuffle_dataset:
            dataset = dataset.shuffle(seed=args.seed)
    return dataset, store


def _add_columns(
    store: TokenStore, dataset: Dataset, weighing: TokenWeighing, keep_end: bool, record_signals: bool
) -> None:
    """Add what the data says about its tokens, as far as the weighing (or a report) reads it."""
    if "dataset_weight" in weighing.needs:
        store.add("dataset_weight", weights_in(dataset, keep_end))
    if record_signals and is_list_of_numbers(dataset, "token_class"):
        store.add("token_class", per_token(dataset, "token_class", keep_end, missing=-1.0))
    if "uniform" in weighing.needs:
        generator = torch.Generator().manual_seed(getattr(weighing, "seed", 0))
        store.add("uniform", torch.rand(store.size, generator=generator))
    if weighing.learns_from_prompt:
        store.add("response", responses_in(dataset))
