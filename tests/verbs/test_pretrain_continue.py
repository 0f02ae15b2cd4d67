"""`tokenry pretrain continue`: a model goes on with new text, both losses are measured on the way, and a stopped run is resumed."""

import json

import pytest
import torch

from tests.fresh_process import run_ranks
from tests.tiny.chats import sums, write_model, write_rows
from tests.verbs.check_verb import check_refused, check_verb, tokenry
from tokenry.models import load_model
from tokenry.pretraining import continual
from tokenry.verbs.pretrain import continue_

SMALL = ("--block", 16, "--held-out", 3, "--batch-size", 2, "--device", "cpu", "--max-lr", 1e-2)
OLD = [f"The answer to question {number} is {number * 7}." for number in range(40)]
NEW = [f"def answer_{number}():\n    return {number * 3}" for number in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    write_model(folder / "model")
    (folder / "new.txt").write_text("\n\n".join(NEW), encoding="utf-8")
    write_rows(folder / "old.jsonl", [{"text": text} for text in OLD])
    write_rows(folder / "chats.jsonl", sums(30))
    return folder


def arguments(folder, *options):
    return (folder / "model", folder / "new.txt", "--old", folder / "old.jsonl", *SMALL, *options)


def ran(output, *given):
    result = tokenry("pretrain continue", *given, "--output", output, "--quiet")
    assert result.exit_code == 0, result.output
    return json.loads((output / "result.json").read_text())


def test_a_model_goes_on_with_new_text(folder, tmp_path):
    saved = check_verb(
        "pretrain continue",
        *arguments(folder, "--replay", 0.25, "--steps", 12, "--evaluate-every", 4),
        output=tmp_path / "run",
    )
    main = saved["runs"][0]
    assert (main["name"], saved["steps"], saved["tokens"]) == ("rewarm", 12, 12 * 2 * 16)
    assert [point["step"] for point in main["points"]] == [0, 4, 8, 12]
    assert main["adaptation"]["value"] > 0.2
    assert main["adaptation"]["value"] == pytest.approx(main["points"][0]["downstream"] - main["new_loss"])
    assert main["forgetting"]["blocks"] == saved["blocks"]["old"]["held_out"]
    assert max(main["schedule"]["lr"]) == main["max_lr"] == pytest.approx(0.01)
    assert not list((tmp_path / "run/checkpoints/rewarm").glob("checkpoint-*"))
    before, after = (load_model(where) for where in (folder / "model", tmp_path / "run/model"))
    assert not torch.equal(before.model.embed_tokens.weight, after.model.embed_tokens.weight)
    check_refused(
        "pretrain continue", *arguments(folder), "--output", tmp_path / "run", words="model exists already"
    )


def test_schedules_are_compared_on_the_same_batches(folder, tmp_path):
    saved = check_verb(
        "pretrain continue",
        *arguments(folder, "--grid", "--steps", 6, "--schedule", "infinite", "--anneal", 0),
        output=tmp_path / "run",
    )
    assert [run["name"] for run in saved["runs"]] == [
        "infinite",
        "half the rate",
        "twice the rate",
        "constant minimum",
    ]
    assert [run["max_lr"] for run in saved["runs"]] == pytest.approx([0.01, 0.005, 0.02, 0.001])
    assert len({run["points"][0]["upstream"] for run in saved["runs"]}) == 1
    said = " ".join(tokenry("report", tmp_path / "run").stdout.split())
    assert "best on the new text is " in said
    assert "it has not been lowered" in said


def test_without_old_text_forgetting_is_not_measured(folder, tmp_path):
    given = (folder / "model", folder / "chats.jsonl", *SMALL, "--steps", 2)
    saved = ran(tmp_path / "run", *given)
    assert saved["blocks"]["old"] is None
    assert saved["runs"][0]["forgetting"]["value"] is None
    assert "Forgetting was not measured" in tokenry("report", tmp_path / "run").stdout


@pytest.mark.distributed
def test_two_ranks_go_on_as_one_process_does(folder, tmp_path):
    options = ("--replay", 0.25, "--steps", 4, "--evaluate-every", 2)
    whole = ran(tmp_path / "whole", *arguments(folder, *options, "--batches-per-step", 2))
    given = map(str, ("pretrain", "continue", *arguments(folder, *options), "--output", tmp_path / "ranks"))
    ended = run_ranks("tokenry", *given, folder=tmp_path / "said")
    assert [rank.returncode for rank in ended] == [0, 0], "".join(rank.stderr for rank in ended)[-3000:]
    found = json.loads((tmp_path / "ranks/result.json").read_text())
    for side in ("downstream", "upstream"):
        expected = [point[side] for point in whole["runs"][0]["points"]]
        assert [point[side] for point in found["runs"][0]["points"]] == pytest.approx(expected, abs=1e-5)
    one, two = (load_model(tmp_path / name / "model").state_dict() for name in ("whole", "ranks"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-5, rtol=0)
    assert not list((tmp_path / "ranks/checkpoints/rewarm").glob("checkpoint-*"))


def test_a_stopped_run_is_resumed(folder, tmp_path, monkeypatch):
    options = ("--steps", 8, "--save-every", 2, "--evaluate-every", 2)
    whole = ran(tmp_path / "whole", *arguments(folder, *options))
    evaluate = continual.block_losses
    calls = []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 9:  # both sides before, after 2, 4 and 6 steps
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(continual, "block_losses", interrupted)
    stopped = tokenry(
        "pretrain continue", *arguments(folder, *options), "--output", tmp_path / "run", "--quiet"
    )
    assert stopped.exit_code != 0
    monkeypatch.undo()
    check_refused(
        "pretrain continue",
        *arguments(folder, *options),
        "--output",
        tmp_path / "run",
        words="holds a training that was begun: resume it (--resume)",
    )
    resumed = ran(tmp_path / "run", *arguments(folder, *options), "--resume")
    assert resumed["runs"] == whole["runs"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--replay", 1.5), "replay must be in [0, 1], got 1.5"),
        (("--warmup", -0.1), "warmup must be in [0, 1], got -0.1"),
        (("--warmup", 1.1), "warmup must be in [0, 1], got 1.1"),
        (("--max-lr", 0), "max-lr must be above 0, got 0.0"),
        (("--min-lr", -1e-4), "min-lr must be at least 0, got -0.0001"),
        (("--min-lr", 0.1), "min-lr must be at most --max-lr, got 0.1 and 0.01"),
        (("--start-lr", 0.1), "start-lr must be at most --max-lr, got 0.1 and 0.01"),
        (("--steps", 0), "steps must be at least 1, got 0"),
        (("--block", 1), "block must be at least 2, got 1"),
        (("--batch-size", 500), "the text is too short for one step of 500 blocks"),
        (("--decay-end", 500), "lies beyond the data, which last for"),
        (("--schedule", "infinite", "--steps", 10, "--anneal", 9), "the phases must end one after the other"),
        (("--block", 100_000), "tokens are too few for a block of 100000"),
    ],
)
def test_what_cannot_be_is_refused(options, words, folder, tmp_path):
    check_refused(
        "pretrain continue", *arguments(folder, *options), "--output", tmp_path / "run", words=words
    )


def test_replay_needs_old_text(folder):
    check_refused(
        "pretrain continue",
        folder / "model",
        folder / "new.txt",
        "--replay",
        0.05,
        words="replay 0.05 needs text to replay: name it (--old)",
    )


def test_a_single_text_cannot_be_held_out(folder, tmp_path):
    (tmp_path / "one.txt").write_text("word " * 200)
    check_refused(
        "pretrain continue",
        folder / "model",
        tmp_path / "one.txt",
        *SMALL,
        words="holds 1 text, none of which can be held out",
    )


def test_a_stored_result_is_drawn_as_it_was(folder):
    blocks = continue_.lay_out(json.loads(json.dumps(stored())))
    assert "at most 0.300 above the beginning" in blocks[0].text


def stored():
    point = {"upstream": 2.0, "downstream": 3.0}
    run = {
        "name": "rewarm",
        "max_lr": 1e-3,
        "last_lr": 1e-4,
        "new_loss": 2.5,
        "old_loss": 2.2,
        "adaptation": {"value": 0.5, "standard_error": 0.1, "blocks": 8},
        "forgetting": {"value": 0.2, "standard_error": 0.1, "blocks": 8},
        "max_forgetting": 0.3,
        "schedule": {"steps": [0, 1], "lr": [1e-3, 1e-4]},
        "points": [{"step": 0} | point, {"step": 1} | point],
    }
    return {"runs": [run], "steps": 1, "tokens": 64, "blocks": {"old": {}}, "notes": []}
