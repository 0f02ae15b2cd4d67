"""Training data as people have it: read rows from a file, a saved data set or the hub, and understand their columns.

`read_rows` answers with plain dicts, so that rows need not have the same columns; `to_sample` turns one row into what
is given (`prompt`) and what is to be learned (`completion`), both as chat messages or both as text.
"""

import csv
import io
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

from tokenry.core.errors import UserError

Row = dict[str, Any]
Message = dict[str, Any]
"""`role` and `content`, and whatever else a chat template reads (`tool_calls`, `name`, …)."""

ROLES = ("system", "user", "assistant", "tool")

_FORMATS = (
    "messages",
    "conversations",
    "prompt and completion",
    "instruction (and input) and output or response",
    "question and answer",
    "text",
)
_SHARED_AS = {"human": "user", "gpt": "assistant"}
_SURROGATE = re.compile("[\ud800-\udfff]")
_JSON_COLUMNS = ("messages", "conversations", "spans", "token_weights", "weight")


@dataclass(frozen=True)
class Span:
    """A stretch of the answer, in characters, that belongs to a named class of tokens (recorded noise, numbers, …).

    An empty one stands for the token at its place; at the end of the answer, for the token that ends it.
    """

    start: int
    end: int
    name: str


@dataclass(frozen=True)
class Sample:
    """One row understood.

    Attributes:
        prompt: what is given: messages, or text.
        completion: what is learned: the assistant turns among these messages, or the whole text.
        spans: places in the content of the last assistant turn, or in the completion's text.
        weight: of the whole sample; None when the row does not say.
        token_weights: one per token of the whole sample; None when the row does not say.
    """

    prompt: tuple[Message, ...] | str
    completion: tuple[Message, ...] | str
    spans: tuple[Span, ...] = ()
    weight: float | None = None
    token_weights: tuple[float, ...] | None = None

    @property
    def messages(self) -> list[Message] | None:
        """All messages in order; None for text."""
        if isinstance(self.prompt, str) or isinstance(self.completion, str):
            return None
        return [*self.prompt, *self.completion]


def read_rows(source: str | os.PathLike, split: str = "train", subset: str | None = None) -> list[Row]:
    """Read rows from a file (JSONL, JSON, CSV, Parquet), a folder that `datasets` saved, or a name on the hub.

    Args:
        source: the file, folder or name.
        split: which part of a data set with several; files have only one.
        subset: the configuration of a data set on the hub that has several.

    Raises:
        UserError: nothing there, an unknown kind of file, malformed content (with its line), or no rows.
    """
    path = Path(source).expanduser()
    kind = path.suffix.lower()
    if path.is_dir():
        rows = _read_saved(path, split)
    elif path.is_file():
        if kind not in _READERS:
            raise UserError(
                f"{source} is of no known kind: the name must end in {', '.join(sorted(_READERS))}."
            )
        rows = _READERS[kind](path)
    elif kind in _READERS:
        raise UserError(f"the file {source} does not exist.")
    else:
        rows = _read_hub(str(source), split, subset)
    if not rows:
        raise UserError(f"{source} holds no rows: there is nothing to learn from.")
    return rows


def to_sample(row: Mapping[str, Any], number: int) -> Sample:
    """Understand one row.

    Args:
        row: the columns; those that are None count as absent.
        number: the row's number, from 1, for the error messages.

    Raises:
        UserError: columns that are not understood, or a content that cannot be learned from.
    """
    where = f"sample {number}"
    prompt, completion = _prompt_and_completion(row, where)
    return Sample(
        prompt=prompt,
        completion=completion,
        spans=_spans(row.get("spans"), len(_answer(completion, where)), where),
        weight=None if row.get("weight") is None else _weight(row["weight"], where, "weight"),
        token_weights=None
        if row.get("token_weights") is None
        else tuple(_weight(value, where, "token_weights") for value in row["token_weights"]),
    )


# --- reading -----------------------------------------------------------------------------------------------------------


def _read_text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not UTF-8: byte {error.start} (line {line}) is 0x{content[error.start]:02x}; save the file as UTF-8."
        ) from error


def _read_json_lines(path: Path) -> list[Row]:
    rows = []
    # Only "\n" ends a line: str.splitlines would also cut at line separators inside JSON strings.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number} is not valid JSON: {error.msg} at character {error.colno}."
            ) from error
        rows.append(_require_object(row, f"{path}, line {number}"))
    return rows


def _read_json(path: Path) -> list[Row]:
    text = _read_text(path)
    if not text.lstrip().startswith("["):  # many files of JSON lines are named .json
        return _read_json_lines(path)
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno}, character {error.colno}."
        ) from error
    return [_require_object(row, f"{path}, item {number}") for number, row in enumerate(rows, start=1)]


def _require_object(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise UserError(
            f'{where} is {_json_kind(row)}, not an object: each row must look like {{"messages": …}}.'
        )
    return row


def _json_kind(value: Any) -> str:
    kinds = {list: "a list", str: "a string", bool: "a truth value", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


def _read_csv(path: Path) -> list[Row]:
    limit = csv.field_size_limit(2**31 - 1)  # the default refuses cells of more than 128 kB
    try:
        table = csv.DictReader(io.StringIO(_read_text(path), newline=""), strict=True)
        return [_csv_row(row, f"{path}, line {table.line_num}") for row in table]
    except csv.Error as error:
        raise UserError(f"{path}, line {table.line_num} is not valid CSV: {error}.") from error
    finally:
        csv.field_size_limit(limit)


def _csv_row(row: Mapping[Any, Any], where: str) -> Row:
    if None in row or None in row.values():
        given = sum(value is not None for name, value in row.items() if name is not None)
        given += len(row.get(None, ()))
        columns = len([name for name in row if name is not None])
        raise UserError(
            f"{where} has {given} cells for {columns} columns: put text that holds commas or line breaks in double quotes."
        )
    return {name: _csv_cell(name, cell, where) for name, cell in row.items()}


def _csv_cell(name: str, cell: str, where: str) -> Any:
    if name not in _JSON_COLUMNS:
        return cell
    try:
        return json.loads(cell) if cell.strip() else None
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: the column {name} must hold JSON ({error.msg}).") from error


def _read_parquet(path: Path) -> list[Row]:
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{path} cannot be read as Parquet: it is cut off, damaged, or of another kind."
        ) from error


_READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _read_saved(path: Path, split: str) -> list[Row]:
    try:
        saved = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise UserError(
            f"the folder {path} is not a data set that datasets' save_to_disk wrote: name a file in it, or such a folder."
        ) from error
    if isinstance(saved, datasets.Dataset):
        return saved.to_list()
    if split not in saved:
        raise UserError(f"{path} has no split {split}: it has {', '.join(saved)}.")
    return saved[split].to_list()


def _read_hub(name: str, split: str, subset: str | None) -> list[Row]:
    try:
        return datasets.load_dataset(name, subset, split=split).to_list()
    except ConnectionError as error:
        raise UserError(
            f"{name} is neither a file or folder here nor in the cache of the Hugging Face hub, which cannot be reached: "
            "check the name and the network."
        ) from error
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{name} cannot be read as a data set of the Hugging Face hub: {reason}") from error


# --- understanding -----------------------------------------------------------------------------------------------------


def _prompt_and_completion(
    row: Mapping[str, Any], where: str
) -> tuple[tuple[Message, ...], tuple[Message, ...]] | tuple[str, str]:
    """Find the first combination of columns that is complete; chat formats come before text."""

    def has(*names: str) -> bool:
        return all(row.get(name) is not None for name in names)

    answer = next((name for name in ("output", "response") if has(name)), "output")
    if has("messages"):
        return (), _turns(row["messages"], where)
    if has("conversations"):
        return (), _turns(_from_shared(row["conversations"], where), where)
    if has("prompt", "completion"):
        return _pair(row["prompt"], row["completion"], where)
    if has("instruction", answer):
        parts = [row["instruction"], row["input"] if row.get("input") else None]
        question = "\n\n".join(_text(part, where, "instruction") for part in parts if part is not None)
        return _question_and_answer(question, row[answer], where)
    if has("question", "answer"):
        return _question_and_answer(row["question"], row["answer"], where)
    if has("text"):
        return "", _text(row["text"], where, "text")
    found = ", ".join(str(name) for name, value in row.items() if value is not None) or "none"
    raise UserError(
        f"{where} has no columns that are understood (found: {found}): give {'; or '.join(_FORMATS)}."
    )


def _pair(
    prompt: Any, completion: Any, where: str
) -> tuple[tuple[Message, ...], tuple[Message, ...]] | tuple[str, str]:
    if isinstance(prompt, str) and isinstance(completion, str):
        return _text(prompt, where, "prompt"), _text(completion, where, "completion")
    given = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    learned = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    return _turns(given, where), _turns(learned, where)


def _question_and_answer(
    question: Any, answer: Any, where: str
) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    return (
        _turns([{"role": "user", "content": question}], where),
        _turns([{"role": "assistant", "content": answer}], where),
    )


def _from_shared(turns: Any, where: str) -> list[Message]:
    """Translate the ShareGPT form, `from` and `value`."""
    if not isinstance(turns, Sequence) or not all(isinstance(turn, Mapping) for turn in turns):
        raise UserError(f"{where}: conversations must be a list of objects with from and value.")
    return [
        {"role": _SHARED_AS.get(turn.get("from"), turn.get("from")), "content": turn.get("value")}
        if "from" in turn
        else dict(turn)
        for turn in turns
    ]


def _turns(messages: Any, where: str) -> tuple[Message, ...]:
    if isinstance(messages, str) or not isinstance(messages, Sequence) or not messages:
        raise UserError(
            f"{where}: the messages must be a list of objects with role and content, one at least."
        )
    return tuple(
        _turn(message, f"{where}, message {number}") for number, message in enumerate(messages, start=1)
    )


def _turn(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping) or "role" not in message:
        raise UserError(f"{where} must be an object with role and content.")
    # Parquet gives every message every key of any message; templates ask whether a key is there.
    turn = {key: value for key, value in message.items() if value is not None}
    role = turn.get("role")
    if role not in ROLES:
        raise UserError(f"{where} has the unknown role {role!r}: roles are {', '.join(ROLES)}.")
    may_be_empty = role == "system" or bool(turn.get("tool_calls"))
    if not may_be_empty or "content" in turn:
        content = _text(turn.get("content"), where, "content")
        if not may_be_empty:
            _require_content(content, where, f"{role} content")
    return turn


def _answer(completion: tuple[Message, ...] | str, where: str) -> str:
    """Return the text to which spans refer: the whole completion, or what the assistant says last."""
    if isinstance(completion, str):
        _require_content(completion, where, "text to learn")
        return completion
    said = [message.get("content", "") for message in completion if message["role"] == "assistant"]
    if not said:
        raise UserError(
            f"{where} has no assistant turn, so there is nothing to learn: add the answer or remove the sample."
        )
    return said[-1]


def _text(value: Any, where: str, name: str) -> str:
    if not isinstance(value, str):
        raise UserError(
            f"{where}: {name} must be text, got {'nothing' if value is None else type(value).__name__}."
        )
    if _SURROGATE.search(value):
        raise UserError(
            f"{where}: {name} holds half of a surrogate pair, which is no character: the text was cut inside an escape."
        )
    return value


def _require_content(text: str, where: str, name: str) -> None:
    if not text.strip():
        raise UserError(f"{where} has an empty {name}: fill it in or remove the sample.")


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


def _weight(value: Any, where: str, name: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise UserError(f"{where}: {name} must be finite and not negative, got {value!r}.")
    return float(value)
