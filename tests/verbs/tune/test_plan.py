from pathlib import Path

import pytest

from tokenry.core.errors import UserError
from tokenry.core.io.files import read_json
from tokenry.verbs._tune.plan import (
    DEMO_TRAINING,
    PAPER_TRAINING,
    make_plan,
    parse_settings,
    read_config,
    resume_or_start,
    said_by,
    stored_plan,
    validated,
)
from tokenry.verbs.tune import Plan


@pytest.fixture
def run_file(tmp_path):
    def write(content):
        path = tmp_path / "run.yaml"
        path.write_text(content, encoding="utf-8")
        return path

    return write


def test_nothing_said_is_the_demo_on_the_embedded_model():
    plan = make_plan({})
    assert (plan.model, plan.data, plan.weighing) == ("embedded", "demo", "auto")
    assert plan.training == DEMO_TRAINING
    assert plan.controls == ["full", "sstoken"]
    assert plan.lora.first_layer == 10


def test_another_model_on_the_demo_is_adapted_in_every_layer():
    assert make_plan({"model": "mine"}).lora.first_layer == 0


def test_own_data_are_trained_on_with_the_papers_hyper_parameters():
    plan = make_plan({"data": "mine.jsonl"})
    assert plan.training == PAPER_TRAINING
    assert (plan.controls, plan.lora.rank, plan.max_length) == (["full"], 64, 2048)


def test_what_is_said_of_training_leaves_the_other_defaults_as_they_are():
    plan = make_plan({"data": "mine.jsonl", "training": {"learning_rate": 1.0}, "lora": {"rank": 2}})
    assert plan.training == {**PAPER_TRAINING, "learning_rate": 1.0}
    assert (plan.lora.rank, plan.lora.alpha) == (2, 16)


def test_options_come_before_the_file(run_file):
    path = run_file("data: mine.jsonl\nshare: 0.3\nseed: 1\ntraining: {num_train_epochs: 2}\n")
    plan = make_plan({"share": 0.5, "training": {"learning_rate": 1.0}}, path)
    assert (plan.data, plan.share, plan.seed) == ("mine.jsonl", 0.5, 1)
    assert plan.training == {**PAPER_TRAINING, "num_train_epochs": 2, "learning_rate": 1.0}


def test_training_arguments_may_stand_among_the_plan_fields(run_file):
    path = run_file("learning_rate: 1e-3\nlora.rank: 8\ntraining:\n  weight_decay: 5e-2\nweighing: random\n")
    assert read_config(path) == {
        "training": {"learning_rate": 1e-3, "weight_decay": 5e-2},
        "lora": {"rank": 8},
        "weighing": "random",
    }


def test_no_lora_in_a_file_is_full_weights(run_file):
    assert make_plan({}, run_file("lora: null\n")).lora is None


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-4", 1e-4), ("0.5", 0.5), ("3", 3), ("true", True), ("cosine", "cosine"), ("{a: 1e-1}", {"a": 0.1})],
)
def test_a_setting_is_read_as_yaml_in_which_a_number_may_have_an_exponent_only(written, value):
    assert parse_settings([f"some_argument={written}"]) == {"training": {"some_argument": value}}


def test_settings_go_where_they_belong():
    assert parse_settings(["lora.rank=8", "lora.alpha=4", "answers=10", "learning_rate=1"]) == {
        "lora": {"rank": 8, "alpha": 4},
        "answers": 10,
        "training": {"learning_rate": 1},
    }


def test_an_equals_sign_in_a_value_belongs_to_it():
    assert parse_settings(["weighing=random:share=0.5"]) == {"weighing": "random:share=0.5"}


def test_the_same_is_not_said_twice():
    with pytest.raises(UserError, match="seed is set by an option and by --set"):
        said_by(Plan(seed=1, set_=("seed=2",)))


def test_defaults_are_not_changed_by_a_plan():
    before = dict(PAPER_TRAINING)
    make_plan({"data": "mine.jsonl", "training": {"learning_rate": 1.0}})
    assert before == PAPER_TRAINING


def test_a_plan_is_the_same_after_it_was_stored(tmp_path):
    from tokenry.core.io.files import write_json

    plan = make_plan({"share": 0.5})
    write_json(tmp_path / "plan.json", plan.settings)
    assert stored_plan(tmp_path / "plan.json") == plan
    assert resume_or_start(Plan(share=0.5, output=tmp_path, resume=True)) == plan


def test_the_plan_of_an_older_version_is_read():
    stored = read_json(Path(__file__).with_name("record_0_1.json"))["settings"]
    plan = validated(stored)
    assert (plan.weighing, plan.controls, plan.device) == (stored["weighing"], stored["compare"], None)
    assert plan.training == stored["training"]


def test_what_the_options_say_is_what_a_run_file_says(run_file):
    plan = Plan(
        model="mine", compare="full,random:share=0.2", full_weights=True, set_=("learning_rate=1e-3",)
    )
    assert said_by(plan) == {
        "model": "mine",
        "compare": ["full", "random:share=0.2"],
        "lora": None,
        "training": {"learning_rate": 1e-3},
    }


@pytest.mark.parametrize("content", ["", "{", "[]", '{"share": "much"}', '{"unknown": 1}'])
def test_a_damaged_plan_is_one_sentence(tmp_path, content):
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(UserError, match=r"plan.json is damaged, so the run cannot go on: choose another"):
        resume_or_start(Plan(output=tmp_path, resume=True))
