"""Shards of a corpus: read in batches and written row by row as they were."""

import gzip
import io
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tokenry.core.errors import UserError
from tokenry.core.io.corpus import STDIN, Fields, open_shard, read_shard, shards_of

ROWS = [
    {"text": "one", "domain": "a.org", "other": 1},
    {"text": "two\u2028lines", "url": "https://b.org/x?y", "other": None},
    {"text": "", "domain": None},
    {"text": "käse"},
    {"text": "five", "domain": "a.org"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def write(path):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(
                ROWS, pyarrow.schema([(name, pyarrow.string()) for name in ("text", "domain")])
            ),
            path,
        )
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(LINES.encode()))
    else:
        path.write_text(LINES, encoding="utf-8")
    return path


@pytest.fixture(params=["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def shard(request, tmp_path):
    return write(tmp_path / request.param)


def test_rows_come_in_batches_with_their_domains(shard):
    batches = list(read_shard(shard, size=2))
    assert [len(batch.texts) for batch in batches] == [2, 2, 1]
    assert [text for batch in batches for text in batch.texts] == [row["text"] for row in ROWS]
    assert [domain for batch in batches for domain in batch.domains] == ["a.org", "", "", "", "a.org"]


def test_half_a_surrogate_pair_and_an_address_that_is_none_stop_no_corpus(tmp_path):
    line = '{"text": "cut \\ud83d here", "domain": "http://[cut"}\n'
    (tmp_path / "rows.jsonl").write_text(line)
    (batch,) = read_shard(tmp_path / "rows.jsonl")
    assert (batch.texts, batch.domains, batch.rows) == (["cut \ufffd here"], ["http://[cut"], [line])


def test_kept_rows_are_written_as_they_were(shard, tmp_path):
    target = tmp_path / f"kept{''.join(shard.suffixes)}"
    with open_shard(target, like=shard) as write:
        for batch in read_shard(shard, size=2):
            write(batch, np.array([text != "one" for text in batch.texts]))
    assert [text for batch in read_shard(target) for text in batch.texts] == [row["text"] for row in ROWS[1:]]
    if shard.suffix == ".jsonl":
        assert target.read_text(encoding="utf-8") == LINES.partition("\n")[2]
    if shard.suffix == ".parquet":
        assert pyarrow.parquet.read_schema(target) == pyarrow.parquet.read_schema(shard)


def test_a_url_stands_for_its_host(tmp_path):
    shard = write(tmp_path / "rows.jsonl")
    (batch,) = read_shard(shard, Fields(domain="url"))
    assert batch.domains == ["", "b.org", "", "", ""]


def test_a_shard_that_is_not_finished_is_not_there(tmp_path):
    shard, target = write(tmp_path / "rows.jsonl"), tmp_path / "kept.jsonl"
    with pytest.raises(KeyError), open_shard(target, like=shard):
        raise KeyError
    assert not target.exists()


def test_a_folder_is_all_its_shards_in_the_order_of_their_names(tmp_path):
    (tmp_path / "inside").mkdir()
    names = ("b.jsonl", "a.parquet", "inside/c.jsonl.gz")
    written = [write(tmp_path / name) for name in names]
    (tmp_path / "notes.txt").write_text("no shard")
    assert shards_of(tmp_path) == sorted(written)
    assert shards_of(str(written[0])) == [written[0]]


def test_the_standard_input_is_a_shard(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(LINES))
    (shard,) = shards_of(STDIN)
    assert [text for batch in read_shard(shard) for text in batch.texts] == [row["text"] for row in ROWS]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("bad.jsonl", b'{"text": "a"}\n\n{"text": \n', "bad.jsonl, line 3 is not valid JSON"),
        ("list.jsonl", b"[1]\n", "list.jsonl, line 1 has no text under `text`"),
        ("none.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "none.jsonl, line 2 has no text under `text`"),
        ("number.jsonl", b'{"text": 3}\n', "line 1 has no text under `text`"),
        (
            "latin.jsonl",
            b'{"text": "a"}\n{"text": "\xe9"}\n',
            "latin.jsonl is not UTF-8: byte 24 \\(line 2\\) is 0xe9",
        ),
        ("cut.jsonl.gz", gzip.compress(LINES.encode())[:-12], "cut.jsonl.gz is no whole gzip file"),
        ("plain.jsonl.gz", LINES.encode(), "plain.jsonl.gz is no whole gzip file"),
        ("cut.parquet", b"PAR1 and no more", "cut.parquet cannot be read as Parquet"),
    ],
)
def test_shards_that_cannot_be_read_are_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        list(read_shard(tmp_path / name))


def test_columns_that_are_not_there_are_refused(tmp_path):
    shard = write(tmp_path / "rows.parquet")
    with pytest.raises(UserError, match="has no column `body`: it has text, domain"):
        list(read_shard(shard, Fields(text="body")))
    with pytest.raises(UserError, match="has rows without text under `domain`"):
        list(read_shard(shard, Fields(text="domain")))


def test_corpora_that_are_not_there_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no shard")
    for source, words in (
        (tmp_path / "missing", "does not exist: name a file, a folder of shards, or -"),
        (tmp_path, "holds no shards: their names end in .jsonl"),
        (tmp_path / "notes.txt", "is no shard of a corpus: its name must end in .jsonl"),
    ):
        with pytest.raises(UserError, match=words):
            shards_of(source)
