import json
import sys
from types import ModuleType

import pytest

from tests.tiny_chat import QUICK, sums, write_rows
from tokenry.core.records import Comparison


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


def measures(result):
    assert result.exit_code == 0, result.stderr
    return {row["measure"]: row for row in json.loads(result.stdout)["measures"]}


def test_what_tune_leaves_is_measured_as_tune_measured_it(desk, tuned):
    run = Comparison.load(tuned / "result.json").runs[0]
    result = desk.tokenry("evaluate", tuned / "full" / "model", desk.held_out, "--dtype", "float32", "--json")
    found = measures(result)
    assert found["nll per token, nats"]["value"] == pytest.approx(run.held_out_nll.value, rel=1e-4)
    assert found["bits per byte"]["value"] == pytest.approx(run.bits_per_byte, rel=1e-4)
    assert found["accuracy"]["samples"] == 4


def test_training_lowered_the_loss(desk, tuned):
    before = measures(desk.tokenry("evaluate", desk.model, desk.held_out, "--dtype", "float32", "--json"))
    after = Comparison.load(tuned / "result.json").runs[0].held_out_nll.value
    assert after < before["nll per token, nats"]["value"]


def test_the_table_has_a_standard_error_and_the_result_is_written(desk, tmp_path):
    output = tmp_path / "result.json"
    result = desk.tokenry("evaluate", desk.model, desk.held_out, "--output", output)
    assert "bits per byte" in result.stdout
    assert "± s.e." in result.stdout
    assert json.loads(output.read_text())["kind"] == "evaluation"
    assert "held-out loss" in result.stderr


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
            "dtype must be one of float32, bfloat16, float16 or auto",
        ),
        (["{model}", "{data}", "--max-length", "1"], "max_length must be at least 2"),
        (["{model}", "{data}", "--lm-eval", "arc_easy"], "pip install 'tokenry[lm-eval]'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(desk, monkeypatch, arguments, words):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    result = desk.tokenry(
        "evaluate", *(argument.format(model=desk.model, data=desk.data) for argument in arguments)
    )
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr
