import json
from importlib.util import find_spec

import pytest
from typer.testing import CliRunner

from tokenry.cli import app
from tokenry.papers import catalogue

KEYS = {"number", "slug", "title", "arxiv", "module", "available", "verdict", "shown", "of"}


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(app, ["papers", *arguments])


def test_json_is_a_list_of_forty_objects_with_the_promised_keys(run):
    papers = json.loads(run("--json").stdout)
    assert len(papers) == 40
    assert all(set(paper) == {"schema"} | KEYS for paper in papers)
    assert papers[0]["slug"] == "sstoken"
    assert papers[5]["arxiv"] == "2509.26313"


def test_only_the_available_ones_are_listed_when_asked(run, fake_recipe):
    papers = json.loads(run("--json", "--available").stdout)
    assert "made-up" in [paper["slug"] for paper in papers]
    assert all(paper["available"] for paper in papers)


def test_the_table_says_for_every_paper_whether_it_can_be_reproduced(run, monkeypatch):
    monkeypatch.setattr("tokenry.papers.has_recipe", lambda slug: slug == "sstoken")
    monkeypatch.setattr("tokenry.papers._reproduced", dict)
    result = run()
    number, rest = "01", result.stdout.partition("stored run")[2]
    lines = {line.split()[0]: line for line in rest.splitlines() if line[:2].isdigit()}
    assert result.exit_code == 0
    assert "1 of 40 can be reproduced" in result.stdout
    assert "not run yet" in lines[number]
    assert "no recipe yet" in lines["40"]


def test_a_module_is_named_only_where_it_exists(run):
    module = {paper["slug"]: paper["module"] for paper in json.loads(run("--json").stdout)}
    assert module["sstoken"] == "tokenry.finetuning"
    assert all(find_spec(name) for names in module.values() if names for name in names.split(", "))
    assert module["number-tokens"] == "tokenry.tokenization, tokenry.evaluation"


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_breaks_no_word(width):
    result = CliRunner().invoke(app, ["papers"], env={"COLUMNS": str(width)})
    assert max(map(len, result.stdout.splitlines())) <= width
    words = set(result.stdout.split())
    assert {word for paper in catalogue() for word in paper.title.split()} <= words
