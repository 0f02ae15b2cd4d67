"""The verb `evaluate held-out`: what it measures, prints, saves, draws and refuses."""

import json
import re
import sys
from types import ModuleType

import pytest

from tests.tiny.chats import QUICK, sums, write_rows
from tests.verbs.check_verb import check_verb, in_terminal
from tests.verbs.tune.record import load
from tokenry.report.html import page
from tokenry.verbs._catalogue import verb_of


@pytest.fixture(scope="module")
def tuned(desk):
    """A run of one weighing, measured on the held-out file."""
    output = desk.folder / "tuned"
    options = (
        "--weighing",
        "full",
        "--compare",
        "",
        "--held-out",
        desk.held_out,
        "--set",
        "learning_rate=0.05",
    )
    result = desk.tokenry("tune", desk.model, desk.data, *QUICK, *options, "--output", output)
    assert result.exit_code == 0, result.stderr
    return output


def said(result):
    return " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split())


def measures(result):
    assert result.exit_code == 0, result.stderr
    return {row["measure"]: row for row in json.loads(result.stdout)["measures"]}


def test_what_tune_leaves_is_measured_as_tune_measured_it(desk, tuned):
    run = load(tuned / "result.json").runs[0]
    result = desk.tokenry("evaluate", tuned / "full" / "model", desk.held_out, "--dtype", "float32", "--json")
    found = measures(result)
    assert found["nll per token, nats"]["value"] == pytest.approx(run.held_out_nll.value, rel=1e-4)
    assert found["bits per byte"]["value"] == pytest.approx(run.bits_per_byte, rel=1e-4)
    assert found["accuracy"]["samples"] == 4


def test_training_lowered_the_loss(desk, tuned):
    before = measures(desk.tokenry("evaluate", desk.model, desk.held_out, "--dtype", "float32", "--json"))
    after = load(tuned / "result.json").runs[0].held_out_nll.value
    assert after < before["nll per token, nats"]["value"]


def test_the_table_has_a_standard_error_and_the_result_is_written(desk, tmp_path):
    output = tmp_path / "result.json"
    result = desk.tokenry("evaluate", desk.model, desk.held_out, "--output", output)
    assert "bits per byte" in result.stdout
    assert " ± " in result.stdout
    assert json.loads(output.read_text())["kind"] == "evaluation"
    assert "held-out loss" in result.stderr


def test_it_is_what_every_verb_must_be(desk, tmp_path):
    saved = check_verb("evaluate held-out", desk.model, desk.held_out, output=tmp_path / "run")
    assert saved["settings"]["answers"] == 45
    assert set(saved["measures"][0]) == {"measure", "value", "standard_error", "samples", "low", "high"}


STORED = {
    "kind": "evaluation",
    "model": "m",
    "data": "d.jsonl",
    "dtype": "float32",
    "measures": [
        {"measure": "nll per token, nats", "value": 1.5, "standard_error": 0.02, "samples": 40},
        {"measure": "accuracy", "value": 0.5, "standard_error": None, "samples": None},
    ],
    "notes": ["2 samples are longer than 30 tokens: cut."],
}


def test_a_result_of_an_older_version_is_drawn():
    blocks = verb_of("evaluation").lay_out(STORED)
    shown = in_terminal(blocks)
    for words in ("m on d.jsonl", "1.500 ± 0.020", "40", "0.500", "data: 2 samples are longer"):
        assert words in shown
    assert '<p class="warning">data: 2 samples' in page("evaluation", "m", blocks, {})


def test_a_result_of_the_harness_is_drawn():
    blocks = verb_of("lm-eval").lay_out({**STORED, "kind": "lm-eval", "data": "arc_easy"})
    assert "m on arc_easy" in in_terminal(blocks)


def test_options_come_from_a_settings_file(desk, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(f"data: {desk.held_out}\nanswers: 0\n")
    result = desk.tokenry("evaluate", desk.model, "--config", config, "--json")
    assert set(measures(result)) == {"nll per token, nats", "bits per byte"}


def test_quiet_leaves_only_the_result(desk):
    assert desk.tokenry("evaluate", desk.model, desk.held_out, "--quiet").stderr == ""


def test_data_without_verifiers_have_no_accuracy(desk, tmp_path):
    rows = [{"messages": row["messages"]} for row in sums(3)]
    found = measures(
        desk.tokenry("evaluate", desk.model, write_rows(tmp_path / "plain.jsonl", rows), "--json")
    )
    assert set(found) == {"nll per token, nats", "bits per byte"}


@pytest.fixture
def harness(monkeypatch):
    """A stand-in for lm-evaluation-harness, with results in its form."""

    def simple_evaluate(model, tasks):
        if tasks == ["nonsense"]:
            raise KeyError("Spec 'nonsense' is not a registered task")
        figures = {
            "alias": "sums",
            "acc,none": 0.5,
            "acc_stderr,none": 0.1,
            "ppl,none": 2.0,
            "ppl_stderr,none": "N/A",
        }
        return {"results": {tasks[0]: {**figures, "sample_len": 26}}}

    package, models = ModuleType("lm_eval"), ModuleType("lm_eval.models.huggingface")
    package.simple_evaluate = simple_evaluate
    models.HFLM = lambda pretrained, tokenizer: (pretrained, tokenizer)
    for name, module in (("lm_eval", package), ("lm_eval.models", package), (models.__name__, models)):
        monkeypatch.setitem(sys.modules, name, module)


def test_tasks_of_the_harness_are_handed_over(desk, harness):
    result = desk.tokenry("evaluate", desk.model, "--lm-eval", "sums", "--json")
    assert measures(result) == {
        "sums: acc": {"measure": "sums: acc", "value": 0.5, "standard_error": 0.1, "samples": 26},
        "sums: ppl": {"measure": "sums: ppl", "value": 2.0, "standard_error": None, "samples": 26},
    }


def test_a_task_that_the_harness_does_not_know_is_bad_input(desk, harness):
    result = desk.tokenry("evaluate", desk.model, "--lm-eval", "nonsense")
    assert result.exit_code == 2
    assert "does not know a task: Spec 'nonsense' is not a registered task" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-folder/here/at-all", "demo"], "does not exist"),
        (["{model}", "missing.jsonl"], "the file missing.jsonl does not exist"),
        (
            ["{model}", "{data}", "--dtype", "float8"],
            "'float8' is not one of 'float32', 'bfloat16', 'float16'",
        ),
        (["{model}", "{data}", "--device", "tpu9"], "device 'tpu9' is not there"),
        (["{model}", "{data}", "--max-length", "1"], "--max-length must be at least 2, got 1"),
        (["{model}", "{data}", "--answers", "-1"], "--answers must be at least 0, got -1"),
        (["{model}", "{data}", "--seed", "-1"], "--seed must be at least 0, got -1"),
        (["{model}", "{data}", "--chat-template", "none.jinja"], "none.jinja"),
        (["{model}", "{data}", "--output", "/dev/null/x"], "/dev/null/x cannot be written"),
        (["{model}", "{data}", "extra"], "unexpected extra argument"),
        (["{model}", "{data}", "--lm-eval", "arc_easy"], "pip install 'tokenry[lm-eval]'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(desk, monkeypatch, arguments, words):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    result = desk.tokenry(
        "evaluate", *(argument.format(model=desk.model, data=desk.data) for argument in arguments)
    )
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in said(result)
    assert "Traceback" not in result.stderr
