"""`tokenry scaling fit`, `predict`, `plan` and `compare`: the shipped models, a user's table, and what is refused."""

import json

import numpy as np
import pytest

from tests.pretraining.scaling.test_laws import LAW, MULTIPLIERS, SIZES, noisy
from tests.verbs.check_verb import check_refused, check_verb
from tests.verbs.check_verb import tokenry as called

LOSSES = noisy(noise=5e-3)
ERRORS = 0.85 - 2.2 * np.exp(-0.71 * LOSSES)


def as_csv(path, losses=LOSSES, errors=None, columns="params,tokens,loss"):
    rows = zip(SIZES, SIZES * MULTIPLIERS, losses, *(() if errors is None else (errors,)), strict=True)
    heading = columns + ("" if errors is None else ",error")
    path.write_text("\n".join([heading, *(",".join(map(str, row)) for row in rows)]))
    return path


def told(verb, *arguments):
    result = called(f"scaling {verb}", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_shipped_models_are_fitted_as_the_paper_does(tmp_path):
    saved = check_verb("scaling fit", output=tmp_path / "fit")
    constants = {each["name"]: each["value"] for each in saved["constants"] + saved["error_constants"]}
    printed = {"E": 1.837, "a": 212.2, "b": 366.7, "eta": 0.1364, "eps": 0.8570, "k": 2.206, "gamma": 0.7146}
    assert constants == pytest.approx(printed, rel=1e-3)
    assert saved["fitted"] == 5
    assert sum(not run["fitted"] for run in saved["judged"]) == 30
    assert [row["objective"] for row in saved["objectives"]] == ["squares", "log", "huber"]


def test_the_papers_targets_are_predicted(tmp_path):
    saved = check_verb(
        "scaling predict", "--params", "1439795200", "--multiplier", "20,640", output=tmp_path / "predict"
    )
    near, far = saved["predictions"]
    assert (near["multiplier"], far["multiplier"]) == (20, 640)
    for run in (near, far):
        assert run["loss_low"] < run["loss"] < run["loss_high"]
        assert run["error_low"] < run["error"] < run["error_high"]
    assert far["error"] == pytest.approx(0.4924, abs=1e-3)


@pytest.mark.parametrize("given", [("--budget", "1e21"), ("--target-loss", "2.6", "--served-tokens", "1e12")])
def test_a_run_is_planned(given, tmp_path):
    saved = check_verb("scaling plan", *given, "--draws", 30, output=tmp_path / "plan")
    low, high = saved["params_interval"]
    assert low <= saved["best"]["params"] <= high
    assert saved["best"]["error"] is not None


def test_sizes_of_a_plan_may_be_given():
    planned = told("plan", "--budget", "1e21", "--sizes", "1e9,3e9,7e9")
    assert [run["params"] for run in planned["options"]] == [1e9, 3e9, 7e9]
    assert planned["params_interval"] is None


def test_two_training_sets_are_compared(tmp_path):
    saved = check_verb("scaling compare", "--draws", 50, output=tmp_path / "compare")
    assert saved["methods"] == ["refinedweb", "c4"]
    assert len(saved["comparisons"]) == 5
    for row in saved["comparisons"]:
        assert row["low"] <= row["value"] <= row["high"]


def test_a_table_of_runs_is_fitted_predicted_planned_and_compared(tmp_path):
    plain, ours = as_csv(tmp_path / "plain.csv", errors=ERRORS), as_csv(tmp_path / "ours.csv", LOSSES - 0.1)
    fitted = told("fit", plain)
    assert {each["name"]: each["value"] for each in fitted["constants"]}["eta"] == pytest.approx(
        LAW.eta, abs=0.03
    )
    assert fitted["error_constants"]
    (run,) = told("predict", plain, "--objective", "huber", "--params", "7e9")["predictions"]
    assert run["loss_low"] < run["loss"] < run["loss_high"]
    compared = told("compare", ours, plain, "--loss", "2.7", "--multiplier", "20", "--draws", 50)
    assert compared["comparisons"][0]["high"] < 1


def test_runs_of_more_compute_may_be_left_out(tmp_path):
    found = told("fit", as_csv(tmp_path / "runs.csv"), "--fit-below", "1e20")
    assert [run["fitted"] for run in found["judged"]] == [True] * 5 + [False] * 2
    assert found["objectives"][0]["others"] is not None


def test_four_runs_have_no_intervals(tmp_path):
    path = as_csv(tmp_path / "runs.csv")
    path.write_text("\n".join(path.read_text().split("\n")[:5]))
    found = told("fit", path)
    assert [each["low"] for each in found["constants"]] == [None] * 4
    assert any("the fit is exact" in warning for warning in found["warnings"])
    assert called("scaling", "predict", path, "--quiet").exit_code == 0


@pytest.mark.parametrize(("verb", "arguments", "words"), [
    ("fit", ("missing.csv",), "missing.csv does not exist"),
    ("fit", ("missing.csv", "--training-set", "c4"), "give a file of runs or --training-set, not both"),
    ("fit", ("--validation", "wikitext"), "validation must be one of openlm, c4_val"),
    ("fit", ("--fit-below", "1e15"), "cannot be fitted to 0 runs"),
    ("predict", ("--params", "-1"), "params must be finite and above 0, got -1"),
    ("predict", ("--multiplier", "0"), "must be finite and above 0, got 0"),
    ("plan", (), "give --budget FLOPS or --target-loss LOSS, one of them"),
    ("plan", ("--target-loss", "1"), "no run reaches a loss of 1: the law's floor is 1.837"),
    ("plan", ("--budget", "1e20", "--sizes", "1e12"), "tokens per parameter, fewer than any law was fitted to"),
    ("plan", ("--budget", "1e20", "--served-tokens", "-1"), "must be finite and at least 0, got -1"),
    ("compare", ("one.csv",), "give two files of runs, method A and method B, got only one.csv"),
    ("compare", ("--loss", "1.6"), "does not reach a loss of 1.6: its floor is"),
    ("compare", ("--draws", "1"), "--draws must be at least 2, got 1"),
])  # fmt: skip
def test_what_cannot_be_done_is_refused(verb, arguments, words):
    check_refused(f"scaling {verb}", *arguments, "--quiet", words=words)


@pytest.mark.parametrize(("text", "words"), [
    ("params,loss\n1e7,4", "has no tokens: a table of runs has the columns params, tokens, loss"),
    ("params;tokens;loss\n1;2;3", "may have error and name, and this one has params;tokens;loss."),
    ("params,tokens,loss", "has no rows"),
    ("params,tokens,loss\n1e7,many,4", "tokens must be a number, got 'many' in line 2 of"),
    ("params,tokens,loss\n0,1e9,4", "params must be above 0, got 0 in"),
    ("params,tokens,loss\n1e7,1e9,4\n2e7,1e9,3", "cannot be fitted to 2 runs"),
    ("params,tokens,loss\n1e7,1e9,nan\n2e7,1e9,3\n3e7,1e9,3\n4e7,1e9,3", "loss must be finite and above 0, got nan"),
])  # fmt: skip
def test_a_table_that_is_none_is_refused(text, words, tmp_path):
    (tmp_path / "runs.csv").write_text(text)
    check_refused("scaling fit", tmp_path / "runs.csv", "--quiet", words=words)


def test_different_designs_are_not_compared(tmp_path):
    one, other = as_csv(tmp_path / "one.csv"), tmp_path / "other.csv"
    other.write_text("\n".join(one.read_text().split("\n")[:-1]))
    check_refused("scaling compare", one, other, "--loss", "3", "--quiet", words="fitted to different runs")
