"""A race by `accelerate launch` on two CPU processes: one folder, one record, and the weights of one process."""

import json
import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from tests import ROOT
from tests.tiny.chats import sums, write_model, write_rows
from tests.verbs.tune.record import load
from tokenry.verbs._side_by_side import folder_name
from tokenry.verbs._tune.comparison import compare
from tokenry.verbs._tune.plan import make_plan

pytestmark = pytest.mark.distributed
TRAINING = {
    "num_train_epochs": 3,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "save_steps": 0.5,
    "use_cpu": True,
}


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """The same race on two processes and on one, with batches of the same samples; the folders, and what the two said."""
    folder = tmp_path_factory.mktemp("ranks")
    options = {
        "model": str(write_model(folder / "model")),
        "data": str(write_rows(folder / "data.jsonl", sums(97))),
        "max_length": 96,
        "dtype": "float32",
        "answers": 0,
        "retain": [
            str(write_rows(folder / "prose.jsonl", [{"text": "What is it? It is."}, {"text": "It is it."}]))
        ],
        "lora": {"rank": 4, "dropout": 0.0},
        "candidates": ["small-loss", "random"],
    }
    (folder / "run.yaml").write_text(
        json.dumps({**options, "training": {**TRAINING, "per_device_train_batch_size": 4}})
    )
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
    ]
    command += ["-m", "tokenry", "tune", "--config", folder / "run.yaml", "--output", folder / "two"]
    ended = subprocess.run(
        [*map(str, command)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENRY_CACHE": str(folder / "cache")},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENRY_CACHE", str(folder / "cache-of-one"))
        plan = make_plan({**options, "training": {**TRAINING, "per_device_train_batch_size": 8}})
        compare(plan, folder / "one", lambda what, share: None)
    return folder / "two", folder / "one", ended


def test_two_processes_end_with_the_weights_of_one(raced):
    two, one, _ = raced
    ours, theirs = (load(folder / "result.json") for folder in (two, one))
    assert [run.name for run in ours.runs] == [run.name for run in theirs.runs]
    assert ours.race.winner == theirs.race.winner
    for run, other in zip(ours.runs, theirs.runs, strict=True):
        assert (run.steps, run.share_kept) == (other.steps, pytest.approx(other.share_kept))
        weights = [
            load_file(folder / folder_name(run.name) / "model" / "adapter_model.safetensors")
            for folder in (two, one)
        ]
        assert weights[0].keys() == weights[1].keys()
        for name, values in weights[0].items():
            assert float((values - weights[1][name]).abs().max()) < 1e-6, name


def test_the_race_is_judged_alike(raced):
    ours, theirs = (load(folder / "result.json").race for folder in raced[:2])
    assert ours.heats
    assert [heat.leader for heat in ours.heats] == [heat.leader for heat in theirs.heats]
    assert ours.spent == theirs.spent
    for heat, other in zip(ours.heats, theirs.heats, strict=True):
        for row, same in zip(heat.judged, other.judged, strict=True):
            assert (row.name, row.out, row.nll.value) == (
                same.name,
                same.out,
                pytest.approx(same.nll.value, abs=1e-5),
            )


def test_one_process_writes_and_speaks(raced):
    two, _, ended = raced
    assert ended.stdout.count("won, over 1 seed") + ended.stdout.count(" won: ") == 1
    assert ended.stderr.count("note: a race of 3 weighings") == 1
    assert (two / "report.html").exists()
    assert not list(two.glob("*/checkpoint-*"))
