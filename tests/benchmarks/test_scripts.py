"""Every benchmark runs and says what it measured in the form that the docs are made from; what it measures is not tested."""

import json
import math

import pytest

from tests import ROOT
from tests.app.browser import CHROMIUM
from tests.fresh_process import run_script

FOLDER = ROOT / "benchmarks"
GPU = FOLDER / "gpu"
NO_MEASUREMENTS = {GPU / "run_all.py"}
SCRIPTS = sorted(
    path
    for folder in (FOLDER, GPU)
    for path in folder.glob("*.py")
    if not path.name.startswith("_") and path not in NO_MEASUREMENTS
)


@pytest.mark.newer("version of what is measured beside")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(FOLDER).with_suffix("")))
def test_a_benchmark_prints_nothing_but_its_results(script, tmp_path):
    if script.stem == "app" and not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not there: apt-get install chromium")
    finished = run_script(script, "--json", "--smoke", folder=tmp_path)
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
