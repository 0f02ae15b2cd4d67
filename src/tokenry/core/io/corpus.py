"""A corpus as shards: JSON lines (also gzipped) or Parquet files, folders of them, or the standard input; never more than a batch in memory.

for batch in read_shard(path):              # texts and domains of some hundred rows
write(batch, kept)                      # the rows that are kept, as they stood in the file, all columns included
"""

import gzip
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow
import pyarrow.parquet
from jaxtyping import Bool
from numpy import ndarray

from tokenry.core.errors import UserError
from tokenry.core.io.files import atomic_write
from tokenry.core.io.reading import open_text

STDIN = "-"
_JSON_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".json.gz")
_PARQUET = ".parquet"
_HALF = re.compile("[\ud800-\udfff]")
"""Half a surrogate pair, which JSON can hold and no tokenizer reads; U+FFFD is read in its place."""
SHARD_FILES = (*_JSON_LINES, _PARQUET)
"""Endings of the names of shards."""


@dataclass(frozen=True)
class Fields:
    """Names of the columns of a corpus.

    Attributes:
        text: column of the text.
        domain: column of the domain, or of a URL, whose host is taken; rows without it have no domain.
    """

    text: str = "text"
    domain: str = "domain"


@dataclass(frozen=True)
class ShardBatch:
    """Some rows of a shard.

    Attributes:
        texts: the text of each row.
        domains: the domain of each row, empty where it has none.
        rows: the rows as they stand in the shard: lines of JSON, or a record batch of Parquet.
    """

    texts: list[str]
    domains: list[str]
    rows: Any


def shards_of(source: str | Path) -> list[Path]:
    """The shards of a corpus in the order of their names: one file, all files of a folder, or the standard input (`-`).

    Raises:
        UserError: there is nothing of this name, or no shard in it.
    """
    path = Path(source).expanduser()
    if str(source) == STDIN:
        return [Path(STDIN)]
    kinds = ", ".join(SHARD_FILES)
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and _is_shard(file))
        if not found:
            raise UserError(f"the folder {source} holds no shards: their names end in {kinds}.")
        return found
    if not path.exists():
        raise UserError(
            f"the corpus {source} does not exist: name a file, a folder of shards, or - for the standard input."
        )
    if not _is_shard(path):
        raise UserError(f"{source} is no shard of a corpus: its name must end in {kinds}.")
    return [path]


def read_shard(path: Path, fields: Fields | None = None, size: int = 1000) -> Iterator[ShardBatch]:
    """Read a shard, `size` rows at a time.

    Raises:
        UserError: the shard cannot be read, or a row has no text; the row is named.
    """
    fields = fields or Fields()
    return _read_parquet(path, fields, size) if path.suffix == _PARQUET else _read_lines(path, fields, size)


@contextmanager
def open_shard(path: Path, like: Path) -> Iterator[Callable[[ShardBatch, Bool[ndarray, "rows"]], None]]:
    """Yield a function that writes the kept rows of batches into a new shard, which is there only when it is whole.

    Args:
        path: the new shard.
        like: the shard whose rows are written; both are of one kind.
    """
    with atomic_write(path) as partial:
        if path.suffix == _PARQUET:
            with pyarrow.parquet.ParquetWriter(partial, pyarrow.parquet.read_schema(like)) as columns:
                yield lambda batch, kept: columns.write_batch(batch.rows.filter(pyarrow.array(kept)))
        else:
            opener: Any = gzip.open if path.suffix == ".gz" else open
            with opener(partial, "wt", encoding="utf-8", newline="\n") as lines:
                yield lambda batch, kept: lines.writelines(_chosen(batch.rows, kept))


def _is_shard(path: Path) -> bool:
    return path.name.lower().endswith(SHARD_FILES)


def _chosen(lines: Sequence[str], kept: Bool[ndarray, "rows"]) -> Iterator[str]:
    return (
        line if line.endswith("\n") else f"{line}\n" for line, keep in zip(lines, kept, strict=True) if keep
    )


# --- JSON lines --------------------------------------------------------------------------------------------------------


def _read_lines(path: Path, fields: Fields, size: int) -> Iterator[ShardBatch]:
    if str(path) == STDIN:
        try:
            yield from _batches(sys.stdin, "the standard input", fields, size)
        except UnicodeDecodeError as error:
            raise UserError(f"the standard input is not {error.encoding}: encode it so.") from error
        return
    with open_text(path, newline="\n") as lines:
        yield from _batches(lines, str(path), fields, size)


def _batches(lines: Iterable[str], name: str, fields: Fields, size: int) -> Iterator[ShardBatch]:
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if not line.isspace())
    while some := list(islice(numbered, size)):
        rows = [_parsed(line, f"{name}, line {number}", fields.text) for number, line in some]
        yield ShardBatch(
            [_HALF.sub("\ufffd", row[fields.text]) for row in rows],
            [_domain(row.get(fields.domain)) for row in rows],
            [line for _, line in some],
        )


def _parsed(line: str, where: str, text: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not valid JSON: {error.msg} at character {error.colno}.") from error
    if not isinstance(row, dict) or not isinstance(row.get(text), str):
        raise UserError(f'{where} has no text under `{text}`: each row must look like {{"{text}": …}}.')
    return row


def _domain(value: Any) -> str:
    """A domain as it is given, or the host of a URL."""
    if value is None:
        return ""
    try:
        return urlsplit(str(value)).netloc or str(value)
    except ValueError:  # corpora hold addresses that are none
        return str(value)


# --- Parquet -----------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path, fields: Fields, size: int) -> Iterator[ShardBatch]:
    try:
        with pyarrow.parquet.ParquetFile(path) as opened:
            names = opened.schema_arrow.names
            if fields.text not in names:
                raise UserError(f"{path} has no column `{fields.text}`: it has {', '.join(names)}.")
            for rows in opened.iter_batches(batch_size=size):
                yield _columns(rows, path, fields)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{path} cannot be read as Parquet: it is cut off, damaged, or of another kind."
        ) from error


def _columns(rows: Any, path: Path, fields: Fields) -> ShardBatch:
    texts = rows.column(fields.text).to_pylist()
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{path} has rows without text under `{fields.text}`: leave them out.")
    there = fields.domain in rows.schema.names
    domains = rows.column(fields.domain).to_pylist() if there else [None] * len(texts)
    return ShardBatch(texts, [_domain(domain) for domain in domains], rows)
