"""Files that are either whole or absent: every output is written beside its place and moved there in one step."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenry.core.errors import UserError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it replaces `path`, on failure it is removed.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    with _written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(handle)
    partial = Path(name)
    partial.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner reads
    try:
        with _written(path):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; on success it becomes `folder`, on failure it is removed.

    Raises:
        UserError: `folder` exists, or cannot be written.
    """
    folder = Path(folder)
    require_new(folder)
    with _written(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".partial"))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes folders that only their owner reads
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_new(folder: Path) -> None:
    """Raise `UserError` where the folder exists, or cannot be made."""
    if Path(folder).exists():
        raise UserError(f"{folder} exists already: name a new folder, so that nothing is overwritten.")
    _require_writable(Path(folder).parent, folder)


def require_output_file(path: Path | None) -> None:
    """Raise `UserError`, before any work is done, where a file cannot be written; None is no file."""
    if path is None:
        return
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder: name a file in it.")
    _require_writable(Path(path).parent, path)


def require_output_folder(folder: Path | None) -> None:
    """Raise `UserError`, before any work is done, where a folder cannot be made or written; None is no folder."""
    if folder is not None:
        _require_writable(Path(folder), folder)


def require_output(output: Path | None) -> None:
    """Raise `UserError` where a result cannot be written: a folder, or a file where the name ends in .json or .html."""
    (require_output_file if is_result_file(output) else require_output_folder)(output)


def is_result_file(output: Path | None) -> bool:
    """Whether a result is written as one file: the measurements (.json) or the page (.html)."""
    return output is not None and output.suffix in (".json", ".html")


def require_folder_name(output: Path | None, holds: str) -> None:
    """Raise `UserError` where the output is a single file, but `holds` is written beside the result."""
    if is_result_file(output):
        raise UserError(f"output must name a folder, which holds {holds} too, got {output}.")


def _require_writable(folder: Path, named: Path) -> None:
    """Try a file in the folder, or in the nearest one above it that exists: a folder's mode alone does not tell."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise UserError(f"{named} cannot be written ({there} is a file): choose another place.")
    with _written(named), tempfile.TemporaryFile(dir=there):
        pass


@contextmanager
def _written(named: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{named} cannot be written ({error.strerror}): free some space or choose another folder."
        ) from error


def without_nan(value: Any) -> Any:
    """The value with null for nan, which JSON does not have."""
    if isinstance(value, Mapping):
        return {name: without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` as indented JSON, atomically."""
    with atomic_write(path) as partial:
        partial.write_text(
            json.dumps(content, indent=2, allow_nan=False, default=float) + "\n", encoding="utf-8"
        )


def read_json(path: Path) -> Any:
    """Read the JSON file at `path`.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name a JSON file.") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}).") from error


def _umask() -> int:
    """The mask of the process, which the system only returns when another is set."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
