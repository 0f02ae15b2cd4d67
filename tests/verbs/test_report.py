import json

import pytest

from tests.tiny.chats import QUICK


@pytest.fixture(scope="module")
def run(desk):
    output = desk.folder / "run"
    result = desk.tokenry("tune", desk.model, desk.data, *QUICK, "--output", output)
    assert result.exit_code == 0, result.stderr
    return output


@pytest.mark.parametrize("name", ["", "result.json"])
def test_the_report_is_drawn_anew_from_the_folder_or_its_record(desk, run, name):
    drawn = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    result = desk.tokenry("report", run / name)
    assert result.exit_code == 0
    assert (run / "report.html").read_bytes() == drawn
    assert "held-out NLL" in result.stdout
    assert f"written: {run / 'report.html'}" in result.stderr


def test_it_may_be_written_elsewhere_and_json_says_where(desk, run, tmp_path):
    page = tmp_path / "new" / "page.html"
    result = desk.tokenry("report", run, "--output", page, "--json", "--quiet")
    assert json.loads(result.stdout)["report"] == str(page)
    assert result.stderr == ""
    assert "<html" in page.read_text()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        ("{", "is not valid JSON"),
        ('{"kind": "tune"}', "is not the record of a run (model: Field required)"),
    ],
)
def test_what_is_no_record_is_refused_in_one_sentence(desk, tmp_path, content, words):
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    result = desk.tokenry("report", tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("finished", "named", "words"),
    [
        ([], "", "(finished so far: nothing)"),
        (["full"], "", "(finished so far: full)"),
        (["sstoken", "full"], "result.json", "(finished so far: full, sstoken)"),
    ],
)
def test_an_unfinished_run_is_said_to_be_one_with_how_to_go_on(desk, tmp_path, finished, named, words):
    output = tmp_path / "my run"
    output.mkdir()
    (output / "plan.json").write_text("{}")
    for name in finished:
        (output / name).mkdir()
        (output / name / "run.json").write_text("{}")
    result = desk.tokenry("report", output / named)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"the run in {output} is not finished {words}" in result.stderr
    assert f"tokenry tune --resume --output '{output}'" in result.stderr
    assert not (output / "report.html").exists()


STORED = {
    "kind": "evaluation",
    "model": "m",
    "data": "d.jsonl",
    "measures": [{"measure": "accuracy", "value": 0.5, "standard_error": 0.1, "samples": 9}],
}


def test_the_result_of_another_verb_is_drawn(desk, tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(STORED))
    result = desk.tokenry("report", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "0.500 ± 0.100" in result.stdout
    assert "<h1>m on d.jsonl</h1>" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "result.json is not a result: give the folder that a verb of tokenry wrote"),
        ({"model": "m"}, "result.json is not a result: give the folder that a verb of tokenry wrote"),
        (
            {"kind": "score", "schema": 2},
            "result.json has schema 2, and this tokenry reads schemas up to 1: install a newer tokenry",
        ),
        ({"kind": "dance"}, "result.json: results of the kind 'dance' are not known"),
        ({**STORED, "measures": 3}, "result.json cannot be drawn (TypeError"),
        ({"kind": "score"}, "result.json cannot be drawn (KeyError: 'examples')"),
    ],
)
def test_what_no_verb_can_draw_is_refused_in_one_sentence(desk, tmp_path, content, words):
    (tmp_path / "result.json").write_text(json.dumps(content))
    result = desk.tokenry("report", tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "report.html").exists()
