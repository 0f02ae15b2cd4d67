"""Two processes estimate one trace, each on batches of its own, and both know it."""

import pytest

from tests import tiny
from tests.fresh_process import run_ranks
from tests.pretraining.flatness_ranks import BATCHES, found
from tokenry.core.io.files import read_json

pytestmark = pytest.mark.distributed


def test_ranks_find_one_estimate_over_the_draws_of_both(tmp_path):
    ended = run_ranks("tests.pretraining.flatness_ranks", str(tmp_path), folder=tmp_path)
    assert [rank.returncode for rank in ended] == [0, 0], "".join(rank.stderr for rank in ended)[-3000:]
    ours, theirs = (read_json(tmp_path / f"found-{rank}.json") for rank in range(2))
    assert ours == theirs
    alone = found(tiny.llama(), BATCHES)
    assert ours["fisher"] == pytest.approx(alone["fisher"], rel=1e-5)
    assert ours["hessian"][2] == alone["hessian"][2] == 4
    stored = [read_json(tmp_path / "draws" / name)["draws"] for name in ("draws.json", "draws-1.json")]
    assert [len(rows) for rows in stored] == [2, 2]
    values = [sum(row[3:]) for rows in stored for row in rows]
    assert sum(values) / 4 == pytest.approx(ours["hessian"][0])
    assert len(set(values)) == 4
