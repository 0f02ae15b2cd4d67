"""For the tests of the command line: a recipe that measures in no time, and a tiny chat model with its data."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.tiny_chat import sums, write_model, write_rows
from tokenry import recipes
from tokenry.cli import app

SOURCE = """
from tokenry.recipes.kit import Claim, recipe

@recipe("electra", laptop=None, paper=None)
def reproduce(run):
    print("a library that chatters on stdout")
    run.progress("measuring", 0.5)
    (run.output / "plot.svg").write_text("<svg/>")
    yield Claim("a claim that holds", 0.97, 0.96, 0.43, "shown")
    yield Claim("a claim that does not", "52.5 (from memory)", 0.2, 0.3, "opposite")
    yield Claim("a claim without a figure", None, 0.2, 0.3, "too few")
"""


@pytest.fixture
def fake_recipe(tmp_path_factory):
    """Electra has a recipe."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "electra.py").write_text(SOURCE)
    recipes.__path__.append(str(folder))
    yield
    recipes.__path__.remove(str(folder))
    sys.modules.pop("tokenry.recipes.electra", None)


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
