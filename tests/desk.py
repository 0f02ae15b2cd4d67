"""A tiny chat model with its data in a folder, and the command line: for the tests of verbs that read conversations."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.tiny.chats import sums, write_model, write_rows
from tokenry.cli import app


@dataclass(frozen=True)
class Desk:
    """A folder with a model and data, and the command line."""

    folder: Path
    model: Path
    data: Path
    held_out: Path
    trusted: Path

    def tokenry(self, *arguments: Any) -> Any:
        return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENRY_CACHE", str(folder / "cache"))
        yield Desk(
            folder,
            model=write_model(folder / "model"),
            data=write_rows(folder / "data.jsonl", sums(24)),
            held_out=write_rows(folder / "held-out.jsonl", sums(4, seed=1)),
            trusted=write_rows(folder / "trusted.jsonl", sums(4, seed=2)),
        )
