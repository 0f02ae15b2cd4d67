"""Every benchmark runs and says what it measured in the form that the docs are made from; what it measures is not tested."""

import json
import math
import subprocess
import sys

import pytest

from tests import ROOT

FOLDER = ROOT / "benchmarks"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if not path.name.startswith("_"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_prints_nothing_but_its_results(script):
    finished = subprocess.run(
        [sys.executable, script, "--json", "--smoke"], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    results = json.loads(finished.stdout)
    assert results
    for result in results:
        assert result.keys() - {"at_least"} == {"name", "ratio", "target", "holds", "settings"}
        assert math.isfinite(result["ratio"])
        assert result["ratio"] > 0
        reached = result["ratio"] >= result["target"], result["ratio"] <= result["target"]
        assert result["holds"] == reached["at_least" not in result]
        assert result["settings"]["processor"]
    assert len({result["name"] for result in results}) == len(results)
