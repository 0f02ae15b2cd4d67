"""What is lost between the data and the tokens, in words: a chat template that omits something is refused, the rest is counted.

Refused is an omission of what is to be learned, or of its context; noted are samples that are skipped, turns that are not
learned from, and columns, keys and options that are not read.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenry.core.chat.rendering import ConversationRenderer, Omission, RenderedSample
from tokenry.core.chat.rows import Sample
from tokenry.core.chat.turns import REASONING, calls_of
from tokenry.core.errors import UserError

_REASONING = "the reasoning of the assistant"
_READ_KEYS = ("role", "content", "tool_calls", "tool_call_id", *REASONING)


def refuse_omissions(
    rendered: Sequence[RenderedSample | None],
    names: Sequence[int | str],
    renderers: Sequence[ConversationRenderer],
) -> None:
    """Refuse a template that omits what is to be learned, or its context."""
    first: dict[tuple[str, bool], tuple[int | str, Omission]] = {}
    samples: Counter[tuple[str, bool]] = Counter()
    for text, name in zip(rendered, names, strict=True):
        kinds = {(part.what, part.unmarked): part for part in reversed(text.omitted)} if text else {}
        samples.update(kinds.keys())
        for kind, part in kinds.items():
            first.setdefault(kind, (name, part))
    if not first:
        return
    kind = max(samples, key=lambda kind: (samples[kind], kind))
    (what, unmarked), (name, omission) = kind, first[kind]
    does = "has no {% generation %} markers around" if unmarked else "leaves out"
    where = f"sample {name}" + (f", message {omission.message}" if omission.message else "")
    others = ", ".join(sorted({other for other, _ in first} - {what}))
    split = (
        ", or give a row of prompt and completion for each answer"
        if what == _REASONING and not unmarked
        else ""
    )
    raise UserError(
        f"{renderers[0].name} {does} {what} in {samples[kind]} of {len(rendered)} samples (first in {where})"
        f"{f'; also {others}' if others else ''}: pass --chat-template with a jinja file that writes it, or take it out of the data{split}."
    )


def notes_of_rendering(
    samples: Sequence[Sample], rendered: Sequence[RenderedSample | None], names: Sequence[int | str]
) -> Iterator[str]:
    """Count what is skipped or not learned from: conversations, turns, reasoning in the context."""
    total = len(samples)
    begun = [name for text, name in zip(rendered, names, strict=True) if text is None]
    if begun:
        yield (
            f"{len(begun)} of {total} samples begin with an assistant turn, which the chat template cannot write (the first is "
            f"sample {begun[0]}): left out."
        )
    hidden = sum(text is not None and text.hides_reasoning for text in rendered)
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


def notes_of_rows(samples: Sequence[Sample], renderers: Sequence[ConversationRenderer]) -> Iterator[str]:
    """Count what is not read: columns, keys of messages, options of the template; and nulls that may be padding."""
    total = len(samples)
    columns = Counter(name for sample in samples for name in sample.unread)
    if columns:
        yield f"columns that are not read: {_counted(columns, total)}."
    chats = [sample for sample in samples if sample.messages is not None]
    keys = Counter(key for sample in chats for key in {key for turn in sample.messages or () for key in turn})
    unread = {key: n for key, n in keys.items() if key not in _READ_KEYS and not _is_read(key, renderers)}
    if unread:
        yield f"keys of messages that the chat template does not read: {_counted(unread, total)}."
    options = Counter(name for sample in chats for name in sample.template_options)
    ignored = {name: n for name, n in options.items() if not _is_read(name, renderers)}
    if ignored:
        yield f"options in chat_template_kwargs that the chat template does not read: {_counted(ignored, total)}."
    nulls = sum(_has_nulls(_called(sample)) for sample in chats)
    if nulls:
        yield (
            f"in {nulls} of {total} samples the tools or a tool call hold a null, which is written as null; if it is the padding of "
            "a data set, pass the data set itself or a Parquet file."
        )


def _is_read(name: str, renderers: Sequence[ConversationRenderer]) -> bool:
    return any(re.search(rf"\b{re.escape(name)}\b", renderer.template) for renderer in renderers)


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
