"""`tokenry cache list` and `clean`."""

import json

import pytest
from typer.testing import CliRunner

from tokenry.cli import app


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENRY_CACHE", str(tmp_path))
    for name, size in (("embedded", 3_000_000), ("nll", 1_000_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"0" * size)
    return tmp_path


def tokenry(*arguments):
    return CliRunner().invoke(app, ["cache", *map(str, arguments)])


def test_the_list_names_what_is_kept_largest_first(cache):
    listed = json.loads(tokenry("list", "--json").stdout)
    assert [(entry["name"], entry["bytes"]) for entry in listed["entries"]] == [
        ("embedded", 3_000_000),
        ("nll", 1_000_000),
    ]
    assert "4.0" in tokenry("list").stdout


def test_cleaning_removes_what_is_named_or_everything(cache):
    assert tokenry("clean", "nll").exit_code == 0
    assert (cache / "embedded").is_dir()
    assert not (cache / "nll").exists()
    assert tokenry("clean").exit_code == 0
    assert not (cache / "embedded").exists()
    assert "0.0" in tokenry("list").stdout


def test_what_is_not_there_cannot_be_removed(cache):
    result = tokenry("clean", "models")
    assert result.exit_code == 2
    assert "the cache holds nothing called 'models': it holds embedded, nll." in result.stderr
