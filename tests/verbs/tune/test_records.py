"""Records of runs: written and read again, and read when an older version wrote them."""

import json
from dataclasses import replace

import pytest

from tests.verbs.tune.record import load
from tokenry.core.io.files import write_json
from tokenry.core.stats import Estimate, Paired
from tokenry.verbs._tune.records import Comparison, Run

RUN = {
    "name": "a", "weighing": "AllTokens()", "tokens_learned": 10.0, "share_kept": 1.0, "steps": 2, "seconds_per_step": 0.5,
}  # fmt: skip


def comparison(**changed):
    run = Run(
        **RUN,
        held_out_nll=Estimate(0.5, 0.1, 9),
        paired=Paired(to="full", difference=-0.3, standard_error=0.1, samples=9),
    )
    given = {"model": "m", "data": "d", "created": "now", "settings": {}, "environment": {}, "runs": [run]}
    return Comparison(**given | changed)


def test_a_record_is_read_as_it_was_written(tmp_path):
    write_json(tmp_path / "result.json", comparison().model_dump(mode="json"))
    assert load(tmp_path / "result.json") == comparison()


def test_an_estimate_of_an_older_version_gets_its_interval(tmp_path):
    write_json(tmp_path / "result.json", comparison().model_dump(mode="json"))
    content = json.loads((tmp_path / "result.json").read_text())
    nll = content["runs"][0]["held_out_nll"]
    assert set(nll) == {"value", "standard_error", "samples", "low", "high"}
    del nll["low"], nll["high"]
    (tmp_path / "result.json").write_text(json.dumps(content))
    (run,) = load(tmp_path / "result.json").runs
    assert run.held_out_nll == Estimate(0.5, 0.1, 9)
    assert run.held_out_nll.low == pytest.approx(0.5 - 0.2306, abs=1e-4)


def test_whole_numbers_are_numbers():
    assert Estimate(1, 0, 9) == Estimate(1.0, 0.0, 9)


def test_a_difference_is_judged_where_lower_is_better():
    (run,) = comparison().runs
    assert run.paired.verdict == "shown"
    assert run.paired.estimate.high == pytest.approx(-0.3 + 0.2306, abs=1e-4)
    assert replace(run.paired, difference=0.3).verdict == "opposite"
    assert replace(run.paired, samples=7).verdict == "too few"
