"""A run that was stopped in any way goes on where it was, and ends as if nothing had happened."""

import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.tiny.chats import sums, write_model, write_rows
from tests.verbs.tune.record import load
from tokenry.cli import app
from tokenry.finetuning import TokenWeighingTrainer
from tokenry.finetuning.trainer import STATE_FILE
from tokenry.verbs._side_by_side import Interrupted
from tokenry.verbs._tune import bench as bench_module
from tokenry.verbs._tune.bench import Bench
from tokenry.verbs._tune.comparison import compare
from tokenry.verbs._tune.plan import make_plan, stored_plan

WEIGHINGS = ("sstoken", "sstoken:history=previous_epoch,warmup_fraction=0")
FOLDERS = ("sstoken", "sstoken-history=previous-epoch-warmup-fraction=0")


class Killed(BaseException):
    """Ends a run as a kill does: nothing is cleaned up. That of a process of its own is in test_race.py."""


def silent(what, share):
    pass


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Two epochs of five steps; dropout draws random numbers, and the samples come in random order."""
    folder = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENRY_CACHE", str(folder / "cache"))
        yield {
            "model": str(write_model(folder / "model")),
            "data": str(write_rows(folder / "data.jsonl", sums(44))),
            "max_length": 96,
            "dtype": "float32",
            "compare": [WEIGHINGS[0]],
            "weighing": WEIGHINGS[1],
            "answers": 0,
            "lora": {"rank": 4, "dropout": 0.2},
            "training": {
                "num_train_epochs": 2,
                "per_device_train_batch_size": 4,
                "gradient_accumulation_steps": 2,
                "learning_rate": 1e-2,
                "save_steps": 2,
                "use_cpu": True,
            },
        }


@pytest.fixture(scope="module")
def uninterrupted(options, tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted")
    return output, compare(make_plan(options), output, silent)


def at_step(patch, step, what):
    """Do something when a step has ended."""
    tell = bench_module.TellSteps.on_step_end

    def act(callback, args, state, control, **kwargs):
        if state.global_step == step:
            what()
        tell(callback, args, state, control, **kwargs)

    patch.setattr(bench_module.TellSteps, "on_step_end", act)


@pytest.fixture(scope="module")
def interrupted(options, tmp_path_factory):
    """Killed in the first epoch of the first run, stopped by Ctrl-C in the second epoch of the second, then finished."""
    output = tmp_path_factory.mktemp("interrupted") / "out put"

    def kill():
        raise Killed

    def press_ctrl_c_in_the_second_run():
        if (output / FOLDERS[0] / "run.json").exists():
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 3, kill)
        with pytest.raises(Killed):
            compare(make_plan(options), output, silent)
    assert [path.name for path in (output / FOLDERS[0]).glob("checkpoint-*")] == ["checkpoint-2"]
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 8, press_ctrl_c_in_the_second_run)
        stopped = CliRunner().invoke(app, ["tune", "--resume", "--output", str(output)])
    assert not (output / FOLDERS[1] / "run.json").exists()
    return output, compare(stored_plan(output / "plan.json"), output, silent), stopped


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_weights_are_those_of_an_uninterrupted_run(uninterrupted, interrupted, folder):
    ours, theirs = (
        load_file(output / folder / "model" / "adapter_model.safetensors")
        for output in (interrupted[0], uninterrupted[0])
    )
    assert ours.keys() == theirs.keys()
    assert any(bool(values.any()) for name, values in ours.items() if "lora_B" in name)
    for name, values in ours.items():
        torch.testing.assert_close(values, theirs[name], rtol=0, atol=0)


def test_the_figures_are_those_of_an_uninterrupted_run(uninterrupted, interrupted):
    for ours, theirs in zip(interrupted[1].runs, uninterrupted[1].runs, strict=True):
        assert ours.held_out_nll == theirs.held_out_nll
        assert ours.paired == theirs.paired
        assert ours.steps == theirs.steps == 10
        assert ours.share_kept == theirs.share_kept
        assert [point["loss"] for point in ours.curves] == [point["loss"] for point in theirs.curves]
        assert [point["step"] for point in ours.curves] == list(range(1, 11))
        assert all(point["seconds_per_step"] > 0 for point in ours.curves)


def test_ctrl_c_says_where_it_stopped_and_how_to_go_on(interrupted):
    output, _, stopped = interrupted
    assert (stopped.exit_code, stopped.stdout) == (1, "")
    assert "Traceback" not in stopped.stderr
    assert stopped.stderr.splitlines()[-1] == (
        "tokenry: stopped after step 8 of 10 of sstoken history=previous_epoch,warmup_fraction=0; what is finished is kept: "
        f"go on with `tokenry tune --resume --output '{output}'`."
    )


def test_ctrl_c_is_heard_at_once(interrupted):
    assert "stopping after this step (Ctrl-C: at once)" in interrupted[2].stderr


def test_nothing_but_what_tokenry_says_reaches_the_terminal(interrupted):
    said = interrupted[2].stderr.splitlines()
    assert all(line[3:6] == "%  " or line.startswith(("note: ", "tokenry: ")) for line in said), said


@pytest.fixture(scope="module")
def one_run(options):
    """The control of the comparison alone."""
    return make_plan({**options, "compare": [], "weighing": WEIGHINGS[0]})


def test_a_run_that_was_stopped_after_training_is_not_trained_again(
    one_run, uninterrupted, tmp_path, monkeypatch
):
    measure = Bench.measure

    def stop_at_the_trained_model(bench, model):
        if (tmp_path / "stopped" / "untrained.json").exists():
            raise KeyboardInterrupt
        return measure(bench, model)

    with monkeypatch.context() as patch:
        patch.setattr(Bench, "measure", stop_at_the_trained_model)
        with pytest.raises(
            Interrupted, match=r"stopped while doing this: sstoken: held-out loss; what is finished is kept"
        ):
            compare(one_run, tmp_path / "stopped", silent)
    monkeypatch.setattr(TokenWeighingTrainer, "training_step", lambda *_, **__: pytest.fail("trained again"))
    (again,) = compare(one_run, tmp_path / "stopped", silent).runs
    assert again.held_out_nll == uninterrupted[1].runs[0].held_out_nll
    assert again.share_kept == uninterrupted[1].runs[0].share_kept
    assert again.seconds_per_step > 0
    assert again.peak_memory_mb is None


def test_a_half_written_checkpoint_is_passed_over(one_run, uninterrupted, tmp_path, monkeypatch):
    def stop():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        at_step(patch, 5, stop)
        with pytest.raises(Interrupted):
            compare(one_run, tmp_path / "stopped", silent)
    newest = max(
        (tmp_path / "stopped" / "sstoken").glob("checkpoint-*"), key=lambda path: path.stat().st_mtime
    )
    (newest / STATE_FILE).unlink()
    (newest / "optimizer.pt").write_bytes(b"half")
    again = compare(one_run, tmp_path / "stopped", silent)
    assert again.runs[0].held_out_nll == uninterrupted[1].runs[0].held_out_nll


def test_ctrl_c_before_anything_was_begun_is_one_sentence_and_exit_code_1(options, tmp_path, monkeypatch):
    def stop(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("tokenry.verbs._tune.comparison.load_tokenizer", stop)
    result = CliRunner().invoke(app, ["tune", options["model"], options["data"], "--output", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert (
        result.stderr.splitlines()[-1] == "tokenry: stopped while doing this: reading the model and the data."
    )


@pytest.mark.parametrize("verb", ["score", "evaluate"])
def test_ctrl_c_in_another_verb_is_one_sentence_and_exit_code_1(options, verb, monkeypatch):
    def stop(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("tokenry.models.load_tokenizer", stop)
    result = CliRunner().invoke(app, [verb, options["data"]])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1] == "tokenry: stopped."


def test_a_record_of_an_interrupted_run_opens_as_any_other(interrupted):
    assert load(interrupted[0] / "result.json") == interrupted[1]
