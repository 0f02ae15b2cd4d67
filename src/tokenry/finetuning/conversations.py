"""Rows of conversations or text become rows of tokens: `input_ids`, and `labels` that are -100 outside the answers.

A sample is written as text once and tokenised once; a token is learned when it begins inside what the assistant says:

    labels[t] = input_ids[t]  if  start <= first character of token t < end  for an assistant turn [start, end), else -100

so a token that straddles the beginning of an answer belongs to the prompt. Turns are found by generation markers in the
template, else by writing the conversation up to and including each turn and checking that the whole begins with it.
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

from tokenry.core.alignment import IGNORED
from tokenry.core.errors import UserError
from tokenry.finetuning.rows import Message, Sample, Span, to_sample
from tokenry.finetuning.template import (
    CannotRenderError,
    adds_bos,
    has_markers,
    render,
    render_marked,
    require_fast,
    training_template,
)

logger = logging.getLogger(__name__)

TOO_LONG = ("truncate", "drop", "error")
"""What may happen to a sample that is longer than the maximum."""

NO_CLASS = -1
_TEXTS_AT_ONCE = 1000


@dataclass(frozen=True)
class _Written:
    """A sample as text: the characters that are learned, and where the content that spans refer to stands."""

    text: str
    learned: tuple[tuple[int, int], ...]
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class _Encoded:
    input_ids: Int[ndarray, "seq"]
    labels: Int[ndarray, "seq"]
    token_class: Int[ndarray, "seq"]
    token_weights: Float[ndarray, "seq"]

    @property
    def learns(self) -> bool:
        """Tell whether a token is learned; the first of a sample never is."""
        return bool((self.labels[1:] != IGNORED).any())


def encode_rows(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    chat_template: str | None = None,
    too_long: str = "truncate",
    default_class: str = "clean",
) -> datasets.Dataset:
    """Turn rows (see `tokenry.finetuning.rows`) into tokens and labels.

    Args:
        rows: conversations or texts; with `spans`, `weight` or `token_weights` where the data has them.
        tokenizer: a fast one; its special tokens are those of the text, none is added to conversations.
        max_length: the most tokens of a sample.
        chat_template: `open-instruct`, the path of a jinja file, or a template; None for the tokenizer's own.
        too_long: what happens to a longer sample: `truncate` keeps its beginning, `drop` leaves it out, `error` refuses the data.
        default_class: the class of the learned tokens outside every span.

    Returns:
        A data set with `input_ids` and `labels`, in the order of the rows; samples without a learned token are left out (and
        counted in a warning of the log). With spans also `token_class`, -1 where nothing is learned (see `class_names`); with
        weights also `token_weights`, one float per token, the product of the sample's weight and the token's.

    Raises:
        UserError: a row that is not understood, a tokenizer or template that will not do, or nothing left to learn.
    """
    if max_length < 2:
        raise UserError(f"max_length must be at least 2 tokens, got {max_length}.")
    if too_long not in TOO_LONG:
        raise UserError(f"too_long must be truncate, drop or error, got {too_long!r}.")
    require_fast(tokenizer)
    samples = [to_sample(row, number) for number, row in enumerate(rows, start=1)]
    if not samples:
        raise UserError("the data hold no rows: there is nothing to learn from.")
    is_chat = any(sample.messages is not None for sample in samples)
    template = training_template(tokenizer, chat_template) if is_chat else ""
    written = [_write(sample, number, template, tokenizer) for number, sample in enumerate(samples, start=1)]
    classes = [
        default_class,
        *sorted({span.name for sample in samples for span in sample.spans} - {default_class}),
    ]
    encoded = _encode(samples, written, tokenizer, classes)
    kept = _fit(encoded, max_length, too_long)
    return _as_dataset(
        kept,
        classes if any(sample.spans for sample in samples) else [],
        has_weights=any(sample.weight is not None or sample.token_weights for sample in samples),
    )


def class_names(dataset: datasets.Dataset) -> list[str]:
    """Name the classes that the numbers in `token_class` stand for; none where the data has no such column."""
    column = dataset.features.get("token_class")
    return list(column.feature.names) if column is not None else []


def _write(sample: Sample, number: int, template: str, tokenizer: PreTrainedTokenizerBase) -> _Written:
    messages = sample.messages
    if messages is None:
        return _write_text(sample, tokenizer)
    places = [
        place
        for place, message in enumerate(messages)
        if place >= len(sample.prompt) and message["role"] == "assistant"
    ]
    write_turns = _write_marked_turns if has_markers(template) else _write_turns
    try:
        text, learned, last = write_turns(messages, places, number, template, tokenizer)
    except CannotRenderError as error:
        raise UserError(f"sample {number} cannot be written with the chat template: {error}") from error
    content = messages[places[-1]].get("content", "")
    spans = _placed(sample.spans, content, text, last, number) if sample.spans else ()
    return _Written(text, tuple(learned), spans)


def _write_text(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> _Written:
    begin = f"{tokenizer.bos_token if adds_bos(tokenizer) else ''}{sample.prompt}"
    end = tokenizer.eos_token or ""
    completion = str(sample.completion)
    text = begin + completion + ("" if end and completion.endswith(end) else end)
    # Text without a prompt is learned from its beginning, BOS included: it is the first token, which no model predicts.
    start = len(begin) if sample.prompt else 0
    spans = tuple(Span(len(begin) + span.start, len(begin) + span.end, span.name) for span in sample.spans)
    return _Written(text, ((start, len(text)),), spans)


def _write_turns(
    messages: list[Message],
    places: list[int],
    number: int,
    template: str,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[str, list[tuple[int, int]], int]:
    """Write a conversation; find the characters of the assistant turns at `places`, and where the last of them starts."""
    if places[0] == 0:
        raise UserError(
            f"sample {number} begins with an assistant turn: begin it with a user or system turn."
        )
    text = render(messages, template, tokenizer)
    turns = []
    for place in places:
        before = render(messages[:place], template, tokenizer, add_generation_prompt=True)
        through = render(messages[: place + 1], template, tokenizer)
        if not (through.startswith(before) and text.startswith(through)):
            raise UserError(
                f"sample {number}: the chat template writes message {place + 1} otherwise when more follows, so the place where the "
                "assistant speaks cannot be told: pass --chat-template with a jinja file that has {% generation %} markers."
            )
        turns.append((len(before), len(through)))
    return text, turns, turns[-1][0]


def _write_marked_turns(
    messages: list[Message],
    places: list[int],
    number: int,
    template: str,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[str, list[tuple[int, int]], int]:
    """Do the same with a template that marks what the assistant says; a turn may be marked in several pieces."""

    def marks_before(place: int) -> int:
        earlier = messages[:place]
        if not any(message["role"] == "assistant" for message in earlier):
            return 0
        return len(render_marked(earlier, template, tokenizer, add_generation_prompt=True)[1])

    text, marks = render_marked(messages, template, tokenizer)
    last = marks_before(places[-1])
    if last >= len(marks):
        raise UserError(
            f"sample {number}: the chat template marks no part of message {places[-1] + 1} with {{% generation %}}, so there is "
            "nothing to learn: correct the template."
        )
    return text, marks[marks_before(places[0]) :], marks[last][0]


def _placed(spans: Sequence[Span], content: str, text: str, start: int, number: int) -> tuple[Span, ...]:
    """Move spans from the answer's content to the text, of which the template may have stripped the white space."""
    bare = content.strip()
    found = text.find(bare, start)
    if found < 0:
        raise UserError(
            f"sample {number}: the chat template changes the answer, so its spans cannot be placed: remove them, or pass another "
            "--chat-template."
        )
    before = len(content) - len(content.lstrip())
    offset = found - before
    whole = text.startswith(content, max(offset, 0))
    low, high = (0, len(content)) if whole else (before, before + len(bare))
    placed = []
    for span in spans:
        begin, end = (offset + min(max(edge, low), high) for edge in (span.start, span.end))
        if begin < end or span.start == span.end:
            placed.append(Span(begin, end, span.name))
    return tuple(placed)


def _encode(
    samples: list[Sample], written: list[_Written], tokenizer: PreTrainedTokenizerBase, classes: list[str]
) -> list[_Encoded]:
    encoded = []
    for first in range(0, len(written), _TEXTS_AT_ONCE):
        some = written[first : first + _TEXTS_AT_ONCE]
        tokens = tokenizer(
            [sample.text for sample in some],
            add_special_tokens=False,
            return_offsets_mapping=True,
            verbose=False,  # it would warn of every text longer than the model's maximum
        )
        for place, sample in enumerate(some):
            ids = np.array(tokens["input_ids"][place], dtype=np.int64)
            offsets = np.array(tokens["offset_mapping"][place], dtype=np.int64).reshape(-1, 2)
            learned = _begins_inside(offsets, sample.learned)
            number = first + place
            encoded.append(
                _Encoded(
                    input_ids=ids,
                    labels=np.where(learned, ids, IGNORED),
                    token_class=_classify(offsets, learned, sample.spans, classes),
                    token_weights=_weights_of_tokens(samples[number], len(ids), number + 1),
                )
            )
    return encoded


def _begins_inside(offsets: Int[ndarray, "seq 2"], places: Sequence[tuple[int, int]]) -> Bool[ndarray, "seq"]:
    starts = offsets[:, 0]
    inside = np.zeros(len(offsets), dtype=bool)
    for start, end in places:
        inside |= (starts >= start) & (starts < end)
    return inside


def _classify(
    offsets: Int[ndarray, "seq 2"],
    learned: Bool[ndarray, "seq"],
    spans: Sequence[Span],
    classes: list[str],
) -> Int[ndarray, "seq"]:
    """Give a learned token the class of the first span that covers half of its characters or more, else the default.

    An empty span stands for the token at its place; at the end of an answer that is the token that ends it.
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


def _weights_of_tokens(sample: Sample, length: int, number: int) -> Float[ndarray, "tokens"]:
    of_sample = 1.0 if sample.weight is None else sample.weight
    if sample.token_weights is None:
        return np.full(length, of_sample)
    if len(sample.token_weights) != length:
        raise UserError(
            f"sample {number} has {length} tokens but {len(sample.token_weights)} token_weights: give one per token of the whole "
            "sample, template included."
        )
    return of_sample * np.array(sample.token_weights)


def _fit(encoded: list[_Encoded], max_length: int, too_long: str) -> list[_Encoded]:
    """Apply the limit, leave out samples that teach nothing, and report both."""
    longer = [number for number, sample in enumerate(encoded, start=1) if len(sample.input_ids) > max_length]
    if longer and too_long == "error":
        length = len(encoded[longer[0] - 1].input_ids)
        raise UserError(
            f"{len(longer)} of {len(encoded)} samples are longer than {max_length} tokens (the first is sample {longer[0]} with "
            f"{length}): raise the maximum length, or choose too_long=truncate or drop."
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
    if longer:
        what = "dropped" if too_long == "drop" else "cut"
        logger.warning(
            "%d of %d samples are longer than %d tokens: %s.", len(longer), len(encoded), max_length, what
        )
    if len(kept) < len(fitting):
        logger.warning(
            "%d of %d samples have no token to learn within %d tokens: dropped.",
            len(fitting) - len(kept),
            len(encoded),
            max_length,
        )
    return kept


def _cut(sample: _Encoded, length: int) -> _Encoded:
    return _Encoded(
        sample.input_ids[:length],
        sample.labels[:length],
        sample.token_class[:length],
        sample.token_weights[:length],
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
