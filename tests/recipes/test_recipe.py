import json
from dataclasses import replace

import pytest

from tests.made_up_paper import listed, with_recipe
from tokenry.core.errors import UserError
from tokenry.papers import catalogue, outcome, paper
from tokenry.recipes import Claim, Reproduction, has_recipe, load_recipe, recipe, run_recipe

RECIPE_SOURCE = """
from tokenry.recipes.kit import Claim, recipe

@recipe("made-up", laptop=2.0, paper=9.0)
def reproduce(run):
    run.progress("measuring", 0.5)
    run.settings["size"] = run.sizes
    with run.figure(3, 2) as figure:
        figure.subplots().plot([1, 2])
    yield Claim("two is more than one", None, measured=run.sizes, control=1.0, verdict="shown")
"""


@pytest.fixture
def made_up(tmp_path):
    with with_recipe(tmp_path, RECIPE_SOURCE):
        yield


def claim(verdict):
    return Claim("a claim", paper="?", measured=1.0, control=0.0, verdict=verdict)


def reproduction(*verdicts):
    return Reproduction("made-up", tuple(map(claim, verdicts)), {"seed": 0}, seconds=1.5, cpu_seconds=2.5)


def test_the_verdict_is_that_of_the_headline_and_the_other_claims_keep_theirs():
    found = reproduction("shown", "not shown", "opposite", "shown", "too few")
    assert (found.verdict, found.shown) == ("shown", 2)
    assert found.outcome == "headline shown; 2 of 5 claims"
    assert reproduction("not shown", "shown").verdict == "not shown"


@pytest.mark.parametrize(("verdict", "words"), [
    ("shown", "headline shown; 1 of 1 claim"),
    ("not shown", "headline not shown; 1 of 1 claim"),
    ("opposite", "headline opposite; 1 of 1 claim"),
    ("too few", "headline too few; 1 of 1 claim"),
])  # fmt: skip
def test_every_verdict_has_its_words(verdict, words):
    assert outcome(verdict, 1, 1) == words


def test_a_reproduction_without_claims_is_refused_because_nothing_could_be_shown():
    with pytest.raises(ValueError, match="makes no claim"):
        reproduction()


def test_a_verdict_in_other_words_is_refused():
    with pytest.raises(Exception, match="verdict"):
        claim("maybe")


def test_more_than_five_claims_beside_the_headline_are_refused(tmp_path):
    many = recipe("made-up", laptop=7, paper=7)(lambda run: [claim("shown")] * run.sizes)
    with pytest.raises(ValueError, match="made-up makes 7 claims: a headline and at most 5 more"):
        many.run("laptop", tmp_path, lambda what, share: None)


def test_the_json_names_the_headline_and_counts_the_claims():
    written = reproduction("opposite", "shown").as_json()
    assert (written["slug"], written["verdict"], written["headline"]) == ("made-up", "opposite", "a claim")
    assert (written["shown"], written["of"]) == (1, 2)
    assert [set(each) for each in written["claims"]] == [
        {"claim", "paper", "measured", "control", "verdict"}
    ] * 2


@pytest.mark.parametrize(("ours", "options", "verdict"), [
    ([3.0 + n / 10 for n in range(9)], {}, "shown"),
    ([3.0 + n / 10 for n in range(9)], {"least": 3.3}, "not shown"),
    ([3.0 + n / 10 for n in range(9)], {"lower": True}, "opposite"),
    ([-3.0 - n / 10 for n in range(9)], {"lower": True}, "shown"),
    ([3.0, 3.1, 3.2], {}, "too few"),
    ([3.0, 3.1, 3.2], {"fewest": 2}, "shown"),
])  # fmt: skip
def test_a_claim_is_judged_by_paired_differences(ours, options, verdict):
    judged = Claim.above("ours is above", ours, [0.0] * len(ours), "nothing", unit=" %", **options)
    assert judged.verdict == verdict
    assert judged.paper is None
    assert judged.control == "0.0 % (nothing)"
    assert f"n = {len(ours)}" in judged.measured


def test_a_claim_at_several_settings_must_hold_at_each():
    rising, flat = [3.0 + n / 10 for n in range(9)], [0.0 + n / 100 for n in range(9)]

    def judged(*ours):
        return Claim.above_everywhere("above at both", list(ours), [flat, flat], "nothing")

    assert judged(rising, rising).verdict == "shown"
    assert judged(rising, flat).verdict == "not shown"
    assert judged([-each for each in rising], [-each for each in rising]).verdict == "opposite"
    assert judged(rising, rising).measured == "3.4, 3.4 % (differences +3.4 ± 0.1, +3.4 ± 0.1, n = 9)"


def test_a_recipe_is_registered_by_its_file_and_takes_its_title_from_the_catalogue(made_up):
    assert has_recipe("made-up")
    assert load_recipe("made-up").title == paper("made-up").title


def test_a_missing_recipe_is_named_together_with_how_to_list_what_there_is():
    assert not has_recipe("made-up")
    assert not has_recipe("kit")
    with listed(), pytest.raises(UserError, match=r"'made-up' has no recipe yet: `tokenry reproduce --list`"):
        load_recipe("made-up")


def test_running_a_recipe_leaves_its_result_and_its_picture_on_disk(made_up, tmp_path):
    heard, folder = [], tmp_path / "new" / "run"
    result = run_recipe("made-up", "laptop", folder, lambda what, share: heard.append((what, share)))
    assert json.loads((folder / "result.json").read_text()) == result.as_json()
    assert result.settings == {"scale": "laptop", "size": 2.0}
    assert (folder / result.plots[0]).stat().st_size > 1000
    assert result.seconds > 0
    assert heard == [("measuring", 0.5)]


def test_the_scale_decides_what_is_run(made_up, tmp_path):
    assert run_recipe("made-up", "paper", tmp_path, lambda what, share: None).settings["size"] == 9.0


def test_data_reach_a_recipe_that_takes_some_and_no_other(made_up, tmp_path):
    recipe = load_recipe("made-up")
    with pytest.raises(UserError, match="the recipe of made-up takes no data: leave --data out"):
        run_recipe("made-up", "laptop", tmp_path, lambda what, share: pytest.fail("it ran"), tmp_path)
    taking = replace(recipe, takes="a text")
    result = taking.run("laptop", tmp_path, lambda what, share: None, tmp_path)
    assert result.settings == {"scale": "laptop", "data": f"a text, {tmp_path}", "size": 2.0}


def test_an_output_that_is_a_file_is_refused_before_the_recipe_runs(made_up, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="cannot be a folder"):
        run_recipe("made-up", "laptop", tmp_path / "taken", lambda what, share: pytest.fail("it ran"))


@pytest.mark.parametrize("slug", [entry.slug for entry in catalogue() if entry.available])
def test_every_recipe_carries_the_slug_and_the_title_of_its_paper_and_runs_at_both_scales(slug):
    recipe = load_recipe(slug)
    assert (recipe.slug, recipe.title) == (slug, paper(slug).title)
    assert set(recipe.scales) == {"laptop", "paper"}
