"""Two ranks give the same credit and end with the same weights as one process, also where a group is split between them."""

import os
import subprocess
import sys

import pytest
import torch

from tests import ROOT
from tests.alignment.two_ranks import CREDITS, run

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("credit on two ranks")]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two-ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ended = subprocess.run(
        [*command, "-m", "tests.alignment.two_ranks", str(folder)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    (folder / "log.txt").write_text(ended.stdout + ended.stderr)
    return folder


@pytest.mark.parametrize("name", CREDITS)
def test_two_ranks_give_the_credit_of_one_process(two_ranks, name, tmp_path):
    files = [two_ranks / f"{name}-{rank}.pt" for rank in range(2)]
    assert all(file.exists() for file in files), (two_ranks / "log.txt").read_text()[-3000:]
    first, second = (torch.load(file) for file in files)
    expected = run(name, tmp_path)
    assert expected["generation.ids"].shape[0] == 12
    assert first["generation.ids"].shape[0] == 6, "a group of four is split"
    for key, values in expected.items():
        if key.startswith("generation."):
            width = [part[key].shape[1:] for part in (first, second)]
            padded = [
                torch.nn.functional.pad(part[key], (0, values.shape[1] - size[0])) if size else part[key]
                for part, size in zip((first, second), width, strict=True)
            ]
            torch.testing.assert_close(
                torch.cat(padded), values, msg=lambda words, key=key: f"{key}: {words}"
            )
        else:
            for part in (first, second):
                torch.testing.assert_close(
                    part[key], values, rtol=0, atol=1e-5, msg=lambda words, key=key: f"{key}: {words}"
                )
