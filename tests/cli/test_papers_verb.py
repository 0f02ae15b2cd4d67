import json

import pytest
from typer.testing import CliRunner

from tokenry.cli import app

KEYS = {"number", "slug", "title", "arxiv", "module", "available", "verdict", "shown", "of"}


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(app, ["papers", *arguments])


def test_json_is_a_list_of_forty_objects_with_the_promised_keys(run):
    papers = json.loads(run("--json").stdout)
    assert len(papers) == 40
    assert all(set(paper) == KEYS for paper in papers)
    assert papers[0]["slug"] == "sstoken"
    assert papers[5]["arxiv"] == "2509.26313"


def test_only_the_available_ones_are_listed_when_asked(run, fake_recipe):
    papers = json.loads(run("--json", "--available").stdout)
    assert "electra" in [paper["slug"] for paper in papers]
    assert all(paper["available"] for paper in papers)


def test_the_table_says_for_every_paper_whether_it_can_be_reproduced(run, monkeypatch):
    monkeypatch.setattr("tokenry.papers.has_recipe", lambda slug: slug == "electra")
    result = run()
    lines = {line.split("│")[1].strip(): line for line in result.stdout.splitlines() if line.count("│") > 3}
    assert result.exit_code == 0
    assert "yes" in lines["electra"]
    assert "not yet" in lines["zett"]
