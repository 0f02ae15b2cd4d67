"""Forms: what stands in the fields becomes the plan that the command line makes of the command that is shown."""

import dataclasses
import shlex
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import tokenry.cli.commands
from tokenry.app.command import command_line
from tokenry.app.desk import Desks
from tokenry.app.fields import Desk, Documents, Scores, Shown, Slider, Upload
from tokenry.app.forms import Form
from tokenry.app.tabs import ORDER, all_tabs
from tokenry.app.uploads import Kind
from tokenry.cli import app
from tokenry.core.errors import UserError
from tokenry.core.plans import plan_options

FORMS = [(tab, form) for tab in all_tabs() for form in tab.forms]
NAMES = [f"{tab.name}: {form.verb}" for tab, form in FORMS]


def ended(job):
    """A job, once it is over; meanwhile it is watched."""
    while not job.is_over:
        job.look()
        time.sleep(0.01)
    return job


class Boxes:
    """gradio's components, of which only the value is kept."""

    def __getattr__(self, kind):
        def made(*, value=None, choices=None, **said):
            return value

        return lambda *args, **said: made(**{"value": args[0] if args else None, **said})


def first_values(form):
    """What stands in the fields when the page opens."""
    shown = Shown(("embedded",), any_model=True)
    return [field.component(Boxes(), shown, label=field.label, info="") for field in form.fields]


def test_tabs_stand_in_their_order_and_each_option_of_a_form_is_one_of_its_verb():
    assert [tab.name.lower().replace(" ", "_") for tab in all_tabs()] == list(ORDER)
    for _, form in FORMS:
        known = {option.name for option in plan_options(form.module.Plan)}
        assert {field.option for field in form.fields} | set(form.fixed) <= known


def test_a_tab_whose_verb_is_not_there_is_absent(monkeypatch):
    monkeypatch.setattr("tokenry.app.forms.all_verbs", lambda: {"score": "tokenry.verbs.score"})
    assert [tab.name for tab in all_tabs()] == ["Weigh"]


@pytest.mark.parametrize(("tab", "form"), FORMS, ids=NAMES)
def test_the_command_that_is_shown_makes_the_plan_that_is_run(tab, form, tmp_path, monkeypatch):
    values = first_values(form)
    for place, field in enumerate(form.fields):
        if isinstance(field, Upload) and field.required:
            from PIL import Image

            Image.new("RGB", (4, 4)).save(tmp_path / "one.png")
            values[place] = str(tmp_path / "one.png")
        elif field.label == "Image model":
            values[place] = "some/model"
        elif type(field).__name__ == "LastRun":
            (tmp_path / "strength.jsonl").touch()
    folder = tmp_path / "job"
    folder.mkdir()
    prepared = form.prepare(values, Desk(folder, lambda verb: tmp_path), tmp_path / "runs")
    seen = []
    monkeypatch.setattr(tokenry.cli.commands, "run_verb", lambda run, plan, as_json: seen.append(plan))
    monkeypatch.chdir(folder)
    called = CliRunner().invoke(app, shlex.split(prepared.command)[1:])
    assert called.exit_code == 0, called.output
    assert _compared(seen[0], prepared.folder) == _compared(prepared.plan, prepared.folder)


def _compared(plan, folder):
    """The options of a plan; files by their names, wherever they lie."""
    values = {
        field.name: getattr(plan, field.name) for field in dataclasses.fields(plan) if field.name != "output"
    }
    return str(values).replace(f"{folder}/", "").replace("PosixPath", "Path")


@given(text=st.text(min_size=1, max_size=30), share=st.floats(0.01, 1.0))
@settings(max_examples=25, deadline=None)
def test_any_value_is_read_back_from_the_command(text, share):
    from tokenry.verbs.compress.prompt import Plan

    line = command_line(
        "compress prompt", Plan, {"text": text, "question": text, "keep": share}, Path("/job")
    )
    words = shlex.split(line)
    assert words[:3] == ["tokenry", "compress", "prompt"]
    assert text in words
    assert float(words[words.index("--keep") + 1]) == share
    assert (
        "--question" in words and words[words.index("--question") + 1] == text
    ) or f"--question={text}" in words


def test_a_value_that_begins_with_a_dash_is_no_option():
    from tokenry.verbs.compress.prompt import Plan

    line = command_line("compress prompt", Plan, {"text": "-x", "question": "-q"}, Path("/job"))
    assert line == "tokenry compress prompt --question=-q -- -x"


def test_the_same_settings_go_on_with_the_same_run_and_others_begin_one(tmp_path):
    form = next(form for _, form in FORMS if form.resumes)
    (tmp_path / "data.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')

    def prepared(name, steps):
        (tmp_path / name).mkdir()
        values = first_values(form)
        values[0] = str(tmp_path / "data.jsonl")
        values[[field.label for field in form.fields].index("Steps")] = steps
        return form.prepare(values, Desk(tmp_path / name, lambda verb: None), tmp_path / "runs")

    one, again, other = prepared("a", 3), prepared("b", 3), prepared("c", 4)
    assert (one.output, one.plan) == (again.output, again.plan)
    assert one.output != other.output
    assert (one.folder / "data.jsonl").exists()
    assert "--resume" in one.command


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (Documents("corpus", "Documents"), "\n\n \n", "Documents is empty: write or paste a text."),
        (Documents("corpus", "Documents"), None, "Documents is empty: write or paste a text."),
        (
            Scores("benchmarks", "Scores"),
            "embedded; 3",
            "Scores: write a model, a comma and its score, got 'embedded; 3'.",
        ),
        (Scores("benchmarks", "Scores"), ", 3", "Scores: write a model, a comma and its score, got ', 3'."),
        (Scores("benchmarks", "Scores"), "", "Scores is empty: write or paste a text."),
        (Slider("keep", "Share"), 1.5, "Share must be from 0 to 1, got 1.5."),
        (Slider("keep", "Share"), None, "Share must be from 0 to 1, got None."),
        (
            Upload("images", "Images", kind=Kind.IMAGE, required=True),
            None,
            "Images is empty: choose an image (PNG, JPEG or WebP).",
        ),
    ],
)
def test_a_field_says_what_is_wrong_with_it(field, value, words, tmp_path):
    with pytest.raises(UserError) as error:
        field.options(value, Desk(tmp_path, lambda verb: None))
    assert str(error.value) == words


def test_a_sentence_of_a_verb_names_its_fields(tmp_path):
    form = Form(
        "theory markov",
        (Slider("switch", "Probability of a switch"), Slider("order", "Order", step=1, high=99)),
    )
    with pytest.raises(UserError) as error:
        form.prepare([1.0, 2], Desk(tmp_path, lambda verb: None), tmp_path)
    assert str(error.value).startswith("“Probability of a switch” must be in (0, 1), got 1.0")
    prepared = form.prepare([0.1, 40], Desk(tmp_path, lambda verb: None), tmp_path)
    with pytest.raises(UserError, match="40"):
        prepared.run(lambda stage, share: None)
    assert (
        form.as_filled("give --order-of or --seed 1, or --order 2")
        == "give --order-of or --seed 1, or “Order” 2"
    )


def test_half_a_character_is_refused(tmp_path):
    form = next(form for _, form in FORMS if form.verb == "explain")
    values = ["half of \ud83d", *first_values(form)[1:]]
    with pytest.raises(UserError, match="Text holds half of a character at 8: remove it"):
        form.prepare(values, Desk(tmp_path, lambda verb: None), tmp_path)


def test_nothing_that_is_typed_is_taken_for_a_path(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret")
    (tmp_path / "job").mkdir()
    for _, form in FORMS:
        if (
            form.verb in ("score", "explain", "compress prompt")
            and len(form.fields)
            and form.fields[0].label != "Answer"
        ):
            values = [str(secret), *first_values(form)[1:]]
            prepared = form.prepare(values, Desk(tmp_path / "job", lambda verb: None), tmp_path)
            text = getattr(prepared.plan, form.fields[0].option)
            assert Path(text).read_text() == str(secret)


def test_a_form_runs_its_verb_and_its_files_are_found_by_nobody_else(tmp_path):
    desks = Desks(tmp_path / "runs")
    watched = desks.start(("page", "form"), Form("papers"), [])
    assert ended(watched.job).said == ""
    key = watched.beside.address.partition("/")[2]
    assert desks.file(key, "result.json").is_file()
    assert desks.file(key, "../result.json") is None
    assert desks.file(f"../{key}", "result.json") is None
    assert desks.file("other", "result.json") is None
    assert "tokenry papers" in watched.drawn()
    desks.close()
    assert not desks.folder.exists()


def test_a_new_job_of_a_form_stops_the_one_before(tmp_path):
    desks = Desks(tmp_path / "runs")
    first = desks.start(("page", "form"), Form("papers"), [])
    second = desks.start(("page", "form"), Form("papers"), [])
    assert first.job.is_given_up or first.job.is_over
    assert [desks.has_newer(("page", "form"), one.job) for one in (first, second)] == [True, False]
    assert ended(second.job).state == "done"
    desks.stop(("page", "form"))
    assert not desks.has_newer(("page", "form"), second.job), "what was stopped still says so"
    desks.close()
