"""The turns of a conversation, in any of the common forms, as chat messages that a template can render.

Parsed are OpenAI's form (`role`, `content` as text or text parts, `tool_calls`, the older `function_call`), ShareGPT's
(`from`, `value`, with `function_call` and `observation`), and the keys that set the weight of a turn (`weight`, `train`, …).
Keys that a template would drop are refused by name.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenry.core.errors import UserError

Message = dict[str, Any]
"""`role` and `content`, and other keys that a chat template reads (`tool_calls`, `name`, …)."""

ROLES = ("system", "user", "assistant", "tool")
REASONING = ("reasoning_content", "thinking", "reasoning")
"""The keys of reasoning beside the content, as in transformers."""

_ROLES_ELSEWHERE = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "observation": "tool",
    "tool_response": "tool",
    "function": "tool",
}
_CALLING_ROLES = ("function_call", "tool_call")
_WEIGHTS = ("weight", "loss_weight", "loss_scale")
_SWITCHES = ("train", "training", "trainable", "loss_mask", "loss")
_REFUSED_KEYS = {
    "train_detail": "it weighs parts of a turn: give token_weights or spans for that",
    "training_detail": "it weighs parts of a turn: give token_weights or spans for that",
    "mask": "it may mean learned from or not: say it with train: true or false",
    "masked": "it may mean learned from or not: say it with train: true or false",
    "label": "it may mean learned from or not: say it with train: true or false",
    "labels": "it may mean learned from or not: say it with train: true or false",
    "refusal": "no chat template writes it: put the words of the refusal into content",
    "audio": "only text is learned: leave it out",
}
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Turn:
    """A message, and its weight in the loss; None if the data gives none."""

    message: Message
    weight: float | None = None

    @property
    def role(self) -> str:
        """The speaker."""
        return str(self.message["role"])


def read_turns(messages: Any, where: str, name: str = "messages") -> tuple[Turn, ...]:
    """Parse a list of messages.

    Args:
        messages: messages in OpenAI's or ShareGPT's form, as a list or as JSON.
        where: the name of the sample, for errors.
    """
    messages = from_json(messages, where, name)
    if isinstance(messages, str) or not isinstance(messages, Sequence) or not messages:
        raise UserError(f"{where}: the {name} must be a list of objects with role and content, one at least.")
    return tuple(
        _turn(message, f"{where}, message {number}", name) for number, message in enumerate(messages, start=1)
    )


def from_json(value: Any, where: str, name: str) -> Any:
    """Parse a column that holds a structure as JSON text; return anything else unchanged."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: {name} must be a list or object, or JSON ({error.msg}).") from error


def require_text(value: Any, where: str, name: str) -> str:
    """Return a text; refuse other types and half surrogate pairs."""
    if not isinstance(value, str):
        raise UserError(
            f"{where}: {name} must be text, got {'nothing' if value is None else type(value).__name__}."
        )
    if _SURROGATE.search(value):
        raise UserError(
            f"{where}: {name} holds half of a surrogate pair, which is no character: the text was cut inside an escape."
        )
    return value


def require_content(text: str, where: str, name: str) -> None:
    """Raise `UserError` for a text of white space."""
    if not text.strip():
        raise UserError(f"{where} has an empty {name}: fill it in or remove the sample.")


def require_weight(value: Any, where: str, name: str) -> float:
    """Return a weight; refuse what is not finite, negative or no number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise UserError(f"{where}: {name} must be finite and not negative, got {value!r}.")
    return float(value)


def calls_of(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The functions that a message calls: objects with `name` and `arguments`."""
    return [call.get("function") or call for call in message.get("tool_calls") or ()]


def _turn(message: Any, where: str, name: str) -> Turn:
    shared = name == "conversations" or (isinstance(message, Mapping) and "from" in message)
    if not isinstance(message, Mapping) and shared:
        raise UserError(f"{where}: conversations must be a list of objects with from and value.")
    # A data set pads every message with the keys of all others, but templates test whether a key exists.
    turn = _without_nulls(message) if isinstance(message, Mapping) else {}
    if not turn.keys() & {"role", "from"}:
        raise UserError(f"{where} must be an object with role and content.")
    if "role" not in turn:
        turn = {{"from": "role", "value": "content"}.get(key, key): value for key, value in turn.items()}
    for key, reason in _REFUSED_KEYS.items():
        if key in turn:
            raise UserError(f"{where} has the key {key}, which is not followed, as {reason}.")
    weight = _weight_of(turn, where)
    turn = _with_calls(turn, where)
    role = turn["role"]
    if role not in ROLES:
        raise UserError(f"{where} has the unknown role {role!r}: roles are {', '.join(ROLES)}.")
    for key in REASONING:
        if key in turn:
            require_text(turn[key], where, key)
    _read_content(turn, where)
    return Turn(turn, weight)


def _weight_of(turn: Message, where: str) -> float | None:
    """Remove the keys that weigh a turn: they are for the loss, not for the template."""
    weights = [require_weight(turn.pop(key), where, key) for key in _WEIGHTS if key in turn]
    for key in _SWITCHES:
        if key in turn:
            value = turn.pop(key)
            if not isinstance(value, bool | int | float) or value not in (0, 1):
                raise UserError(f"{where}: {key} must be true or false (1 or 0), got {value!r}.")
            weights.append(float(value))
    return math.prod(weights) if weights else None


def _with_calls(turn: Message, where: str) -> Message:
    """Convert function calls to the form `tool_calls`, and roles to the four known ones."""
    turn = dict(turn)
    role = turn.get("role")
    if role in _CALLING_ROLES:
        called = from_json(turn.pop("content", None), where, role)
        calls = called if isinstance(called, list) else [called]
        if not all(isinstance(call, Mapping) and {"name", "arguments"} <= call.keys() for call in calls):
            raise UserError(f"{where}: a {role} must be JSON with name and arguments.")
        return {
            **turn,
            "role": "assistant",
            "tool_calls": [{"type": "function", "function": dict(call)} for call in calls],
        }
    turn["role"] = _ROLES_ELSEWHERE.get(role, role) if isinstance(role, str) else role
    if "function_call" in turn:
        if "tool_calls" in turn:
            raise UserError(f"{where} has both function_call and tool_calls: leave one of them out.")
        turn["tool_calls"] = [
            {"type": "function", "function": from_json(turn.pop("function_call"), where, "function_call")}
        ]
    if "tool_calls" in turn:
        turn["tool_calls"] = _calls(turn["tool_calls"], where)
        if not turn["tool_calls"]:
            del turn["tool_calls"]
        elif turn["role"] != "assistant":
            raise UserError(
                f"{where} is a {turn['role']} turn with tool_calls: only the assistant calls tools."
            )
    return turn


def _without_nulls(thing: Mapping[str, Any]) -> Message:
    return {key: value for key, value in thing.items() if value is not None}


def _calls(calls: Any, where: str) -> list[Message]:
    calls = from_json(calls, where, "tool_calls")
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise UserError(f"{where}: tool_calls must be a list of objects with a function.")
    made = [_without_nulls(call) for call in calls]
    for call in made:
        if isinstance(call.get("function"), Mapping):
            call["function"] = _without_nulls(call["function"])
    for function in calls_of({"tool_calls": made}):
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise UserError(
                f"{where}: the function of a tool call must be an object with a name and arguments."
            )
        arguments = function.get("arguments")
        if not isinstance(arguments, str | Mapping | None):
            kind = type(arguments).__name__
            raise UserError(
                f"{where}: the arguments of a tool call must be an object or JSON text, got {kind}."
            )
    return made


def _read_content(turn: Message, where: str) -> None:
    """Convert the content of a turn to text, in place, and check that it is not empty where it must not be."""
    role = turn["role"]
    if isinstance(turn.get("content"), list | tuple):
        turn["content"] = _joined(turn["content"], where)
    calls = bool(turn.get("tool_calls"))
    if calls and "content" not in turn:
        return
    content = require_text(turn.get("content"), where, "content")
    if not calls and role not in ("system", "tool"):  # a tool may have nothing to report
        require_content(content, where, f"{role} content")


def _joined(parts: Sequence[Any], where: str) -> str:
    """Join text parts without a separator, as templates that take parts render them."""
    for number, part in enumerate(parts, start=1):
        kind = part.get("type", "text") if isinstance(part, Mapping) else None
        if kind not in ("text", "input_text", "output_text") or not isinstance(part.get("text"), str):
            what = f"is of type {kind!r}" if isinstance(kind, str) and kind != "text" else "has no text"
            raise UserError(
                f"{where}: content must be text, got list of which part {number} {what}: give text parts only."
            )
    return "".join(part["text"] for part in parts)
