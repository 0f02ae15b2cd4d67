"""What of the data does not come through, in words: a chat template that leaves something out is refused, the rest is counted.

Refused is a loss of what is to be learned, or of what it answers to; noted are samples that are skipped, turns that are not
learned from, and columns, keys and options that nobody reads.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenry.core.chat.rows import Sample
from tokenry.core.chat.turns import REASONING, calls_of
from tokenry.core.chat.written import ConversationWriter, Loss, Written
from tokenry.core.errors import UserError

_REASONING = "the reasoning of the assistant"
_READ_KEYS = ("role", "content", "tool_calls", "tool_call_id", *REASONING)


def refuse_losses(
    written: Sequence[Written | None], names: Sequence[int | str], writers: Sequence[ConversationWriter]
) -> None:
    """Refuse a template that leaves out what is to be learned, or what it answers to.

    Raises:
        UserError: one sentence with the template's name, what it leaves out, and of how many samples.
    """
    first: dict[tuple[str, bool], tuple[int | str, Loss]] = {}
    samples: Counter[tuple[str, bool]] = Counter()
    for text, name in zip(written, names, strict=True):
        kinds = {(loss.what, loss.unmarked): loss for loss in reversed(text.lost)} if text else {}
        samples.update(kinds.keys())
        for kind, loss in kinds.items():
            first.setdefault(kind, (name, loss))
    if not first:
        return
    kind = max(samples, key=lambda kind: (samples[kind], kind))
    (what, unmarked), (name, loss) = kind, first[kind]
    does = "has no {% generation %} markers around" if unmarked else "leaves out"
    where = f"sample {name}" + (f", message {loss.message}" if loss.message else "")
    others = ", ".join(sorted({other for other, _ in first} - {what}))
    split = (
        ", or give a row of prompt and completion for each answer"
        if what == _REASONING and not unmarked
        else ""
    )
    raise UserError(
        f"{writers[0].name} {does} {what} in {samples[kind]} of {len(written)} samples (first in {where})"
        f"{f'; also {others}' if others else ''}: pass --chat-template with a jinja file that writes it, or take it out of the data{split}."
    )


def notes_of_writing(
    samples: Sequence[Sample], written: Sequence[Written | None], names: Sequence[int | str]
) -> Iterator[str]:
    """Count what is skipped or not learned from: conversations, turns, reasoning that is given."""
    total = len(samples)
    begun = [name for text, name in zip(written, names, strict=True) if text is None]
    if begun:
        yield (
            f"{len(begun)} of {total} samples begin with an assistant turn, which the chat template cannot write (the first is "
            f"sample {begun[0]}): left out."
        )
    hidden = sum(text is not None and text.hides_reasoning for text in written)
    if hidden:
        yield (
            f"in {hidden} of {total} samples the chat template leaves out the reasoning of earlier turns, which are given and not "
            "learned from."
        )
    turns = [
        (message["role"], weight)
        for sample in samples
        if sample.messages is not None
        for message, weight in zip(sample.completion, sample.turn_weights, strict=True)
        if isinstance(message, Mapping)
    ]
    of_assistant = [weight for role, weight in turns if role == "assistant"]
    if silent := of_assistant.count(0.0):
        yield f"{silent} of {len(of_assistant)} assistant turns have a weight of 0: given, not learned from."
    others = [weight for role, weight in turns if role != "assistant"]
    if asked := sum(map(bool, others)):
        yield f"{asked} of {len(others)} turns of others than the assistant ask to be learned from: only the assistant's are."


def notes_of_rows(samples: Sequence[Sample], writers: Sequence[ConversationWriter]) -> Iterator[str]:
    """Count what nobody reads: columns, keys of messages, options of the template; and nulls that may be padding."""
    total = len(samples)
    columns = Counter(name for sample in samples for name in sample.unread)
    if columns:
        yield f"columns that are not read: {_counted(columns, total)}."
    chats = [sample for sample in samples if sample.messages is not None]
    keys = Counter(key for sample in chats for key in {key for turn in sample.messages or () for key in turn})
    unread = {key: n for key, n in keys.items() if key not in _READ_KEYS and not _is_read(key, writers)}
    if unread:
        yield f"keys of messages that the chat template does not read: {_counted(unread, total)}."
    options = Counter(name for sample in chats for name in sample.template_options)
    ignored = {name: n for name, n in options.items() if not _is_read(name, writers)}
    if ignored:
        yield f"options in chat_template_kwargs that the chat template does not read: {_counted(ignored, total)}."
    nulls = sum(_has_nulls(_called(sample)) for sample in chats)
    if nulls:
        yield (
            f"in {nulls} of {total} samples the tools or a tool call hold a null, which is written as null; if it is the padding of "
            "a data set, pass the data set itself or a Parquet file."
        )


def _is_read(name: str, writers: Sequence[ConversationWriter]) -> bool:
    return any(re.search(rf"\b{re.escape(name)}\b", writer.template) for writer in writers)


def _counted(counts: Mapping[str, int], total: int) -> str:
    return ", ".join(name if n == total else f"{name} ({n} of {total})" for name, n in sorted(counts.items()))


def _called(sample: Sample) -> list[Any]:
    """The schemas of a sample's tools, and the arguments with which it calls them."""
    calls = [call.get("arguments") or {} for message in sample.messages or () for call in calls_of(message)]
    return [*sample.template_options.get("tools", ()), *calls]


def _has_nulls(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_nulls(item) for key, item in value.items() if key != "default")
    return any(map(_has_nulls, value)) if isinstance(value, list) else value is None
