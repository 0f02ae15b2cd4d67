"""A race on a tiny model: what is trained, what is gone on from, what a killed race remembers, and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from tests.tiny.chats import sums, write_model, write_rows
from tests.verbs.check_verb import too_wide
from tests.verbs.tune.record import load
from tokenry.core.errors import UserError
from tokenry.finetuning import TokenWeighingTrainer
from tokenry.verbs._side_by_side import folder_name
from tokenry.verbs._tune.bench import Bench
from tokenry.verbs._tune.candidates import CONTROL
from tokenry.verbs._tune.comparison import compare
from tokenry.verbs._tune.plan import make_plan

CANDIDATES = ["small-loss", "sstoken:history=previous_epoch,balance=1", "random"]
TRAINING = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-2,
    "use_cpu": True,
    "warmup_steps": 0,
}


def silent(what, share):
    pass


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENRY_CACHE", str(folder / "cache"))
        yield {
            "model": str(write_model(folder / "model")),
            "data": str(write_rows(folder / "data.jsonl", sums(96))),
            "max_length": 96,
            "dtype": "float32",
            "answers": 2,
            "lora": {"rank": 4, "dropout": 0.2},
            "candidates": CANDIDATES,
            "training": TRAINING,
        }


@pytest.fixture(scope="module")
def raced(options, tmp_path_factory):
    """A race that was not disturbed, and how many steps each weighing trained."""
    output, steps = tmp_path_factory.mktemp("raced"), {}
    train = TokenWeighingTrainer.training_step

    def counted(trainer, *arguments, **options):
        folder = os.path.basename(trainer.args.output_dir)  # noqa: PTH119
        steps[folder] = steps.get(folder, 0) + 1
        return train(trainer, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenWeighingTrainer, "training_step", counted)
        return output, compare(make_plan(options), output, silent), steps


def test_the_control_is_never_dropped_and_one_is_left_beside_it(raced):
    race = raced[1].race
    assert race.control == CONTROL
    assert set(race.entries) == {
        CONTROL,
        *(name for heat in race.heats for name in [row.name for row in heat.judged]),
    }
    assert len(race.heats[0].judged) == 4
    assert all(CONTROL in [row.name for row in heat.judged if not row.out] for heat in race.heats)
    assert raced[1].runs[0].name == CONTROL
    assert race.winner in {run.name for run in raced[1].runs}


def test_what_all_have_in_common_is_trained_once_and_survivors_are_resumed(raced):
    _, comparison, steps = raced
    race = comparison.race
    total = comparison.runs[0].steps
    assert total == 30
    decays = sum(heat.decay for heat in race.heats)
    assert steps["full"] == total + decays
    for heat in race.heats:
        for row in heat.judged:
            if row.out and row.name != CONTROL:
                folder = next(
                    name for name in steps if name.startswith(row.name.split()[0]) and name != "full"
                )
                assert steps[folder] <= heat.step - race.begins + decays


def test_the_rate_is_constant_through_all_legs_and_falls_to_zero_at_the_end(raced):
    for run in raced[1].runs:
        rates = [point["learning_rate"] for point in run.curves]
        assert len(rates) == 30
        assert rates[:21] == [1e-2] * 21
        assert rates[20:] == sorted(rates[20:], reverse=True)
        assert 0 < rates[-1] < 2e-3


def test_the_price_is_kept(raced):
    race = raced[1].race
    assert race.spent <= race.price <= 2.5


def test_the_race_is_judged_on_samples_that_are_neither_trained_on_nor_reported(raced):
    output, comparison, _ = raced
    judged = json.loads((output / "full" / f"rung-{comparison.race.heats[0].step}.json").read_text())["items"]
    held_out = json.loads((output / "full" / "held_out.json").read_text())["items"]
    assert comparison.race.validation == len(judged) == 8
    assert comparison.race.robust
    assert len(held_out) == 9


def test_forgetting_and_answers_are_in_the_record(raced):
    for run in raced[1].runs:
        (retained,) = run.retained
        assert retained.name == "Python's documentation"
        assert retained.paired.difference == pytest.approx(
            retained.after.value - retained.before.value, abs=1e-6
        )
        assert [answer.question for answer in run.answers] == [
            answer.question for answer in raced[1].runs[0].answers
        ]


def test_no_state_of_a_race_is_left(raced):
    assert not list(raced[0].glob("*/checkpoint-*"))


SLOWLY = """
import runpy, time
from tokenry.finetuning.interruption import StopAfterStep
StopAfterStep.on_step_begin = lambda *_, **__: time.sleep(0.05)
runpy.run_module("tokenry", run_name="__main__")
"""


def test_a_race_that_was_killed_ends_as_if_nothing_had_happened(options, raced, tmp_path):
    import yaml

    output = tmp_path / "killed"
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(options))
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, "tune", "--config", tmp_path / "run.yaml", "--output", output],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = f"rung-{raced[1].race.heats[0].step}.json"
    while len(list(output.glob(f"*/{first}"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    said = process.communicate()[1]
    assert "it costs at most" in said
    assert not (output / "result.json").exists()
    again = compare(make_plan(options), output, silent)
    assert again.race.heats == raced[1].race.heats
    for ours, theirs in zip(again.runs, raced[1].runs, strict=True):
        assert (ours.name, ours.held_out_nll, ours.paired) == (
            theirs.name,
            theirs.held_out_nll,
            theirs.paired,
        )
        weights = [
            load_file(folder / folder_name(ours.name) / "model" / "adapter_model.safetensors")
            for folder in (output, raced[0])
        ]
        assert all(bool((weights[0][name] == values).all()) for name, values in weights[1].items())


def test_the_command_line_races_by_default_and_leads_with_the_outcome(options, desk, tmp_path):
    arguments = ["--max-length", "96", "--dtype", "float32", "--set", "answers=2", "--candidates", "random"]
    for name, value in TRAINING.items():
        arguments += ["--set", f"{name}={str(value).lower()}"]
    trusted = write_rows(tmp_path / "trusted.jsonl", sums(24, seed=9))
    output = tmp_path / "output"
    planned = desk.tokenry(
        "tune",
        options["model"],
        options["data"],
        *arguments,
        "--trusted",
        trusted,
        "--output",
        output,
        "--dry-run",
    )
    assert planned.exit_code == 0, planned.stderr
    assert "Nothing was trained." in planned.stdout
    assert "price in plain runs, at most" in planned.stdout
    assert not (output / "plan.json").exists()
    result = desk.tokenry(
        "tune",
        options["model"],
        options["data"],
        *arguments,
        "--trusted",
        trusted,
        "--output",
        output,
        "--seeds",
        "2",
    )
    assert result.exit_code == 0, result.stderr
    assert "won" in result.stdout.splitlines()[0]
    assert "note: a race of 2 weighings: it costs at most" in result.stderr
    record = load(output / "result.json")
    assert not record.race.robust
    assert record.race.validation == 8
    assert record.race.heats == []
    assert too_wide(result.stdout) == []
    assert sorted(path.suffix for path in (output / "tables").iterdir()) == [".csv"] * len(
        list((output / "tables").iterdir())
    )
    page = (output / "report.html").read_text()
    assert "The race" in page
    changed = desk.tokenry("tune", "--output", output, "--resume", "--candidates", "small-loss")
    assert changed.exit_code == 2
    assert "was made with" in changed.stderr
    assert "candidates" in changed.stderr


def test_seeds_run_the_winner_and_the_control_again(options, tmp_path, monkeypatch):
    trained = []
    run = Bench.run

    def noted(bench, name):
        trained.append((bench.plan.seed, name))
        return run(bench, name)

    monkeypatch.setattr(Bench, "run", noted)
    plan = make_plan(
        {
            **options,
            "weighing": "random",
            "candidates": None,
            "seeds": 2,
            "training": {**TRAINING, "max_steps": 2},
        }
    )
    seeds = compare(plan, tmp_path, silent).seeds
    assert trained == [(42, "full"), (42, "random"), (43, "random"), (43, "full")]
    assert (seeds.seeds, seeds.name, seeds.estimate.samples) == ([42, 43], "random", 2)
    assert seeds.estimate.value == pytest.approx(sum(found.difference for found in seeds.paired) / 2)
    assert seeds.estimate.standard_error >= min(found.standard_error for found in seeds.paired) / 2


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"candidates": ["smal-loss"]}, r"there is no weighing 'smal-loss' \(did you mean 'small-loss'\?\)"),
        ({"candidates": ["token-cleaning", "rho1"]}, "compare with a reference model: give --trusted"),
        ({"seeds": 0}, "seeds is not right: input should be greater than or equal to 1, got 0"),
        ({"weighing": "random"}, "candidates race under --weighing auto only, and random was asked for"),
        (
            {"training": {**TRAINING, "lr_scheduler_type": "cosine"}},
            "a race needs a schedule of its own, which branches",
        ),
    ],
)
def test_what_cannot_be_raced_is_refused(options, tmp_path, said, words):
    with pytest.raises(UserError, match=words):
        compare(make_plan({**options, **said}), tmp_path, silent)


def test_data_that_are_trained_on_cannot_be_forgotten(options, tmp_path):
    retain = write_rows(tmp_path / "retain.jsonl", sums(96)[:40])
    with pytest.raises(UserError, match=r"of 40 samples of .*retain.jsonl are in the training data"):
        compare(make_plan({**options, "retain": [str(retain)]}), tmp_path / "output", silent)


def test_few_samples_are_not_raced_with(options, tmp_path):
    data = write_rows(tmp_path / "data.jsonl", sums(30))
    plan = make_plan({**options, "data": str(data), "training": {**TRAINING, "max_steps": 1}})
    comparison = compare(plan, tmp_path / "output", silent)
    assert [run.name for run in comparison.runs] == [CONTROL]
    assert comparison.race is None
    assert "a race needs at least 40 samples" in comparison.notes[0]
