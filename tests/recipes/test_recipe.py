import json
import sys

import pytest

from tokenry import recipes
from tokenry.core.errors import UserError
from tokenry.papers import catalogue, paper
from tokenry.recipes import Claim, Reproduction, has_recipe, load_recipe, run_recipe, verdict

RECIPE_SOURCE = """
from tokenry.recipes import Claim, Reproduction, verdict

class Recipe:
    slug = "made-up"
    title = "A made-up paper"

    def run(self, scale, output, progress):
        progress("measuring", 0.5)
        claim = Claim("two is more than one", paper=2.0, measured=2.0, control=1.0, verdict=verdict(2.0 > 1.0))
        return Reproduction("made-up", (claim,), {"scale": scale}, seconds=0.0)

RECIPE = Recipe()
"""


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    (tmp_path / "made_up.py").write_text(RECIPE_SOURCE)
    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(tmp_path)])
    yield
    sys.modules.pop("tokenry.recipes.made_up", None)


def reproduction(*shown):
    claims = tuple(Claim("a claim", paper="?", measured=1.0, control=0.0, verdict=verdict(s)) for s in shown)
    return Reproduction("made-up", claims, {"seed": 0}, seconds=1.5)


def test_a_reproduction_is_shown_only_if_every_claim_is():
    assert reproduction(True, True).verdict == "shown"
    assert reproduction(True, False).verdict == "not shown"
    assert reproduction(False).verdict == "not shown"


def test_a_reproduction_without_claims_is_refused_because_it_would_always_be_shown():
    with pytest.raises(ValueError, match="makes no claim"):
        reproduction()


def test_a_verdict_in_other_words_is_refused():
    with pytest.raises(Exception, match="verdict"):
        Claim("a claim", paper="?", measured=1.0, control=0.0, verdict="maybe")


def test_the_json_carries_the_computed_verdict_and_every_claim():
    written = reproduction(True, False).as_json()
    assert written["slug"] == "made-up"
    assert written["verdict"] == "not shown"
    assert [set(claim) for claim in written["claims"]] == [
        {"claim", "paper", "measured", "control", "verdict"}
    ] * 2


def test_a_recipe_is_registered_by_its_file_and_found_by_its_slug(made_up):
    assert has_recipe("made-up")
    assert load_recipe("made-up").title == "A made-up paper"


def test_a_missing_recipe_is_named_together_with_how_to_list_what_there_is():
    assert not has_recipe("made-up")
    with pytest.raises(UserError, match=r"'made-up' has no recipe yet: `tokenry reproduce --list`"):
        load_recipe("made-up")


def test_running_a_recipe_leaves_its_result_on_disk(made_up, tmp_path):
    heard = []
    result = run_recipe(
        "made-up", "laptop", tmp_path / "new" / "run", lambda what, share: heard.append((what, share))
    )

    assert json.loads((tmp_path / "new" / "run" / "result.json").read_text()) == result.as_json()
    assert heard == [("measuring", 0.5)]


def test_an_output_that_is_a_file_is_refused_before_the_recipe_runs(made_up, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="cannot be a folder"):
        run_recipe("made-up", "laptop", tmp_path / "taken", lambda what, share: pytest.fail("it ran"))


@pytest.mark.parametrize("slug", [entry.slug for entry in catalogue() if entry.available])
def test_every_recipe_carries_the_slug_and_the_title_of_its_paper(slug):
    recipe = load_recipe(slug)
    assert (recipe.slug, recipe.title) == (slug, paper(slug).title)
