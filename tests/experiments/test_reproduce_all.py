"""Every recipe is run once, an interrupted run goes on, and the table says how many headlines are shown."""

import importlib.util
import json
from types import SimpleNamespace

import pytest

from tests import ROOT

spec = importlib.util.spec_from_file_location("reproduce_all", ROOT / "experiments/reproduce_all.py")
reproduce_all = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reproduce_all)


TIMES = {
    "otr": {"seconds": 400.0, "cpu_seconds": 310.0},
    "electra": {"seconds": 400.0, "cpu_seconds": 110.0},  # had to wait for others
}


@pytest.fixture
def started(monkeypatch):
    """The recipes that were started; one of them ends without a result."""
    slugs = []

    def run(command, **_):
        slug, folder = command[4], reproduce_all.Path(command[6])
        slugs.append(slug)
        if slug != "scaling":
            folder.mkdir(parents=True)
            result = {"verdict": "shown", "shown": 2, "of": 5, **TIMES.get(slug, {"seconds": 7.0})}
            (folder / "result.json").write_text(json.dumps(result))

    monkeypatch.setattr(reproduce_all, "subprocess", SimpleNamespace(run=run, DEVNULL=None))
    return slugs


def test_a_recipe_without_a_verdict_is_run_again_and_the_others_are_not(started, tmp_path, capsys):
    arguments = ["otr", "scaling", "xar", "--output", str(tmp_path)]
    assert reproduce_all.main(arguments) == 1
    assert reproduce_all.main(arguments) == 1
    assert started == ["otr", "scaling", "xar", "scaling"]
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert table.startswith("Headlines of 3 papers: 2 shown, 1 no verdict. Claims: 4 of 10 shown.")
    rows = {
        line.split("|")[1].strip(): line.split("|")[-2].strip() for line in table.splitlines() if "|" in line
    }
    assert (rows["otr"], rows["scaling"], rows["xar"]) == ("no", "no", "yes")


def test_all_papers_are_run_by_default(started, tmp_path):
    assert reproduce_all.main(["--output", str(tmp_path)]) == 1
    assert len(started) == 40


def test_a_recipe_that_had_to_wait_for_others_is_judged_by_its_cpu_time(started, tmp_path):
    reproduce_all.main(["otr", "electra", "--output", str(tmp_path)])
    rows = [
        [cell.strip() for cell in row.split("|")] for row in (tmp_path / "table.md").read_text().splitlines()
    ]
    assert [row[-4:-1] for row in rows[-2:]] == [["400", "310", "no"], ["400", "110", "yes"]]
