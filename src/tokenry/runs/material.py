"""The data of a comparison, as rows and as tokens: what is trained on, what is trusted, what is held out."""

import hashlib
import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.stats import FEWEST_ITEMS
from tokenry.finetuning.conversations import class_names, encode_rows
from tokenry.finetuning.rows import read_rows, to_sample
from tokenry.finetuning.template import training_template
from tokenry.runs.noisy_tasks import noisy_tasks
from tokenry.runs.plan import DEMO, TunePlan

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Material:
    """Data of a comparison. The trusted samples are training data too.

    Attributes:
        train: tokens that are trained on.
        trusted: tokens of the trusted samples alone.
        held_out: tokens that are measured on.
        held_out_rows: the rows that these were made of, and perhaps some more.
    """

    train: Dataset
    trusted: Dataset | None
    held_out: Dataset
    held_out_rows: Rows

    @property
    def classes(self) -> list[str]:
        """The names of the token classes that the data records."""
        return class_names(self.train)

    @property
    def fingerprint(self) -> str:
        """A hash of all tokens and labels."""
        digest = hashlib.sha256()
        for dataset in (self.train, self.held_out):
            for name in ("input_ids", "labels"):
                for row in dataset[name]:
                    digest.update(np.asarray(row, dtype=np.int64).tobytes() + b"|")
        return digest.hexdigest()[:24]


def gather(plan: TunePlan, tokenizer: PreTrainedTokenizerBase) -> Material:
    """Read and encode the data of a plan.

    Raises:
        UserError: data that cannot be read or learned from.
    """
    if plan.chat_template:
        tokenizer.chat_template = training_template(tokenizer, plan.chat_template)
    train, trusted, held_out = _rows(plan)

    def encode(rows: Rows) -> Dataset:
        return encode_rows(rows, tokenizer, plan.max_length, too_long=plan.too_long)

    held_out_tokens = encode(held_out).select_columns(["input_ids", "labels"])
    if len(held_out_tokens) < 2:
        raise UserError("one held-out sample has no standard error: give --held-out at least two.")
    return Material(
        train=encode(train + trusted),
        trusted=encode(trusted).select_columns(["input_ids", "labels"]) if trusted else None,
        held_out=held_out_tokens,
        held_out_rows=held_out,
    )


def _rows(plan: TunePlan) -> tuple[Rows, Rows, Rows]:
    """Read the rows to train on, the trusted and the held-out ones."""
    if plan.data == DEMO:
        tasks = noisy_tasks(samples=plan.demo_samples, seed=plan.seed)
        return tasks.train, tasks.trusted, tasks.held_out
    train = read_checked(plan.data)
    trusted = read_checked(plan.trusted) if plan.trusted else []
    if plan.held_out:
        return train, trusted, read_checked(plan.held_out)
    train, held_out = set_aside(train, plan.seed)
    return train, trusted, held_out


def read_checked(source: str) -> Rows:
    """Read rows and understand every one, so that what is wrong is told with its place in the source.

    Raises:
        UserError: rows that cannot be read or understood.
    """
    rows = read_rows(source)
    try:
        for number, row in enumerate(rows, start=1):
            to_sample(row, number)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    return rows


def set_aside(rows: Rows, seed: int) -> tuple[Rows, Rows]:
    """Keep a tenth of the rows, at most 500, for evaluation; of few rows a third, until there are enough to tell a difference.

    Raises:
        UserError: there are too few rows for that.
    """
    if len(rows) < 4:
        raise UserError(
            f"{len(rows)} samples are too few to train on and to set some aside: give more, or --held-out a file."
        )
    count = min(500, max(len(rows) // 10, min(FEWEST_ITEMS, math.ceil(len(rows) / 3))))
    chosen = set(random.Random(seed).sample(range(len(rows)), count))
    kept = [row for number, row in enumerate(rows) if number not in chosen]
    return kept, [row for number, row in enumerate(rows) if number in chosen]
