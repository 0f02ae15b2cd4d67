"""A recipe that exists only for the tests of the command line: it prints, draws and measures, in no time."""

import sys

import pytest

from tokenry import recipes

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
