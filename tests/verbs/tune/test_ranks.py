"""A race on two CPU processes, as `accelerate launch` starts them: one folder, one record, and the weights of one process.

Under DDP both processes are killed in the midst of the race, and started again. Under FSDP2 the two that were left run again, each
from a checkpoint of the steps that they have in common.
"""

import json
import time

import pytest
from safetensors.torch import load_file

from tests.fresh_process import run_ranks, start_ranks
from tests.tiny.chats import sums, write_model, write_rows
from tests.verbs.tune.record import load
from tokenry.verbs._side_by_side import folder_name
from tokenry.verbs._tune.comparison import compare
from tokenry.verbs._tune.plan import make_plan

pytestmark = [pytest.mark.distributed, pytest.mark.newer("transformers")]
TRAINING = {
    "num_train_epochs": 3,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "save_steps": 0.5,
    "use_cpu": True,
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """The plan of a race in a file, for batches of the same samples on two processes and on one, and a folder for all of it."""
    folder = tmp_path_factory.mktemp("ranks")
    options = {
        "model": str(write_model(folder / "model")),
        "data": str(write_rows(folder / "data.jsonl", sums(64))),
        "max_length": 96,
        "dtype": "float32",
        "answers": 2,
        "retain": [
            str(write_rows(folder / "prose.jsonl", [{"text": "What is it? It is."}, {"text": "It is it."}]))
        ],
        "lora": {"rank": 4, "dropout": 0.0},
        "candidates": ["small-loss", "random"],
    }
    (folder / "run.yaml").write_text(
        json.dumps({**options, "training": {**TRAINING, "per_device_train_batch_size": 4}})
    )
    plan = make_plan({**options, "training": {**TRAINING, "per_device_train_batch_size": 8}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENRY_CACHE", str(folder / "cache"))
        yield folder, plan


@pytest.fixture(scope="module")
def one(desk):
    """The race in one process."""
    folder, plan = desk
    compare(plan, folder / "one", lambda what, share: None)
    return folder / "one"


@pytest.fixture(scope="module")
def ddp(desk):
    """The race under DDP, killed once two entries are judged, and resumed; what was said before, and what each rank said then."""
    folder, _ = desk
    arguments = ("tune", "--config", str(folder / "run.yaml"), "--output", str(folder / "ddp"))
    said = folder / "killed" / "rank-0" / "stderr"
    ranks = start_ranks("tokenry", *arguments, folder=folder / "killed")
    while len(list((folder / "ddp").glob("*/rung-*.json"))) < 2:
        assert all(rank.is_alive() for rank in ranks), said.read_text()[-3000:]
        time.sleep(0.01)
    for rank in ranks:
        rank.kill()
        rank.join()
    assert not (folder / "ddp" / "result.json").exists()
    ended = run_ranks("tokenry", *arguments, "--resume", folder=folder / "resumed")
    assert [rank.returncode for rank in ended] == [0, 0], ended[0].stderr[-3000:]
    return said.read_text(), *ended


@pytest.fixture(scope="module")
def fsdp2(desk, one):
    """The end of the race under FSDP2."""
    folder, _ = desk
    left = load(one / "result.json").race.final.name.partition(" after ")[0]
    arguments = (
        "--config",
        str(folder / "run.yaml"),
        "--candidates",
        left,
        "--output",
        str(folder / "fsdp2"),
    )
    ended = run_ranks("tests.verbs.tune.sharded", "tune", *arguments, folder=folder / "sharded")
    assert [rank.returncode for rank in ended] == [0, 0], ended[0].stderr[-3000:]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_end_with_the_weights_of_one(desk, one, strategy, request):
    request.getfixturevalue(strategy)
    two = desk[0] / strategy
    ours, theirs = (load(folder / "result.json") for folder in (two, one))
    assert [run.name for run in ours.runs] == [run.name for run in theirs.runs]
    assert ours.race.winner == theirs.race.winner
    for run, other in zip(ours.runs, theirs.runs, strict=True):
        assert (run.steps, run.share_kept) == (other.steps, pytest.approx(other.share_kept))
        assert run.held_out_nll.value == pytest.approx(other.held_out_nll.value, abs=1e-6)
        assert run.answers == other.answers
        weights = [
            load_file(folder / folder_name(run.name) / "model" / "adapter_model.safetensors")
            for folder in (two, one)
        ]
        assert weights[0].keys() == weights[1].keys()
        for name, values in weights[0].items():
            assert float((values - weights[1][name]).abs().max()) < 1e-6, name


def test_the_race_is_judged_alike(desk, ddp, one):
    ours, theirs = (load(folder / "result.json").race for folder in (desk[0] / "ddp", one))
    assert ours.heats
    assert [heat.leader for heat in ours.heats] == [heat.leader for heat in theirs.heats]
    assert ours.spent == theirs.spent
    for heat, other in zip(ours.heats, theirs.heats, strict=True):
        for row, same in zip(heat.judged, other.judged, strict=True):
            assert (row.name, row.out, row.nll.value) == (
                same.name,
                same.out,
                pytest.approx(same.nll.value, abs=1e-6),
            )


def test_one_process_writes_and_speaks(desk, ddp):
    folder, (started, first, second) = desk[0] / "ddp", ddp
    assert started.count("note: a race of 3 weighings") == 1
    assert "won" in first.stdout.splitlines()[0]
    assert second.stdout == ""
    assert [line for line in second.stderr.splitlines() if "find_unused_parameters" not in line] == []
    assert (folder / "report.html").exists()
    assert not list(folder.glob("*/checkpoint-*"))
