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
from tokenry.core.errors import UserError
from tokenry.recipes import Claim, Reproduction, verdict

class Recipe:
    slug = "electra"
    title = "ELECTRA"

    def run(self, scale, output, progress):
        print("a library that chatters on stdout")
        progress("measuring", 0.5)
        (output / "plot.svg").write_text("<svg/>")
        claims = (
            Claim("a claim that holds", 0.97, 0.96, 0.43, verdict(0.96 > 0.43)),
            Claim("a claim that does not", "52.5 (from memory)", 0.2, 0.3, verdict(0.2 > 0.3)),
        )
        return Reproduction(self.slug, claims, {"scale": scale}, seconds=0.0, plots=())

RECIPE = Recipe()
"""


@pytest.fixture
def fake_recipe(tmp_path_factory, monkeypatch):
    """Electra has a recipe."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "electra.py").write_text(SOURCE)
    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(folder)])
    yield
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
