"""Rows of training data in any common form, parsed into samples.

`read_rows` reads plain dicts; `to_sample` turns one row into its context (`prompt`) and what is learned (`completion`), both as
chat messages or both as text, with the columns beside a conversation (`tools`, `system`, `history`, `chat_template_kwargs`,
`documents`). A column that would change what is learned is followed or refused by name; other columns are listed in `unread`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenry.core.chat.reading import (
    PYTHON_LIST,
    Row,
    is_list_of_objects,
    is_python_list,
    plain,
    read_rows,
    rows_inside,
)
from tokenry.core.chat.turns import (
    ROLES,
    Message,
    Turn,
    from_json,
    read_turns,
    require_content,
    require_text,
    require_weight,
)
from tokenry.core.errors import UserError

__all__ = ["ROLES", "Message", "Row", "Sample", "Span", "read_rows", "to_sample"]

_FORMATS = (
    "messages",
    "conversations",
    "prompt and completion",
    "instruction (and input) and output or response",
    "question and answer",
    "text",
)
_SYSTEM = ("system", "system_prompt", "system_message")
_BESIDE = (*_SYSTEM, "history", "tools", "documents", "chat_template_kwargs")
_COMMON = ("spans", "weight", "token_weights")
_READ_ELSEWHERE = ("verifier", "task")  # read with tasks that bring their own checks
_REFUSED_COLUMNS = {
    "functions": "give the schemas as tools: [{type: function, function: …}]",
    "images": "only text is learned",
    "image": "only text is learned",
    "videos": "only text is learned",
    "video": "only text is learned",
    "audios": "only text is learned",
    "audio": "only text is learned",
    "reasoning_content": "give messages whose assistant turn has reasoning_content",
    "thinking": "give messages whose assistant turn has reasoning_content",
    "reasoning": "give messages whose assistant turn has reasoning_content",
}
_LIKE_MESSAGES = re.compile(r'\s*\[\s*\{\s*"(role|content|from|value)"\s*:')
_PREFERENCE = ("chosen", "rejected")
_VERDICTS = ("label", "kto_tag")
_OWN_OPTIONS = (
    "conversation",
    "conversations",
    "messages",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "sanitize_control_tokens",
    "return_assistant_tokens_mask",
    "tokenize",
    "tokenizer_kwargs",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
)


@dataclass(frozen=True)
class Span:
    """A span of the answer, in characters, that belongs to a named class of tokens (recorded noise, numbers, …).

    An empty span stands for the token at its place; at the end of the answer, for the end token.
    """

    start: int
    end: int
    name: str


@dataclass(frozen=True)
class Sample:
    """One parsed row.

    Attributes:
        prompt: the context: messages, or text.
        completion: what is learned: the assistant turns among these messages, or the whole text.
        spans: spans in the content of the last assistant turn, or in the completion's text.
        weight: weight of the whole sample; None if the row has none.
        token_weights: one weight per token of the whole sample; None if the row has none.
        turn_weights: one weight per message of the completion; None for a message without one.
        template_options: further arguments of the chat template: `tools`, `documents`, and others by name.
        unread: names of the columns that are not read.
    """

    prompt: tuple[Message, ...] | str
    completion: tuple[Message, ...] | str
    spans: tuple[Span, ...] = ()
    weight: float | None = None
    token_weights: tuple[float, ...] | None = None
    turn_weights: tuple[float | None, ...] = ()
    template_options: Mapping[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    @property
    def messages(self) -> list[Message] | None:
        """All messages in order; None for text."""
        if isinstance(self.prompt, str) or isinstance(self.completion, str):
            return None
        return [*self.prompt, *self.completion]


@dataclass(frozen=True)
class _Exchange:
    """The context and what is learned, and the columns that they come from."""

    columns: tuple[str, ...]
    prompt: tuple[Turn, ...] | str
    completion: tuple[Turn, ...] | str


def to_sample(row: Mapping[str, Any], number: int | str) -> Sample:
    """Parse one row.

    Args:
        row: the columns; None counts as absent.
        number: the row's number, from 1, or another name, for the error messages.
    """
    where = f"sample {number}"
    row = {str(name): value for name, value in row.items() if value is not None}
    found = _understood({name: plain(row[name]) for name in row if name in _KNOWN}, row, where)
    _refuse_columns(row, found, where)
    if isinstance(found.prompt, str) or isinstance(found.completion, str):
        _require_nothing_beside(row, where)
        prompt, completion, options = found.prompt, found.completion, {}
    else:
        beside = _turns_before(row, found.prompt + found.completion, where)
        # Earlier turns belong to the prompt; without a prompt, they belong to what is learned.
        prompt = beside + found.prompt if found.prompt else ()
        completion = found.completion if found.prompt else beside + found.completion
        options = _template_options(row, where)
    spans = from_json(plain(row.get("spans")), where, "spans")
    return Sample(
        prompt=_messages(prompt),
        completion=_messages(completion),
        spans=_spans(spans, len(_answer(completion, where)), where),
        weight=None if "weight" not in row else require_weight(plain(row["weight"]), where, "weight"),
        token_weights=_token_weights(row, where),
        turn_weights=() if isinstance(completion, str) else tuple(turn.weight for turn in completion),
        template_options=options,
        unread=tuple(sorted(row.keys() - {*found.columns, *_BESIDE, *_COMMON, *_READ_ELSEWHERE})),
    )


def _messages(turns: tuple[Turn, ...] | str) -> tuple[Message, ...] | str:
    return turns if isinstance(turns, str) else tuple(turn.message for turn in turns)


# --- prompt and completion ---------------------------------------------------------------------------------------------

_KNOWN = (
    "messages",
    "conversations",
    "prompt",
    "completion",
    "instruction",
    "input",
    "context",
    "output",
    "response",
    "question",
    "answer",
    "text",
)


def _understood(row: Mapping[str, Any], whole: Mapping[str, Any], where: str) -> _Exchange:
    """Parse the first complete combination of columns; chat formats come before text."""

    def has(*names: str) -> bool:
        return all(name in row for name in names)

    answer = next((name for name in ("output", "response") if has(name)), "output")
    for name in ("messages", "conversations"):
        if has(name):
            return _Exchange((name,), (), read_turns(row[name], where, name))
    if has("prompt", "completion"):
        return _Exchange(("prompt", "completion"), *_pair(row["prompt"], row["completion"], where))
    if has("instruction", answer):
        return _question_and_answer(row, ("instruction", "input", "context"), answer, where)
    if has("question", "answer"):
        return _question_and_answer(row, ("question", "context"), "answer", where)
    if has("text"):
        return _Exchange(("text",), "", require_text(row["text"], where, "text"))
    raise UserError(_not_understood(whole, where))


def _not_understood(row: Mapping[str, Any], where: str) -> str:
    if any(name in row for name in _PREFERENCE):
        return (
            f"{where} is a preference ({', '.join(name for name in _PREFERENCE if name in row)}), which is not data to learn "
            "an answer from: give the chosen answer as completion (with its prompt), or as messages."
        )
    inside = rows_inside(row)
    hint = f" (are the rows inside {inside}? give that list alone)" if inside else ""
    found = ", ".join(row) or "none"
    return (
        f"{where} has no columns that are understood (found: {found}){hint}: give {'; or '.join(_FORMATS)}."
    )


def _pair(
    prompt: Any, completion: Any, where: str
) -> tuple[tuple[Turn, ...], tuple[Turn, ...]] | tuple[str, str]:
    prompt, completion = (
        _messages_or_text(prompt, where, "prompt"),
        _messages_or_text(completion, where, "completion"),
    )
    if isinstance(prompt, str) and isinstance(completion, str):
        return require_text(prompt, where, "prompt"), require_text(completion, where, "completion")
    given = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    learned = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    return read_turns(given, where), read_turns(learned, where)


def _messages_or_text(value: Any, where: str, name: str) -> Any:
    """Parse messages that a text column holds as JSON; any other text stays text."""
    if not isinstance(value, str):
        return value
    if is_python_list(value) and ("'role'" in value or "'from'" in value):
        raise UserError(f"{where}: the column {name} {PYTHON_LIST}")
    if not _LIKE_MESSAGES.match(value):
        return value
    messages = from_json(value, where, name)
    is_messages = is_list_of_objects(messages) and all(item.keys() & {"role", "from"} for item in messages)
    return messages if is_messages else value


def _question_and_answer(row: Mapping[str, Any], asked: Sequence[str], answer: str, where: str) -> _Exchange:
    names = [name for name in asked if row.get(name)] or list(asked[:1])
    question = "\n\n".join(require_text(row[name], where, name) for name in names)
    return _Exchange(
        (*asked, answer),
        (),
        read_turns([{"role": "user", "content": question}], where)
        + read_turns([{"role": "assistant", "content": row[answer]}], where),
    )


def _answer(completion: tuple[Turn, ...] | str, where: str) -> str:
    """Return the text that spans refer to: the whole completion, or the last assistant turn."""
    if isinstance(completion, str):
        require_content(completion, where, "text to learn")
        return completion
    said = [turn.message.get("content", "") for turn in completion if turn.role == "assistant"]
    if not said:
        raise UserError(
            f"{where} has no assistant turn, so there is nothing to learn: add the answer or remove the sample."
        )
    return said[-1]


# --- columns beside the conversation -----------------------------------------------------------------------------------


def _refuse_columns(row: Mapping[str, Any], found: _Exchange, where: str) -> None:
    for name, what_to_do in _REFUSED_COLUMNS.items():
        value = row.get(name)
        if _has_content(value) and not (name == "reasoning" and not isinstance(value, str)):
            raise UserError(
                f"{where} has the column {name}, which would be lost: {what_to_do}, or leave it out."
            )
    if found.columns == ("prompt", "completion"):
        for name in _VERDICTS:
            if isinstance(plain(row.get(name)), bool):
                raise UserError(
                    f"{where} has the column {name}, so its completion may be a bad one: keep the good rows and leave the column out."
                )


def _has_content(value: Any) -> bool:
    value = plain(value)
    return bool(value.strip()) if isinstance(value, str) else value not in (None, [], {})


def _require_nothing_beside(row: Mapping[str, Any], where: str) -> None:
    for name in _BESIDE:
        if _has_content(from_json(row.get(name), where, name)):
            raise UserError(
                f"{where} has the column {name} beside text, where no chat template writes it: give the text as messages, or "
                "leave the column out."
            )


def _turns_before(row: Mapping[str, Any], turns: Sequence[Turn], where: str) -> tuple[Turn, ...]:
    """The turns that other columns put before a conversation: a system prompt, and earlier turns."""
    said = {name: require_text(row[name], where, name) for name in _SYSTEM if _has_content(row.get(name))}
    system = next(iter(said.values()), "")
    if len(set(said.values())) > 1:
        raise UserError(
            f"{where} has {' and '.join(said)}, which say different things: leave one of them out."
        )
    has_own = bool(turns) and turns[0].role == "system"
    if has_own and system and turns[0].message["content"].strip() != system.strip():
        raise UserError(
            f"{where} has the column {next(iter(said))} and a system turn, which say different things: leave one of them out."
        )
    earlier = _history(row.get("history"), where)
    if has_own and earlier:
        raise UserError(
            f"{where} has the column history before a system turn: put its turns into the conversation."
        )
    opening = read_turns([{"role": "system", "content": system}], where) if system and not has_own else ()
    return opening + earlier


def _history(history: Any, where: str) -> tuple[Turn, ...]:
    history = from_json(plain(history), where, "history")
    if not _has_content(history):
        return ()
    if is_list_of_objects(history):
        return read_turns(history, where, "history")
    is_pairs = isinstance(history, list) and all(
        isinstance(pair, list) and len(pair) == 2 for pair in history
    )
    if not is_pairs:
        raise UserError(f"{where}: history must be a list of pairs, a question and its answer.")
    roles = ("user", "assistant")
    return read_turns(
        [{"role": role, "content": text} for pair in history for role, text in zip(roles, pair, strict=True)],
        f"{where}, history",
    )


def _template_options(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments of `apply_chat_template` beside the messages: tools, documents, and any option of the template."""
    options = from_json(plain(row.get("chat_template_kwargs")), where, "chat_template_kwargs")
    if not _has_content(options):
        options = {}
    if not isinstance(options, dict):
        raise UserError(
            f"{where}: chat_template_kwargs must be an object with the options of the chat template."
        )
    options = {name: value for name, value in options.items() if value is not None}
    for name in _OWN_OPTIONS:
        if name in options:
            raise UserError(
                f"{where}: chat_template_kwargs must not hold {name}, which is no option of the template itself."
            )
    for name in ("tools", "documents"):
        listed = from_json(plain(row.get(name)), where, name)
        if not _has_content(listed):
            listed = from_json(options.pop(name, None), where, name)
        elif name in options:
            raise UserError(
                f"{where} has the column {name} and {name} in chat_template_kwargs: leave one of them out."
            )
        if not _has_content(listed):
            continue
        if not is_list_of_objects(listed):
            raise UserError(f"{where}: {name} must be a list of objects, or JSON of one.")
        options[name] = listed
    return options


# --- spans and weights -------------------------------------------------------------------------------------------------


def _spans(spans: Any, length: int, where: str) -> tuple[Span, ...]:
    if spans is None:
        return ()
    if not isinstance(spans, Sequence) or isinstance(spans, str):
        raise UserError(f"{where}: spans must be a list of objects with start, end and class.")
    return tuple(_span(span, length, where) for span in spans)


def _span(span: Any, length: int, where: str) -> Span:
    if not isinstance(span, Mapping) or not {"start", "end", "class"} <= set(span):
        raise UserError(f"{where}: each span must be an object with start, end and class.")
    start, end, name = span["start"], span["end"], span["class"]
    if not (isinstance(start, int) and isinstance(end, int) and isinstance(name, str) and name):
        raise UserError(f"{where}: a span must have whole numbers as start and end, and a name as class.")
    if not 0 <= start <= end <= length:
        raise UserError(
            f"{where}: the span {start} to {end} does not lie in the answer, which has {length} characters."
        )
    return Span(start, end, name)


def _token_weights(row: Mapping[str, Any], where: str) -> tuple[float, ...] | None:
    weights = from_json(plain(row.get("token_weights")), where, "token_weights")
    if weights is None:
        return None
    if not isinstance(weights, list):
        raise UserError(f"{where}: token_weights must be a list of numbers, one per token, got {weights!r}.")
    return tuple(1.0 if value is None else require_weight(value, where, "token_weights") for value in weights)
