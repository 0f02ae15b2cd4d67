"""A race on two CPU processes, as `accelerate launch` starts them: one folder, one record, and the weights of one process."""

import json

import pytest
from safetensors.torch import load_file

from tests.fresh_process import run_ranks
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
    arguments = ("tune", "--config", str(folder / "run.yaml"), "--output", str(folder / "two"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENRY_CACHE", str(folder / "cache"))
        ended = run_ranks("tokenry", *arguments, folder=folder)
        assert [rank.returncode for rank in ended] == [0, 0], ended[0].stderr[-3000:]
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
    two, _, (first, second) = raced
    assert "won" in first.stdout.splitlines()[0]
    assert first.stderr.count("note: a race of 3 weighings") == 1
    assert second.stdout == ""
    assert "note: " not in second.stderr
    assert "%  " not in second.stderr
    assert (two / "report.html").exists()
    assert not list(two.glob("*/checkpoint-*"))
