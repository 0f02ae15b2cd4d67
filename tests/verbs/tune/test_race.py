"""A race on a tiny model: what is trained, what is gone on from, what a killed race remembers, and what is refused."""

import json
import os
import re

import pytest
from datasets import Dataset
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.tiny.chats import sums, write_model, write_rows
from tests.verbs.check_verb import too_wide
from tests.verbs.tune.record import load
from tokenry.cli import app
from tokenry.core.chat.conversations import Encoding
from tokenry.core.errors import UserError
from tokenry.finetuning import TokenWeighingTrainer
from tokenry.verbs._side_by_side import folder_name
from tokenry.verbs._tune.candidates import CONTROL
from tokenry.verbs._tune.comparison import compare
from tokenry.verbs._tune.plan import make_plan
from tokenry.verbs._tune.retained import refuse_overlap

CANDIDATES = ["small-loss", "sstoken:history=previous_epoch,balance=1", "random"]
BESIDE = "random:share=0.5"
PROSE = [{"text": "What is it? It is the answer."}, {"text": "What is the answer? It is it."}]
TRAINING = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-2,
    "use_cpu": True,
    "warmup_steps": 0,
    "save_steps": 0.5,
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
            "data": str(write_rows(folder / "data.jsonl", sums(64))),
            "max_length": 96,
            "dtype": "float32",
            "answers": 2,
            "retain": [str(write_rows(folder / "prose.jsonl", PROSE))],
            "lora": {"rank": 4, "dropout": 0.2},
            "candidates": CANDIDATES,
            "compare": ["full", BESIDE],
            "training": TRAINING,
        }


@pytest.fixture(scope="module")
def raced(options, tmp_path_factory):
    """A race that was not disturbed, with a weighing trained beside it: its folder, record, steps of each weighing, and progress."""
    output, steps, said = tmp_path_factory.mktemp("raced"), {}, []
    train = TokenWeighingTrainer.training_step

    def counted(trainer, *arguments, **options):
        folder = os.path.basename(trainer.args.output_dir)  # noqa: PTH119
        steps[folder] = steps.get(folder, 0) + 1
        return train(trainer, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenWeighingTrainer, "training_step", counted)
        comparison = compare(
            make_plan(options), output, lambda what, share: said.append((what.partition(" · ")[0], share))
        )
        return output, comparison, steps, said


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
    _, comparison, steps, _ = raced
    race = comparison.race
    total = comparison.runs[0].steps
    assert total == 18
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
        assert len(rates) == 18
        assert rates[:13] == [1e-2] * 13
        assert rates[12:] == sorted(rates[12:], reverse=True)
        assert 0 < rates[-1] < 2e-3


def test_the_price_is_kept(raced):
    race = raced[1].race
    assert race.spent <= race.price <= 2.5


def test_progress_leaves_room_for_what_is_trained_beside_the_race(raced):
    shares = [share for _, share in raced[3]]
    assert shares == sorted(shares)
    began = dict(raced[3][::-1])  # of each stage, the share when it began
    assert (
        began["random share=0.5"] < 0.8
    )  # a third of all, or less than that where the race was cheaper than its price
    assert shares[-2] > 0.85


def test_the_plan_of_a_weighing_is_readable(raced):
    for described in raced[1].race.entries.values():
        assert not re.search(r"\d\.\d{6}", described), described


def test_the_race_is_judged_on_samples_that_are_neither_trained_on_nor_reported(raced):
    output, comparison, *_ = raced
    judged = json.loads((output / "full" / f"rung-{comparison.race.heats[0].step}.json").read_text())["items"]
    held_out = json.loads((output / "full" / "held_out.json").read_text())["items"]
    assert comparison.race.validation == len(judged) == 8
    assert comparison.race.robust
    assert len(held_out) == 8


def test_forgetting_and_answers_are_in_the_record(raced):
    for run in raced[1].runs:
        (retained,) = run.retained
        assert retained.name.endswith("prose.jsonl")
        assert retained.paired.difference == pytest.approx(
            retained.after.value - retained.before.value, abs=1e-6
        )
        assert [answer.question for answer in run.answers] == [
            answer.question for answer in raced[1].runs[0].answers
        ]


def test_no_state_of_a_race_is_left(raced):
    assert not list(raced[0].glob("*/checkpoint-*"))


class Killed(BaseException):
    """Ends a race as a kill does: nothing is cleaned up. That of processes of their own is in test_ranks.py."""


def test_a_race_that_was_killed_ends_as_if_nothing_had_happened(options, raced, tmp_path):
    output = tmp_path / "killed"
    first = f"rung-{raced[1].race.heats[0].step}.json"
    train = TokenWeighingTrainer.training_step

    def killed(trainer, *arguments, **options):
        if (
            len(list(output.glob(f"*/{first}"))) == 2
            and trainer.state.global_step >= raced[1].race.begins + 1
        ):
            raise Killed
        return train(trainer, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenWeighingTrainer, "training_step", killed)
        with pytest.raises(Killed):
            compare(make_plan(options), output, silent)
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


@pytest.fixture(scope="module")
def by_command(options, tmp_path_factory):
    """A race of one candidate with trusted samples and two seeds, planned and then run."""
    folder = tmp_path_factory.mktemp("by-command")
    trusted = write_rows(folder / "trusted.jsonl", sums(24, seed=9))
    arguments = [
        "tune",
        options["model"],
        options["data"],
        "--trusted",
        trusted,
        "--output",
        folder / "output",
    ]
    arguments += ["--max-length", "96", "--dtype", "float32", "--candidates", "random", "--seeds", "2"]
    for name, value in {"answers": 2, **TRAINING, "max_steps": 6}.items():
        arguments += ["--set", f"{name}={str(value).lower()}"]
    planned = invoke(*arguments, "--dry-run")
    assert not (folder / "output" / "plan.json").exists()
    return folder / "output", planned, invoke(*arguments)


def invoke(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_a_dry_run_says_what_it_would_cost_and_trains_nothing(by_command):
    planned = by_command[1]
    assert planned.exit_code == 0, planned.stderr
    assert "Nothing was trained." in planned.stdout
    assert "price in plain runs, at most" in planned.stdout


def test_the_command_line_races_by_default_and_leads_with_the_outcome(by_command):
    output, _, result = by_command
    assert result.exit_code == 0, result.stderr
    assert "won" in result.stdout.splitlines()[0]
    assert "note: a race of 2 weighings: it costs at most" in result.stderr
    said = [line for line in result.stderr.splitlines() if line[3:6] != "%  "]
    assert all(line.startswith(("note: ", "written: ")) for line in said), said
    assert too_wide(result.stdout) == []
    tables = [*(output / "tables").iterdir()]
    assert tables
    assert {path.suffix for path in tables} == {".csv"}
    assert "The race" in (output / "report.html").read_text()
    assert [found.name for found in load(output / "result.json").runs[0].retained] == [
        "Python's documentation"
    ]


def test_a_third_of_the_trusted_samples_judges_and_without_a_reference_the_others_are_trained_on(by_command):
    race = load(by_command[0] / "result.json").race
    assert (race.robust, race.validation, race.heats) == (False, 8, [])
    assert race.trusted == {"training": 16, "the reference model": 0, "judging": 8}


def test_seeds_compare_plain_fine_tuning_with_the_runner_up_where_it_wins(by_command):
    record = load(by_command[0] / "result.json")
    assert record.race.winner == CONTROL  # six steps at random do not beat it
    seeds = record.seeds
    assert (seeds.name, seeds.to, seeds.seeds) == (record.race.final.name, CONTROL, [42, 43])
    assert seeds.estimate.samples == 2
    assert seeds.estimate.value == pytest.approx(sum(found.difference for found in seeds.paired) / 2)
    assert seeds.estimate.standard_error >= min(found.standard_error for found in seeds.paired) / 2
    assert (by_command[0] / "seed-43" / "full" / "run.json").exists()
    assert "Over 2 seeds it is at" in " ".join(by_command[2].stdout.split())
    assert record.chosen == CONTROL


def test_another_list_of_candidates_is_no_resumption(by_command):
    changed = invoke("tune", "--output", by_command[0], "--resume", "--candidates", "small-loss")
    assert changed.exit_code == 2
    assert "was made with --candidates ['random'], not ['small-loss']" in " ".join(changed.stderr.split())


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"candidates": ["smal-loss"]}, r"there is no weighing 'smal-loss' \(did you mean 'small-loss'\?\)"),
        (
            {"candidates": ["token-cleaning", "rho1"]},
            r"rho1, token-cleaning cannot race: there is no reference model to compare with: give --trusted",
        ),
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
    retain = write_rows(tmp_path / "retain.jsonl", sums(64)[:40])
    with pytest.raises(UserError, match=r"of 40 samples of .*retain.jsonl are in the training data"):
        compare(make_plan({**options, "retain": [str(retain)]}), tmp_path / "output", silent)


@pytest.mark.parametrize(("known", "refused"), [(1, False), (2, True)])
def test_a_hundredth_of_what_is_retained_may_be_in_the_training_data(known, refused):
    rows = [[number] for number in range(100)]
    retained = Encoding(Dataset.from_dict({"input_ids": rows}), (), tuple(range(100)))
    train = Dataset.from_dict({"input_ids": [*rows[:known], [200]]})
    if not refused:
        refuse_overlap(retained, train, "r.jsonl")
        return
    with pytest.raises(
        UserError, match=r"2 of 100 samples of r.jsonl are in the training data, where nothing is forgotten"
    ):
        refuse_overlap(retained, train, "r.jsonl")


def test_few_samples_are_not_raced_with(options, tmp_path):
    data = write_rows(tmp_path / "data.jsonl", sums(30))
    said = {"data": str(data), "seeds": 2, "compare": ["full"], "training": {**TRAINING, "max_steps": 1}}
    comparison = compare(make_plan({**options, **said}), tmp_path / "output", silent)
    assert [run.name for run in comparison.runs] == [CONTROL]
    assert (comparison.race, comparison.seeds, comparison.chosen) == (None, None, CONTROL)
    assert "a race needs at least 40 samples" in comparison.notes[0]
    assert (
        "--seeds 2 trained nothing further: no weighing is left to compare full with" in comparison.notes[1]
    )
