"""For the tests of the command line: a recipe that measures in no time, and a tiny chat model with its data."""

import pytest

from tests.desk import desk
from tests.made_up_paper import with_recipe

__all__ = ["desk"]

SOURCE = """
from tokenry.recipes.kit import Claim, recipe

@recipe("made-up", laptop=None, paper=None)
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
    """A paper that nobody wrote has a recipe."""
    with with_recipe(tmp_path_factory.mktemp("recipes"), SOURCE):
        yield
