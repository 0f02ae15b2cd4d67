"""Rows of conversations or text, encoded as rows of tokens: `input_ids`, and `labels` that are -100 outside the answers.

A sample is rendered as text once and tokenised once; a token is learned when it begins inside what the assistant says:

    labels[t] = input_ids[t]  if  start <= first character of token t < end  for an assistant turn [start, end), else -100

so a token that straddles the beginning of an answer belongs to the prompt. Nothing is lost in silence: a chat template
that omits an answer, its reasoning or its tool calls is refused, and what is skipped is counted in notes.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from transformers import PreTrainedTokenizerBase

from tokenry.core.chat.notes import notes_of_rendering, notes_of_rows, refuse_omissions
from tokenry.core.chat.reading import plain_rows
from tokenry.core.chat.rendering import (
    BeginsWithAssistantError,
    ConversationRenderer,
    LearnedSpan,
    RenderedSample,
    render_text,
)
from tokenry.core.chat.rows import Sample, Span, to_sample
from tokenry.core.chat.template import require_fast
from tokenry.core.errors import UserError
from tokenry.core.tensors.alignment import IGNORED

logger = logging.getLogger(__name__)

TOO_LONG = ("truncate", "drop", "error")
"""What may happen to a sample that is longer than the maximum."""

NO_CLASS = -1
_TEXTS_AT_ONCE = 1000


@dataclass(frozen=True)
class Encoding:
    """Rows as tokens, and notes about what was left out.

    Attributes:
        dataset: see `encode_rows`.
        notes: a sentence with a count for everything that was cut, skipped or not read.
        numbers: number or name of the original row, for each row of the data set.
    """

    dataset: datasets.Dataset
    notes: tuple[str, ...]
    numbers: tuple[int | str, ...]


@dataclass(frozen=True)
class _Encoded:
    input_ids: Int[ndarray, "seq"]
    labels: Int[ndarray, "seq"]
    token_class: Int[ndarray, "seq"]
    token_weights: Float[ndarray, "seq"]
    name: int | str

    @property
    def learns(self) -> bool:
        """Whether a token is learned; the first of a sample never is."""
        return bool((self.labels[1:] != IGNORED).any())


def encode_rows(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    chat_template: str | None = None,
    too_long: str = "truncate",
    default_class: str = "clean",
) -> datasets.Dataset:
    """Turn rows (see `tokenry.core.chat.rows`) into tokens and labels; what is skipped is logged as a warning.

    Args:
        rows: conversations or texts, perhaps with `spans`, `weight` or `token_weights`; a list of dicts or a `datasets.Dataset`
            (nulls that pad its structs are ignored).
        tokenizer: a fast tokenizer; no special tokens are added to conversations.
        max_length: maximum tokens of a sample.
        chat_template: `open-instruct`, the path of a jinja file, or a template; None for the tokenizer's own.
        too_long: treatment of longer samples: `truncate` keeps their beginning, `drop` leaves them out, `error` refuses the data.
        default_class: class of the learned tokens outside all spans.

    Returns:
        A data set with `input_ids` and `labels`, in the order of the rows; samples without a learned token are left out. With
        spans also `token_class`, -1 where nothing is learned (see `class_names`); with weights also `token_weights`, one float
        per token, the product of the sample's weight, the turn's and the token's.
    """
    encoding = encode_with_notes(rows, tokenizer, max_length, chat_template, too_long, default_class)
    if not weighs(encoding.dataset):
        raise UserError("every weight of a token to learn is 0: there is nothing to learn from.")
    for note in encoding.notes:
        logger.warning("%s", note)
    return encoding.dataset


def encode_with_notes(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    chat_template: str | None = None,
    too_long: str = "truncate",
    default_class: str = "clean",
    numbers: Sequence[int | str] | None = None,
) -> Encoding:
    """`encode_rows`, returning its warnings as notes beside the data set.

    `numbers` names the rows in errors; None counts from 1. The other arguments are those of `encode_rows`.
    """
    if max_length < 2:
        raise UserError(f"max_length must be at least 2 tokens, got {max_length}.")
    if too_long not in TOO_LONG:
        raise UserError(f"too_long must be truncate, drop or error, got {too_long!r}.")
    require_fast(tokenizer)
    listed = list(plain_rows(rows))
    names = list(numbers) if numbers is not None else list(range(1, len(listed) + 1))
    samples = [to_sample(row, name) for row, name in zip(listed, names, strict=True)]
    if not samples:
        raise UserError("the data hold no rows: there is nothing to learn from.")
    rendered, renderers = _render(samples, names, tokenizer, chat_template)
    refuse_omissions(rendered, names, renderers)
    kept = [number for number, text in enumerate(rendered) if text is not None]
    if not kept:
        raise UserError(
            f"sample {names[0]} begins with an assistant turn, which the chat template cannot write, and so do all "
            f"{len(samples)}: begin them with a user or system turn."
        )
    classes = [
        default_class,
        *sorted({span.name for sample in samples for span in sample.spans} - {default_class}),
    ]
    texts = [text for text in rendered if text is not None]
    encoded = _encode(
        [samples[number] for number in kept], texts, tokenizer, classes, [names[number] for number in kept]
    )
    fitting, notes = _fit(encoded, max_length, too_long)
    has_weights = any(
        sample.weight is not None or sample.token_weights or {*sample.turn_weights} - {None, 0.0, 1.0}
        for sample in samples
    )
    dataset = _as_dataset(fitting, classes if any(sample.spans for sample in samples) else [], has_weights)
    notes = [*notes_of_rendering(samples, rendered, names), *notes_of_rows(samples, renderers), *notes]
    return Encoding(dataset, tuple(notes), tuple(sample.name for sample in fitting))


def weighs(dataset: datasets.Dataset) -> bool:
    """Whether a token of encoded rows is learned with a weight above 0."""
    if "token_weights" not in dataset.column_names:
        return True
    rows = zip(dataset["labels"], dataset["token_weights"], strict=True)
    return any(
        (np.asarray(weights[1:])[np.asarray(labels[1:]) != IGNORED] > 0).any() for labels, weights in rows
    )


def class_names(dataset: datasets.Dataset) -> list[str]:
    """The names of the classes in `token_class`, by number; empty without such a column."""
    column = dataset.features.get("token_class")
    return list(column.feature.names) if column is not None else []


# --- text --------------------------------------------------------------------------------------------------------------


def _render(
    samples: Sequence[Sample],
    names: Sequence[int | str],
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None,
) -> tuple[list[RenderedSample | None], list[ConversationRenderer]]:
    """Render all samples; None for one that begins with the assistant if the template cannot render that."""
    renderers: dict[bool, ConversationRenderer] = {}
    rendered: list[RenderedSample | None] = []
    for sample, name in zip(samples, names, strict=True):
        if sample.messages is None:
            rendered.append(render_text(sample, tokenizer))
            continue
        with_tools = "tools" in sample.template_options
        if with_tools not in renderers:
            renderers[with_tools] = ConversationRenderer(tokenizer, chat_template, with_tools)
        try:
            rendered.append(renderers[with_tools].render(sample, name))
        except BeginsWithAssistantError:
            rendered.append(None)
    return rendered, list(renderers.values())


# --- tokens ------------------------------------------------------------------------------------------------------------


def _encode(
    samples: list[Sample],
    rendered: list[RenderedSample],
    tokenizer: PreTrainedTokenizerBase,
    classes: list[str],
    names: list[int | str],
) -> list[_Encoded]:
    encoded = []
    for first in range(0, len(rendered), _TEXTS_AT_ONCE):
        some = rendered[first : first + _TEXTS_AT_ONCE]
        tokens = tokenizer(
            [sample.text for sample in some],
            add_special_tokens=False,
            return_offsets_mapping=True,
            verbose=False,  # no warning for every text longer than the model's maximum
        )
        for place, sample in enumerate(some):
            ids = np.array(tokens["input_ids"][place], dtype=np.int64)
            offsets = np.array(tokens["offset_mapping"][place], dtype=np.int64).reshape(-1, 2)
            learned = _begins_inside(offsets, sample.learned)
            number = first + place
            of_turns = _weights_of_turns(offsets, sample.learned)
            encoded.append(
                _Encoded(
                    input_ids=ids,
                    labels=np.where(learned, ids, IGNORED),
                    token_class=_classify(offsets, learned, sample.spans, classes),
                    token_weights=of_turns * _weights_of_tokens(samples[number], len(ids), names[number]),
                    name=names[number],
                )
            )
    return encoded


def _begins_inside(offsets: Int[ndarray, "seq 2"], places: Sequence[LearnedSpan]) -> Bool[ndarray, "seq"]:
    starts = offsets[:, 0]
    inside = np.zeros(len(offsets), dtype=bool)
    for place in places:
        inside |= (starts >= place.start) & (starts < place.end)
    return inside


def _weights_of_turns(offsets: Int[ndarray, "seq 2"], places: Sequence[LearnedSpan]) -> Float[ndarray, "seq"]:
    weights = np.ones(len(offsets))
    for place in places:
        if place.weight != 1.0:
            weights[_begins_inside(offsets, [place])] = place.weight
    return weights


def _classify(
    offsets: Int[ndarray, "seq 2"],
    learned: Bool[ndarray, "seq"],
    spans: Sequence[Span],
    classes: list[str],
) -> Int[ndarray, "seq"]:
    """Give a learned token the class of the first span that covers at least half of its characters, otherwise the default.

    An empty span stands for the token at its place; at the end of an answer, for the end token.
    """
    starts, ends = offsets[:, 0], offsets[:, 1]
    token_class = np.where(learned, 0, NO_CLASS)
    undecided = learned.copy()
    for span in spans:
        overlap = np.minimum(ends, span.end) - np.maximum(starts, span.start)
        holds = (
            2 * overlap >= ends - starts
            if span.start < span.end
            else (starts <= span.start) & (span.start < ends)
        )
        hit = undecided & holds & (starts < ends)
        token_class[hit] = classes.index(span.name)
        undecided &= ~hit
    return token_class


def _weights_of_tokens(sample: Sample, length: int, number: int | str) -> Float[ndarray, "tokens"]:
    of_sample = 1.0 if sample.weight is None else sample.weight
    if sample.token_weights is None:
        return np.full(length, of_sample)
    if len(sample.token_weights) != length:
        raise UserError(
            f"sample {number} has {length} tokens but {len(sample.token_weights)} token_weights: give one per token of the whole "
            "sample, template included."
        )
    return of_sample * np.array(sample.token_weights)


def _fit(encoded: list[_Encoded], max_length: int, too_long: str) -> tuple[list[_Encoded], list[str]]:
    """Apply the limit, leave out samples without a learned token, and note both."""
    longer = [sample for sample in encoded if len(sample.input_ids) > max_length]
    if longer and too_long == "error":
        raise UserError(
            f"{len(longer)} of {len(encoded)} samples are longer than {max_length} tokens (the first is sample {longer[0].name} "
            f"with {len(longer[0].input_ids)}): raise the maximum length, or choose too_long=truncate or drop."
        )
    fitting = [
        _cut(sample, max_length)
        for sample in encoded
        if too_long == "truncate" or len(sample.input_ids) <= max_length
    ]
    kept = [sample for sample in fitting if sample.learns]
    if not kept:
        raise UserError(
            f"none of {len(encoded)} samples has a token to learn within {max_length} tokens ({len(longer)} are longer): raise the "
            "maximum length."
        )
    notes = []
    if longer:
        what = "dropped" if too_long == "drop" else "cut"
        notes.append(f"{len(longer)} of {len(encoded)} samples are longer than {max_length} tokens: {what}.")
    if len(kept) < len(fitting):
        notes.append(
            f"{len(fitting) - len(kept)} of {len(encoded)} samples have no token to learn within {max_length} tokens: dropped."
        )
    return kept, notes


def _cut(sample: _Encoded, length: int) -> _Encoded:
    return _Encoded(
        sample.input_ids[:length],
        sample.labels[:length],
        sample.token_class[:length],
        sample.token_weights[:length],
        sample.name,
    )


def _as_dataset(encoded: list[_Encoded], classes: list[str], has_weights: bool) -> datasets.Dataset:
    columns: dict[str, list[Any]] = {
        "input_ids": [sample.input_ids for sample in encoded],
        "labels": [sample.labels for sample in encoded],
    }
    whole_number = datasets.Value("int64")
    features = {"input_ids": datasets.List(whole_number), "labels": datasets.List(whole_number)}
    if classes:
        columns["token_class"] = [sample.token_class for sample in encoded]
        features["token_class"] = datasets.List(datasets.ClassLabel(names=classes))
    if has_weights:
        columns["token_weights"] = [sample.token_weights for sample in encoded]
        features["token_weights"] = datasets.List(datasets.Value("float32"))
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))
