"""Two ranks learn from the same tokens and end with the same weights as one process: DDP and FSDP2, on two CPU processes."""

import functools
import json
import os
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from filelock import FileLock
from safetensors.torch import load_file

from tests import ROOT
from tests.finetuning.two_ranks import CASES, STRATEGIES, run
from tests.fresh_process import run_ranks

pytestmark = pytest.mark.distributed
CONFIGS = ROOT / "configs" / "accelerate"
RUNS = [
    (strategy, name) for strategy in STRATEGIES for name, case in CASES.items() if strategy in case.strategies
]


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory):
    """Run every case once on two processes, whichever test worker comes first; the folder of what they ended with."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    folder = shared / "two-ranks"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            ended = run_ranks("tests.finetuning.two_ranks", str(folder), folder=folder)
            (folder / "log.txt").write_text("".join(rank.stdout + rank.stderr for rank in ended))
    return folder


@functools.cache
def in_one_process(name):
    with tempfile.TemporaryDirectory() as folder:
        return run(name, Path(folder))


def on_two_ranks(folder, strategy, name):
    """What each rank ended with; fails with what the ranks said, where they failed."""
    for rank in range(2):
        said = folder / f"said-{rank}.json"
        assert said.exists(), (folder / "log.txt").read_text()[-3000:]
        assert json.loads(said.read_text())[f"{strategy} {name}"] == "done"
    return [load_file(folder / f"{strategy} {name}" / f"rank-{rank}.safetensors") for rank in range(2)]


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(
            first[name], second[name], atol=1e-6, rtol=0, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(("strategy", "name"), RUNS, ids=[f"{strategy}-{name}" for strategy, name in RUNS])
def test_two_ranks_choose_and_end_as_one_process_does(two_ranks, record_property, strategy, name):
    record_property("capability", [name, {"ddp": "DDP", "fsdp2": "FSDP2"}[strategy]])
    first, second = on_two_ranks(two_ranks, strategy, name)
    expected = in_one_process(name)
    assert_same(first, expected)
    assert_same(second, expected)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_tokens_on_two_ranks_is_plain_sft_on_two_ranks(two_ranks, strategy):
    plain, _ = on_two_ranks(two_ranks, strategy, "plain")
    ours, _ = on_two_ranks(two_ranks, strategy, "AllTokens")
    assert_same(plain, {name: value for name, value in ours.items() if name.startswith("model.")})


@pytest.mark.parametrize(
    ("strategy", "name"), [run for run in RUNS if run[1].startswith(("SSToken", "SmallLoss"))]
)
def test_both_ranks_know_what_the_other_chose(two_ranks, strategy, name):
    first, second = on_two_ranks(two_ranks, strategy, name)
    assert torch.equal(first["store.weight"].isnan(), second["store.weight"].isnan())
    kept = first["store.weight"][~first["store.weight"].isnan()]
    assert 0.5 < float((kept == 1).float().mean()) < 0.8


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "deepspeed_zero2"])
def test_accelerate_reads_the_configs(name):
    path = CONFIGS / f"{name}.yaml"
    written, read = yaml.safe_load(path.read_text()), load_config_from_file(str(path)).to_dict()
    assert {key: read[key] for key in written} == written
    assert read["num_processes"] == 8
