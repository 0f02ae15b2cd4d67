import json

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerState

from tests.tiny.chats import QUICK, sums, write_rows
from tests.verbs.tune.record import load
from tokenry.core.io.schema import SCHEMA
from tokenry.models import load_model
from tokenry.verbs._stages import Stages
from tokenry.verbs._training import TellSteps


@pytest.fixture(scope="module")
def everything(desk):
    """One run with most options, and what it printed."""
    output = desk.folder / "everything"
    config = desk.folder / "run.yaml"
    config.write_text("seed: 7\nlearning_rate: 1e-3\ntraining:\n  weight_decay: 1e-2\n")
    options = ("--weighing", "token-cleaning:dropped_weight=0.1", "--compare", "full,random,sstoken")
    options += ("--trusted", desk.trusted, "--held-out", desk.held_out, "--share", "0.5", "--balance", "0.3")
    options += (
        "--config",
        config,
        "--set",
        "lora.alpha=8",
        "--set",
        "lora.rank=4",
        "--output",
        output,
        "--merge",
        desk.folder / "merged",
        "--json",
    )
    return desk.tokenry("tune", desk.model, desk.data, *QUICK, *options), output


@pytest.fixture(scope="module")
def comparison(everything):
    return load(everything[1] / "result.json")


def test_a_run_ends_well(everything):
    result, _ = everything
    assert result.exit_code == 0, result.stderr


def test_the_weighing_asked_for_is_merged_into_one_folder(desk, everything):
    model = AutoModelForCausalLM.from_pretrained(desk.folder / "merged")
    adapted = load_model(everything[1] / "token-cleaning-dropped-weight=0.1" / "model", "float32")
    ids = torch.tensor([[5, 6, 7]])
    assert not (desk.folder / "merged" / "adapter_config.json").exists()
    torch.testing.assert_close(model(ids).logits, adapted(ids).logits)


def test_a_folder_to_merge_into_is_looked_at_before_the_work(desk):
    for options, words in (
        (("--merge", desk.folder), "exists already: name a new folder"),
        (("--merge", desk.folder / "new", "--full-weights"), "--merge is for adapters"),
    ):
        result = desk.tokenry("tune", desk.model, desk.data, *options, "--output", desk.folder / "unused")
        assert result.exit_code == 2
        assert words in " ".join(result.stderr.split())


def test_json_is_the_record_and_nothing_else_reaches_stdout(everything, comparison):
    result, _ = everything
    printed = json.loads(result.stdout)
    assert {**printed, "title": None} == {
        **comparison.model_dump(mode="json"),
        "title": None,
        "schema": SCHEMA,
    }


def test_the_control_comes_first_and_the_weighing_asked_for_next(comparison):
    names = [run.name for run in comparison.runs]
    assert names == ["full", "token-cleaning dropped_weight=0.1", "random", "sstoken"]


def test_every_run_but_the_control_is_compared_with_it_item_by_item(comparison):
    assert [run.paired and (run.paired.to, run.paired.samples) for run in comparison.runs] == [
        None,
        *[("full", 4)] * 3,
    ]


def test_the_table_says_what_was_learned_from(comparison):
    full, cleaning, random, sstoken = comparison.runs
    assert full.share_kept == 1.0
    assert random.share_kept == pytest.approx(0.5, abs=0.06)
    assert sstoken.share_kept == pytest.approx(0.5, abs=0.06)
    assert cleaning.share_kept < 0.7
    assert set(full.share_by_class) == {"clean", "number"}


def test_cost_and_answers_are_measured(comparison):
    for run in comparison.runs:
        assert run.steps == 2
        assert run.seconds_per_step > 0
        assert run.bits_per_byte > 0
        assert run.accuracy.samples == 4


def test_settings_come_from_defaults_then_the_file_then_the_options(comparison):
    settings = comparison.settings
    assert (settings["seed"], settings["share"], settings["lora"]["alpha"]) == (7, 0.5, 8)
    assert settings["training"]["learning_rate"] == 1e-3
    assert settings["training"]["weight_decay"] == 0.01
    assert settings["training"]["num_train_epochs"] == 1


def test_progress_and_notes_go_to_stderr(everything):
    result, output = everything
    assert "the reference model" in result.stderr
    assert "sstoken: held-out loss" in result.stderr
    assert f"written: {output / 'result.json'} and {output / 'report.html'}" in result.stderr


def test_a_report_is_drawn(everything):
    page = (everything[1] / "report.html").read_text()
    assert "token-cleaning dropped_weight=0.1" in page


def test_the_weights_are_left_for_use_and_checkpoints_are_not(everything):
    output = everything[1]
    for folder in ("full", "token-cleaning-dropped-weight=0.1", "random", "sstoken", "reference"):
        assert (output / folder / "model" / "adapter_model.safetensors").exists()
    assert not list(output.glob("*/checkpoint-*"))


def test_nothing_that_is_left_can_run_code_when_it_is_read(everything):
    assert not [path for path in everything[1].rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]


def test_a_finished_run_is_told_again_by_resume_with_the_same_settings_and_without_any_model(
    everything, desk, monkeypatch
):
    monkeypatch.setattr("tokenry.verbs._tune.comparison.load_tokenizer", lambda name: pytest.fail("loaded"))
    same = ("--seed", "7", "--set", "lora.rank=4")
    again = desk.tokenry("tune", "--output", everything[1], "--resume", *same, "--json")
    assert again.exit_code == 0, again.stderr
    assert again.stdout == everything[0].stdout


def test_an_output_that_holds_a_run_is_not_overwritten(everything, desk):
    result = desk.tokenry("tune", desk.model, desk.data, "--output", everything[1])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "already holds a run: go on with it by --resume, or choose another --output" in result.stderr


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--seed", "8"], "--seed 7, not 8"),
        (["--full-weights"], "lora={"),
        (["--set", "learning_rate=1e-4"], "training={"),
    ],
)
def test_a_run_is_not_resumed_with_other_settings(everything, desk, options, name):
    result = desk.tokenry("tune", "--output", everything[1], "--resume", *options)
    assert result.exit_code == 2
    assert f"was made with {name}" in result.stderr


def test_all_weights_are_trained_without_lora_and_resume_on_nothing_starts_anew(desk):
    output = desk.folder / "full-weights"
    options = ("--full-weights", "--compare", "", "--weighing", "small-loss:warmup_epochs=0", "--quiet")
    result = desk.tokenry("tune", desk.model, desk.data, *QUICK, *options, "--output", output, "--resume")
    assert result.exit_code == 0, result.stderr
    assert (output / "small-loss-warmup-epochs=0" / "model" / "model.safetensors").exists()
    assert result.stderr == ""
    assert "held-out NLL" in result.stdout


@pytest.fixture(scope="module")
def little(desk):
    """22 chats under the defaults."""
    output = desk.folder / "little"
    data = write_rows(desk.folder / "little.jsonl", sums(22, seed=4))
    options = ("--dtype", "float32", "--max-length", "96", "--set", "use_cpu=true", "--weighing", "random")
    options += ("--set", "save_steps=0.5", "--set", "answers=2")
    return desk.tokenry("tune", desk.model, data, *options, "--output", output), output


def test_little_data_are_learned_from_in_enough_steps_at_a_rate_above_zero(little):
    result, output = little
    assert result.exit_code == 0, result.stderr
    for run in load(output / "result.json").runs:
        assert run.steps >= 20
        assert all(entry["learning_rate"] > 0 for entry in run.curves)
    assert "note: 14 samples are few, so they are trained on with num_train_epochs=5" in result.stderr
    assert "few optimisation steps" not in result.stderr


def test_of_little_data_enough_is_held_out_to_tell_a_difference(little):
    (_, random) = load(little[1] / "result.json").runs
    assert random.paired.samples == 8


def test_the_record_says_how_long_was_trained(little):
    training = load(little[1] / "result.json").settings["training"]
    assert (training["num_train_epochs"], training["gradient_accumulation_steps"]) == (5, 1)


def test_a_held_out_set_that_decides_nothing_is_noted_and_said_in_the_table_and_the_page(everything):
    result, output = everything
    assert "note: 4 held-out samples are too few to tell a difference: bring at least 8" in result.stderr
    said = (output / "report.html").read_text()
    assert "too few held-out items to say whether it differs from full" in said


def test_a_step_count_too_small_to_learn_anything_is_noted(everything):
    assert "note: few optimisation steps (2)" in everything[0].stderr


def test_samples_that_are_cut_are_noted(desk):
    options = ("--max-length", "30", "--weighing", "full", "--compare", "", "--set", "max_steps=1")
    result = desk.tokenry("tune", desk.model, desk.data, *QUICK, *options, "--output", desk.folder / "cut")
    assert result.exit_code == 0, result.stderr
    assert "samples are longer than 30 tokens: cut." in result.stderr


def test_the_step_and_the_loss_are_told_without_being_news(little):
    lines = [line for line in little[0].stderr.splitlines() if "%" in line]
    assert len(lines) < 20
    stages = Stages(lambda what, share: told.append((what, share)), [1.0])
    told = []
    stages.begin("full", 1.0)
    steps = TellSteps(stages)
    state = TrainerState(global_step=3, max_steps=12)
    steps.on_step_end(None, state, None)
    steps.on_log(None, state, None, logs={"loss": 1.23456})
    assert told[1:] == [("full · step 3 of 12", 0.25), ("full · step 3 of 12, loss 1.235", 0.25)]


def test_a_folder_that_is_not_of_a_run_is_not_written_into(desk, tmp_path):
    (tmp_path / "thesis.tex").touch()
    for options in ([], ["--resume"]):
        result = desk.tokenry("tune", desk.model, desk.data, *QUICK, *options, "--output", tmp_path)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "exists already and holds no run of `tokenry tune`: name a new folder" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
