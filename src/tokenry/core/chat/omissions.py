"""What a chat template omits from a conversation: every content, all reasoning and every tool call must be in the text.

A template is a program, and many drop what they do not know: reasoning before `</think>`, tool calls, a system turn. White
space may change (templates strip contents), and a string may be escaped as JSON (`tojson`); any other change is an omission.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tokenry.core.chat.turns import REASONING, Message, calls_of

_THINKING = re.compile(
    r"</?(?:think|thinking|thought|reasoning)>|\[/?THINK\]|<\|/?(?:begin|end)_of_thought\|>"
)
_CLOSING = re.compile(r"</|\[/|<\|end")


def omitted_parts(messages: Sequence[Message], text: str, in_order: bool) -> list[tuple[int, str]]:
    """Find the parts of messages that are missing from a text.

    Args:
        messages: messages of a conversation, in order.
        text: the text that a template rendered.
        in_order: whether the text must hold them in this order, the reasoning of each before its content. (A system prompt may
            be elsewhere.)

    Returns:
        The place of a message and its missing part: `reasoning`, `content` or `tool calls`.
    """
    rest = _bare(text)
    missing = []
    cursor = 0
    for place, message in enumerate(messages):
        for kind, part in _texts(message, rest):
            start, length = _find(part, rest, (cursor,) if in_order else (cursor, 0))
            if start < 0:
                missing.append((place, kind))
                continue
            # A part that was found is blanked, so that it cannot match another part too.
            rest = f"{rest[:start]}{chr(0) * length}{rest[start + length :]}"
            cursor = start + length
    missing += [(place, "tool calls") for place in _missing_calls(messages, rest)]
    return sorted(set(missing))


def _texts(message: Message, squashed: str) -> Iterator[tuple[str, str]]:
    """The texts of a message, in the order in which templates render them."""
    for text in dict.fromkeys(str(message[key]) for key in REASONING if message.get(key)):
        yield "reasoning", text
    content = message.get("content") or ""
    if not _THINKING.search(content) or _bare(content) in squashed:
        yield "content", content
        return
    # A template that knows reasoning puts its own tags around it.
    marks = [*_THINKING.finditer(content), None]
    begin = 0
    for mark in marks:
        end = len(content) if mark is None else mark.start()
        closed = mark is not None and _CLOSING.match(mark.group())
        yield ("reasoning" if closed else "content"), content[begin:end]
        begin = end if mark is None else mark.end()


def _find(part: str, text: str, begins: Sequence[int]) -> tuple[int, int]:
    """The start and length of a part in a text, searched from each of `begins` in turn; -1 if it is not there."""
    for forms in ((_bare(part),), _forms(part)):  # most parts are unchanged: JSON is tried afterwards
        for begin in begins:
            for form in forms:
                if (start := text.find(form, begin)) >= 0:
                    return start, len(form)
    return -1, 0


def _bare(text: str) -> str:
    return "".join(text.split())


def _forms(part: str) -> list[str]:
    """A text without white space: as it is, and escaped as JSON."""
    # The text may have been stripped before JSON escaped its line breaks.
    wholes = dict.fromkeys((part, part.strip()))
    ways = [
        part,
        *(json.dumps(whole, ensure_ascii=ascii)[1:-1] for whole in wholes for ascii in (False, True)),
    ]
    return list(dict.fromkeys(map(_bare, ways)))


def _missing_calls(messages: Sequence[Message], text: str) -> list[int]:
    """The messages with a called name, an argument or a value that appears less often than it is used in calls."""
    wanted: Counter[tuple[str, ...]] = Counter()
    missing = []
    for place, message in enumerate(messages):
        leaves = [leaf for call in calls_of(message) for leaf in _leaves_of_call(call, text)]
        wanted.update(leaves)
        if any(_times(leaf, text) < wanted[leaf] for leaf in leaves):
            missing.append(place)
    return missing


def _leaves_of_call(call: Mapping[str, Any], text: str) -> Iterator[tuple[str, ...]]:
    yield tuple(_forms(str(call["name"])))
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        if any(form in text for form in _forms(arguments)):
            yield tuple(_forms(arguments))
            return
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError:
            yield tuple(_forms(arguments))
            return
    yield from _leaves(arguments)


def _leaves(value: Any) -> Iterator[tuple[str, ...]]:
    """The names and values of arguments, each in all forms that templates render."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield tuple(_forms(str(key)))
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, str):
        if value.strip():
            yield tuple(_forms(value))
    elif value is not None:
        yield tuple(dict.fromkeys((json.dumps(value), str(value))))


def _times(forms: Iterable[str], text: str) -> int:
    return max(text.count(form) for form in forms)
