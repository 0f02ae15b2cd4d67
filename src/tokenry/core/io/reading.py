"""Text files and CSV tables as users give them: UTF-8 with or without a byte-order mark, and one sentence for what is wrong with one."""

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tokenry.core.errors import UserError

CsvRow = dict[Any, Any]
"""Cells by column: None for a missing cell, and under None the cells beyond the last column."""


@contextmanager
def open_text(
    path: Path, newline: str | None = None, kind: str = "UTF-8 text", name: str | None = None
) -> Iterator[TextIO]:
    """Open a text file to be read piece by piece.

    Args:
        path: the file; one that ends in .gz is unpacked meanwhile.
        newline: what ends a line, as in `open`.
        kind: what the file is read as, for the error messages.
        name: what the file is called there; None for its path.

    Raises:
        UserError: the file cannot be opened, or what is read of it is not UTF-8; the first byte that is not is named.
    """
    path = Path(path)
    try:
        with _opener(path)(path, "rt", encoding="utf-8-sig", newline=newline) as opened:
            yield opened
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name or path} is not UTF-8: {_first_broken_byte(path)}; save the file as UTF-8."
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{name or path} is no whole gzip file: it is cut off, damaged, or of another kind."
        ) from error
    except OSError as error:
        raise UserError(f"{name or path} cannot be read as {kind} ({error.strerror}).") from error


def read_text(
    path: Path, newline: str | None = None, kind: str = "UTF-8 text", name: str | None = None
) -> str:
    """Read a text file; arguments and errors as in `open_text`."""
    with open_text(path, newline, kind, name) as opened:
        return opened.read()


def read_csv(path: Path, name: str | None = None) -> tuple[list[str], list[tuple[int, CsvRow]]]:
    """Read a table whose first line names its columns.

    Returns:
        The columns, and the rows, each with the number of the line on which it ends.

    Raises:
        UserError: the file cannot be read, or its quotes are broken (with the line).
    """
    table = csv.DictReader(
        io.StringIO(read_text(path, newline="", kind="CSV", name=name), newline=""), strict=True
    )
    limit = csv.field_size_limit(2**31 - 1)  # the default refuses cells of more than 128 kB
    try:
        rows: list[tuple[int, CsvRow]] = [(table.line_num, row) for row in table]
        return list(table.fieldnames or ()), rows
    except csv.Error as error:
        raise UserError(f"{name or path}, line {table.reader.line_num} is not valid CSV: {error}.") from error
    finally:
        csv.field_size_limit(limit)


def _first_broken_byte(path: Path) -> str:
    """The place of the first byte that is not UTF-8; what was read piece by piece knows only its place in a piece."""
    start = 0
    with _opener(path)(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"byte {start + error.start} (line {number}) is 0x{line[error.start]:02x}"
            start += len(line)
    return "it was changed while it was read"


def _opener(path: Path) -> Callable[..., Any]:
    return gzip.open if path.suffix == ".gz" else open


def read_number(row: Mapping[Any, Any], column: str, where: str) -> float:
    """Read the number in a column of a row.

    Raises:
        UserError: it is none; the sentence names the row as `where` does.
    """
    try:
        return float(row[column])
    except (TypeError, ValueError) as error:
        raise UserError(f"{column} must be a number, got {row[column]!r} in {where}.") from error
