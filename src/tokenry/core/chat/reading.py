"""Rows from a file, a saved data set or the hub, as plain dicts that may have different columns.

Arrow (Parquet, saved data sets, the hub) stores structs: each has the keys of all of them, null where a row has none. These
nulls are padding and are removed at every depth. A null in JSON was written on purpose, and stays.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

from tokenry.core.errors import UserError
from tokenry.core.io.reading import read_csv, read_text

Row = dict[str, Any]

JSON_COLUMNS = (
    "messages",
    "conversations",
    "spans",
    "token_weights",
    "weight",
    "tools",
    "history",
    "documents",
    "chat_template_kwargs",
)
"""Structured columns, which a table of texts (CSV) can only hold as JSON."""

_TRAILING_COMMA = re.compile(r",\s*[\]}]\s*\Z")


def read_rows(source: str | os.PathLike, split: str = "train", subset: str | None = None) -> list[Row]:
    """Read rows from a file (JSONL, JSON, CSV, Parquet), a folder that `datasets` saved, or a name on the hub.

    Args:
        source: the file, folder or name.
        split: split of a data set that has several.
        subset: configuration of a data set on the hub that has several.
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


def plain_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Iterate over rows, without the nulls that pad the structs of a `datasets.Dataset`."""
    from_arrow = isinstance(rows, datasets.Dataset | datasets.IterableDataset)
    return map(_without_padding, rows) if from_arrow else iter(rows)


def plain(value: Any) -> Any:
    """Replace the arrays and scalars of numpy, torch and pyarrow by Python's own, at every depth."""
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    for to_python in ("tolist", "as_py"):
        if hasattr(value, to_python):
            return plain(getattr(value, to_python)())
    return value


# --- JSON --------------------------------------------------------------------------------------------------------------


class _TwiceError(ValueError):
    """A key occurs twice in one object, so that one of its values would be lost."""


def _parse(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise _TwiceError(f"the key {twice!r} stands twice in one object")
    return found


def _read_json_lines(path: Path) -> list[Row]:
    text = read_text(path, newline="")
    if text.lstrip().startswith("[") and (rows := _whole_list(text)) is not None:
        return _objects(rows, path)
    rows = []
    # Only "\n" ends a line: str.splitlines would also cut at line separators inside JSON strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _parse(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number} is not valid JSON: {error.msg} at character {error.colno}{_why(text, line, path)}."
            ) from error
        except _TwiceError as error:
            raise UserError(f"{path}, line {number}: {error}, so one of its values would be lost.") from error
        rows.append(_require_object(row, f"{path}, line {number}"))
    if len(rows) == 1 and _is_by_column(rows[0]):
        raise UserError(
            f"{path} is written column by column, as pandas does by default: write one row per line "
            "(to_json(…, orient='records', lines=True))."
        )
    return rows


def _is_by_column(row: Row) -> bool:
    """Whether every value of an object is a column: a list of texts, or texts by row number."""
    columns = list(row.values())
    by_number = all(
        isinstance(column, dict) and column and all(map(str.isdigit, column)) for column in columns
    )
    as_lists = all(
        isinstance(column, list) and column and all(isinstance(cell, str) for cell in column)
        for column in columns
    )
    return bool(columns) and (by_number or as_lists)


def _read_json(path: Path) -> list[Row]:
    text = read_text(path)
    if not text.lstrip().startswith("["):  # many files of JSON lines are named .json
        return _read_json_lines(path)
    try:
        rows = _parse(text)
    except json.JSONDecodeError as error:
        comma = "; there is a comma too many before the last bracket" if _TRAILING_COMMA.search(text) else ""
        raise UserError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno}, character {error.colno}{comma}."
        ) from error
    except _TwiceError as error:
        raise UserError(f"{path}: {error}, so one of its values would be lost.") from error
    return _objects(rows, path)


def _whole_list(text: str) -> list | None:
    """The rows of a .jsonl file that is one JSON list; None if it is not."""
    try:
        rows = _parse(text)
    except (json.JSONDecodeError, _TwiceError):
        return None
    return rows if rows and all(isinstance(row, dict) for row in rows) else None


def _objects(rows: list, path: Path) -> list[Row]:
    return [_require_object(row, f"{path}, item {number}") for number, row in enumerate(rows, start=1)]


def _why(text: str, line: str, path: Path) -> str:
    """The common mistake behind a file whose lines are not JSON, if it is one."""
    bare = line.rstrip().removesuffix(",")
    if bare != line.rstrip() and _is_object(bare):
        return "; rows on lines of their own need no comma between them: remove the commas, or make the file a list in [ ]"
    try:
        whole, _ = json.JSONDecoder().raw_decode(text.lstrip())
    except json.JSONDecodeError:
        return ""
    if not isinstance(whole, dict):
        return ""
    if inside := rows_inside(whole):
        return (
            f"; the file is one object whose rows stand under {inside!r}: save that list alone "
            f"(jq .{inside} {path.name} > rows.json)"
        )
    return (
        f"; the file writes an object ({', '.join(whole)}) over several lines: put each row on one line, or the rows "
        "into a list in [ ]"
    )


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        return False


def rows_inside(whole: Mapping[str, Any]) -> str | None:
    """The path to a list of objects in an object, such as `data` or `data.train`, that may be the rows."""
    for key, value in whole.items():
        if key in JSON_COLUMNS or key in ("prompt", "completion"):
            continue
        if is_list_of_objects(value):
            return key
        if isinstance(value, dict) and (inside := rows_inside(value)):
            return f"{key}.{inside}"
    return None


def is_list_of_objects(value: Any) -> bool:
    """Whether a value is a non-empty list of objects."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _require_object(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise UserError(
            f'{where} is {_json_kind(row)}, not an object: each row must look like {{"messages": …}}.'
        )
    return row


def _json_kind(value: Any) -> str:
    kinds = {list: "a list", str: "a string", bool: "a truth value", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


# --- CSV ---------------------------------------------------------------------------------------------------------------


def _read_csv(path: Path) -> list[Row]:
    columns, rows = read_csv(path)
    if len(columns) == 1 and (mark := next((mark for mark in ";\t|" if mark in columns[0]), "")):
        raise UserError(f"{path} separates its columns by {mark!r}: separate them by commas.")
    if twice := [name for name, times in Counter(columns).items() if times > 1]:
        raise UserError(f"{path} has the column {twice[0]} twice, so one would be lost: rename one of them.")
    return [_csv_row(row, f"{path}, line {line}") for line, row in rows]


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
    if name not in JSON_COLUMNS:
        return cell
    try:
        return json.loads(cell) if cell.strip() else None
    except json.JSONDecodeError as error:
        if is_python_list(cell):
            raise UserError(f"{where}: the column {name} {PYTHON_LIST}") from error
        raise UserError(f"{where}: the column {name} must hold JSON ({error.msg}).") from error


PYTHON_LIST = (
    "holds a list as Python prints it, not JSON (pandas and datasets write lists so into CSV): save the data as JSON lines "
    "or Parquet."
)


def is_python_list(text: str) -> bool:
    """Whether a text is a list of dicts in Python's notation."""
    return re.match(r"\s*\[\s*\{\s*'", text) is not None


# --- Arrow -------------------------------------------------------------------------------------------------------------


def _without_padding(row: Mapping[str, Any]) -> Row:
    return {name: _bare(cell) for name, cell in row.items()}


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items() if item is not None}
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return [_bare(item) for item in value]
    return value


def _from_arrow(rows: list[Row]) -> list[Row]:
    return [_without_padding(row) for row in rows]


def _read_parquet(path: Path) -> list[Row]:
    try:
        return _from_arrow(pyarrow.parquet.read_table(path).to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{path} cannot be read as Parquet: it is cut off, damaged, or of another kind."
        ) from error


_READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
ROW_FILES = tuple(_READERS)
"""File endings of rows, in lower case."""


def _read_saved(path: Path, split: str) -> list[Row]:
    try:
        saved = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise UserError(
            f"the folder {path} is not a data set that datasets' save_to_disk wrote: name a file in it, or such a folder."
        ) from error
    if isinstance(saved, datasets.Dataset):
        return _from_arrow(saved.to_list())
    if split not in saved:
        raise UserError(f"{path} has no split {split}: it has {', '.join(saved)}.")
    return _from_arrow(saved[split].to_list())


def _read_hub(name: str, split: str, subset: str | None) -> list[Row]:
    try:
        return _from_arrow(datasets.load_dataset(name, subset, split=split).to_list())
    except ConnectionError as error:
        raise UserError(
            f"{name} is neither a file or folder here nor in the cache of the Hugging Face hub, which cannot be reached: "
            "check the name and the network."
        ) from error
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{name} cannot be read as a data set of the Hugging Face hub: {reason}") from error
