"""The data of a comparison, as rows and as tokens: the training, trusted, held-out and validation parts."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from tokenry.core.chat.conversations import Encoding, class_names, encode_with_notes, weighs
from tokenry.core.chat.template import training_template
from tokenry.core.errors import UserError
from tokenry.core.io.descriptions import split_descriptions
from tokenry.core.io.workspace import fingerprint
from tokenry.core.stats import FEWEST_ITEMS
from tokenry.evaluation.noisy_tasks import noisy_tasks
from tokenry.verbs._chats import DEMO, Rows, read_checked, say
from tokenry.verbs._tune.candidates import FEWEST_SAMPLES, makes_reference
from tokenry.verbs._tune.plan import AUTO
from tokenry.verbs._tune.retained import refuse_overlap, retained_rows
from tokenry.verbs.tune import Plan

_LONGEST_RETAINED = 256
_JUDGES = 32
"""Samples that judge a race, if that is no more than a tenth: each is measured at every rung, for every entry, at the race's price."""


@dataclass(frozen=True)
class Material:
    """Data of a comparison. Without a race, the trusted samples train the reference model and are training data too; a race splits them.

    Attributes:
        train: tokens to train on.
        trusted: tokens of the trusted samples that the reference model is trained on.
        held_out: tokens to measure on, once and at the end.
        validation: tokens that a race is judged on; None where there is none.
        validation_is_trusted: whether the validation tokens come from trusted samples.
        held_out_rows: the rows of the held-out tokens, and perhaps some more.
        notes: the parts of the data that were cut, skipped or not read.
        retained: tokens that are not trained on, by name, to measure forgetting.
        split: the number of trusted samples by their use, where a race split them.
    """

    train: Dataset
    trusted: Dataset | None
    held_out: Dataset
    held_out_rows: Rows
    notes: tuple[str, ...] = ()
    validation: Dataset | None = None
    validation_is_trusted: bool = False
    retained: Mapping[str, Dataset] = field(default_factory=dict)
    split: Mapping[str, int] = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """The names of the token classes that the data records."""
        return class_names(self.train)

    @property
    def few(self) -> Dataset:
        """Two training samples for a rehearsal, such that have a weight where some have one."""
        telling = islice((n for n in range(len(self.train)) if weighs(self.train.select([n]))), 2)
        return self.train.select(list(telling) or range(min(2, len(self.train))))

    @property
    def fingerprint(self) -> str:
        """A hash of all tokens and labels."""
        rows = (
            np.asarray(row, dtype=np.int64).tobytes() + b"|"
            for dataset in filter(None, (self.train, self.held_out, self.validation, self.trusted))
            for name in ("input_ids", "labels")
            for row in dataset[name]
        )
        return fingerprint(*rows, length=24)


def gather(plan: Plan, tokenizer: PreTrainedTokenizerBase) -> Material:
    """Read and encode the data of a plan."""
    if plan.chat_template:
        tokenizer.chat_template = training_template(tokenizer, plan.chat_template)
    data = _rows(plan)

    def encode(rows: Rows) -> Encoding:
        names = [data.names.get(id(row), number) for number, row in enumerate(rows, start=1)]
        return encode_with_notes(
            rows, tokenizer, plan.max_length, plan.chat_template, plan.too_long, numbers=names
        )

    trusted, validation, split = data.trusted, Rows(), dict[str, int]()
    if plan.weighing == AUTO and len(data.train) + len(data.trusted) >= FEWEST_SAMPLES:
        data, trusted, validation, split = _with_validation(data, plan)
    held_out = encode(data.held_out)
    if len(held_out.dataset) < 2:
        raise UserError("one held-out sample has no standard error: give --held-out at least two.")
    train = encode(data.train + data.trusted)
    notes = [f"training data: {note}" for note in train.notes] + [
        f"held-out data: {note}" for note in held_out.notes
    ]
    named = (plan.weighing, *plan.controls, *split_descriptions(plan.candidates or ""))
    learns_by_weights = any(name.startswith("dataset-weights") for name in named)
    if learns_by_weights and not weighs(train.dataset):
        raise UserError(
            "every weight of a token to learn is 0 in the training data: there is nothing to learn from."
        )
    if "token_weights" in train.dataset.column_names and not learns_by_weights:
        notes.append("training data: it has weights, which only the weighing dataset-weights learns by.")
    say(notes)
    return Material(
        train=train.dataset,
        trusted=encode(trusted).dataset.select_columns(["input_ids", "labels"]) if trusted else None,
        held_out=held_out.dataset.select_columns(["input_ids", "labels"]),
        held_out_rows=data.held_out,
        notes=tuple(notes),
        validation=encode(validation).dataset.select_columns(["input_ids", "labels"]) if validation else None,
        validation_is_trusted=bool(split),
        retained=_retained(plan, tokenizer, train.dataset),
        split=split,
    )


def _retained(plan: Plan, tokenizer: PreTrainedTokenizerBase, train: Dataset) -> dict[str, Dataset]:
    """Encode what may be forgotten, no longer than what is trained on, which is known to fit the model."""
    longest = max(map(len, train["input_ids"]))
    found = {}
    for source, rows in retained_rows(plan).items():
        limit = longest if plan.retain else min(longest, _LONGEST_RETAINED)
        encoded = encode_with_notes(rows, tokenizer, limit, plan.chat_template)
        if plan.retain:
            refuse_overlap(encoded, train, source)
        found[source] = encoded.dataset.select_columns(["input_ids", "labels"])
    return found


@dataclass(frozen=True)
class _Rows:
    """Rows by their use; `names` say, by the identity of a row, where it was read."""

    train: Rows
    trusted: Rows
    held_out: Rows
    names: dict[int, str]


def _rows(plan: Plan) -> _Rows:
    """Read the rows to train on, the trusted and the held-out ones."""
    if plan.data == DEMO:
        tasks = noisy_tasks(samples=plan.demo_samples, seed=plan.seed)
        return _Rows(tasks.train, tasks.trusted, tasks.held_out, {})
    read = {source: read_checked(source) for source in (plan.data, plan.trusted, plan.held_out) if source}
    names = {
        id(row): f"{number} of {source}"
        for source, rows in read.items()
        for number, row in enumerate(rows, start=1)
    }
    train, trusted = read[plan.data], read[plan.trusted] if plan.trusted else []
    if plan.held_out:
        return _Rows(train, trusted, read[plan.held_out], names)
    train, held_out = set_aside(train, plan.seed)
    return _Rows(train, trusted, held_out, names)


def _with_validation(data: _Rows, plan: Plan) -> tuple[_Rows, Rows, Rows, dict[str, int]]:
    """Set rows aside to judge a race by: trusted ones, or where these are few, others.

    Trusted samples are split between three uses that share none: training, the reference model (where a candidate needs one that is
    still to be made), and judging. Fewer than three times `FEWEST_ITEMS` are not split.

    Returns:
        The rows without those that judge, the rows of the reference model, those that judge, and how the trusted ones were split.
    """
    count = len(data.trusted) // 3
    if count < FEWEST_ITEMS:
        train, validation = set_aside(data.train, plan.seed + 1, one_in=20, least=_JUDGES)
        return replace(data, train=train), data.trusted, validation, {}
    shuffled = random.Random(f"{plan.seed}:validation").sample(data.trusted, len(data.trusted))
    references = count if makes_reference(plan) else 0
    validation, reference, training = (
        shuffled[:count],
        shuffled[count : count + references],
        shuffled[count + references :],
    )
    split = {"training": len(training), "the reference model": references, "judging": count}
    return replace(data, trusted=training), reference, validation, split


def set_aside(rows: Rows, seed: int, one_in: int = 10, least: int = FEWEST_ITEMS) -> tuple[Rows, Rows]:
    """Keep one row in so many, at most 500, for evaluation; of few rows a tenth or a third, until there are enough to tell a difference."""
    if len(rows) < 4:
        raise UserError(
            f"{len(rows)} samples are too few to train on and to set some aside: give more, or --held-out a file."
        )
    enough = max(min(least, len(rows) // 10), min(FEWEST_ITEMS, math.ceil(len(rows) / 3)))
    count = min(500, max(len(rows) // one_in, enough))
    chosen = set(random.Random(seed).sample(range(len(rows)), count))
    kept = [row for number, row in enumerate(rows) if number not in chosen]
    return kept, [row for number, row in enumerate(rows) if number in chosen]
