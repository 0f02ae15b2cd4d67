import json

import pytest
from typer.testing import CliRunner

from tokenry.cli import app


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["reproduce", *arguments])


def test_json_is_one_object_and_nothing_else_reaches_stdout(run, fake_recipe):
    result = run("made-up", "--json")
    reproduction = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (reproduction["slug"], reproduction["verdict"]) == ("made-up", "shown")
    assert (reproduction["headline"], reproduction["shown"], reproduction["of"]) == (
        "a claim that holds",
        1,
        3,
    )
    assert [claim["verdict"] for claim in reproduction["claims"]] == ["shown", "opposite", "too few"]
    assert set(reproduction["claims"][0]) == {"claim", "paper", "measured", "control", "verdict"}


def test_what_libraries_print_and_the_progress_go_to_stderr(run, fake_recipe):
    result = run("made-up", "--json")
    assert "a library that chatters on stdout" in result.stderr
    assert "50%  measuring" in result.stderr


def test_quiet_silences_progress_and_notes_but_not_the_result(run, fake_recipe):
    result = run("made-up", "--quiet")
    assert "measuring" not in result.stderr
    assert "written" not in result.stderr
    assert "headline: a claim" in result.stdout


def test_the_table_heads_the_headline_and_counts_the_claims(run, fake_recipe):
    printed = " ".join(run("made-up").stdout.split())
    assert "headline shown; 1 of 3 claims" in printed
    assert "headline: a" in printed
    assert "no such" in printed


def test_the_result_and_the_plots_are_left_in_the_output_folder(run, fake_recipe, tmp_path):
    run("made-up", "--output", "here")
    assert json.loads((tmp_path / "here" / "result.json").read_text())["slug"] == "made-up"
    assert (tmp_path / "here" / "plot.svg").exists()
    assert "headline: a claim that holds" in (tmp_path / "here" / "report.html").read_text()


def test_the_report_is_drawn_again_from_the_folder_and_from_results_that_name_no_kind(
    run, fake_recipe, tmp_path
):
    run("made-up", "--output", "here")
    stored = json.loads((tmp_path / "here" / "result.json").read_text())
    drawn = (tmp_path / "here" / "report.html").read_bytes()
    reported = CliRunner().invoke(app, ["report", "here"])
    assert reported.exit_code == 0, reported.output
    assert "headline: a claim" in reported.stdout
    assert (tmp_path / "here" / "report.html").read_bytes() == drawn
    old = {name: value for name, value in stored.items() if name not in ("kind", "title")}
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert CliRunner().invoke(app, ["report", "old.json"]).stdout == reported.stdout


def test_without_an_output_the_folder_is_named_after_the_paper(run, fake_recipe, tmp_path):
    run("made-up")
    assert (tmp_path / "runs" / "reproduce-made-up" / "result.json").exists()


def test_the_scale_reaches_the_recipe(run, fake_recipe):
    assert json.loads(run("made-up", "--scale", "paper", "--json").stdout)["settings"] == {"scale": "paper"}


def test_an_unknown_scale_is_bad_usage_and_says_what_is_allowed(run, fake_recipe):
    result = run("made-up", "--scale", "huge")
    assert result.exit_code == 2
    assert "laptop" in result.stderr
    assert "paper" in result.stderr


def test_the_list_names_what_can_be_reproduced(run, fake_recipe):
    listed = json.loads(run("--list", "--json").stdout)
    assert {(each["number"], each["slug"]) for each in listed} >= {(1, "sstoken"), (41, "made-up")}
    assert all({"schema", "verdict", "shown", "of"} < set(each) for each in listed)
    assert "made-up" in run("--list").stdout


def test_the_list_says_what_came_of_the_stored_runs(run, monkeypatch):
    stored = {"zett": {"verdict": "not shown", "shown": 4, "of": 5}}
    monkeypatch.setattr("tokenry.papers._reproduced", lambda: stored)
    monkeypatch.setenv("COLUMNS", "120")
    (zett,) = (each for each in json.loads(run("--list", "--json").stdout) if each["slug"] == "zett")
    assert (zett["verdict"], zett["shown"], zett["of"]) == ("not shown", 4, 5)
    assert "headline not shown; 4 of 5" in run("--list").stdout


def test_a_misspelt_slug_is_bad_usage_and_names_the_nearest(run):
    result = run("elektra")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "tokenry: error: no paper has the slug 'elektra': did you mean electra?\n"


def test_a_paper_without_recipe_is_bad_usage_and_says_so(run, monkeypatch):
    monkeypatch.setattr("tokenry.recipes.has_recipe", lambda slug: False)
    result = run("zett")
    assert result.exit_code == 2
    assert "'zett' has no recipe yet" in result.stderr


def test_no_slug_at_all_is_bad_usage_and_says_what_to_do(run):
    result = run()
    assert result.exit_code == 2
    assert "give a slug, or --list" in result.stderr
