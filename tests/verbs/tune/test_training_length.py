"""Steps and warm-up follow the data; what the user says is left alone; what learns nothing is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenry.core.errors import UserError
from tokenry.verbs._tune.arguments import sft_config
from tokenry.verbs._tune.plan import (
    DEMO_LENGTH,
    DEMO_TRAINING,
    PAPER_LENGTH,
    PAPER_TRAINING,
    default_length,
    make_plan,
)
from tokenry.verbs._tune.training_length import (
    FEW_STEPS,
    MOST_EPOCHS,
    fitted_length,
    length_in_words,
    require_learning,
    require_ranges,
)


def steps_of(fitted, samples):
    batches = math.ceil(samples / fitted["per_device_train_batch_size"])
    return math.ceil(fitted["num_train_epochs"] * math.ceil(batches / fitted["gradient_accumulation_steps"]))


def fitted(samples, **said):
    return fitted_length({**PAPER_TRAINING, **said}, PAPER_LENGTH, samples)


@pytest.mark.parametrize(
    ("samples", "accumulation", "epochs", "warmup"),
    [
        (14, 1, 5, 0),  # of 22 chats 8 are held out
        (60, 1, 2, 0),
        (80, 1, 1, 0),
        (400, 5, 1, 0),
        (1000, 12, 1, 0),
        (1700, 12, 1, 0.03),
        (50_000, 12, 1, 0.03),
    ],
)
def test_steps_and_warm_up_follow_the_data(samples, accumulation, epochs, warmup):
    length = fitted(samples)
    assert [length[name] for name in ("gradient_accumulation_steps", "num_train_epochs", "warmup_steps")] == [
        accumulation,
        epochs,
        warmup,
    ]


@given(st.integers(1, 5000), st.sampled_from([(PAPER_TRAINING, PAPER_LENGTH), (DEMO_TRAINING, DEMO_LENGTH)]))
def test_there_are_enough_steps_wherever_so_many_epochs_can_make_them(samples, defaults):
    training, length = defaults
    found = fitted_length(training, length, samples)
    enough = MOST_EPOCHS * math.ceil(samples / training["per_device_train_batch_size"]) >= FEW_STEPS
    assert (steps_of(found, samples) >= FEW_STEPS) == enough
    assert found["warmup_steps"] * steps_of(found, samples) >= 1 or found["warmup_steps"] == 0
    assert length["num_train_epochs"] <= found["num_train_epochs"] <= MOST_EPOCHS
    assert 1 <= found["gradient_accumulation_steps"] <= length["gradient_accumulation_steps"]


@pytest.mark.parametrize(
    "said",
    [
        {"gradient_accumulation_steps": 12},
        {"num_train_epochs": 1},
        {"warmup_steps": 0.03},
        {"max_steps": 3},
        {"num_train_epochs": 0.5, "gradient_accumulation_steps": 2, "warmup_steps": 1},
    ],
)
def test_what_is_said_is_left_alone(said):
    length = fitted(10, **said)
    assert said.items() <= length.items()


def test_with_a_number_of_steps_said_only_the_warm_up_follows():
    length = fitted(10, max_steps=7)
    assert length == {**PAPER_TRAINING, **PAPER_LENGTH, "max_steps": 7, "warmup_steps": 0}


def test_what_followed_from_the_data_is_put_in_words():
    words = "14 samples are few, so they are trained on with num_train_epochs=5, gradient_accumulation_steps=1, warmup_steps=0"
    assert length_in_words(fitted(14), PAPER_LENGTH, 14) == words
    assert length_in_words(fitted(50_000), PAPER_LENGTH, 50_000) is None


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"learning_rate": -1}, "learning_rate must be above 0, got -1"),
        ({"learning_rate": 0}, "learning_rate must be above 0, got 0"),
        ({"max_steps": 0}, "max_steps must be at least 1, or -1 for num_train_epochs to decide; got 0"),
        ({"max_steps": -7}, "max_steps must be at least 1, .* got -7"),
        ({"num_train_epochs": 0}, "num_train_epochs must be above 0, got 0"),
        ({"num_train_epochs": -2}, "num_train_epochs must be above 0, got -2"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or more, got -0.1"),
        ({"max_grad_norm": -1}, "max_grad_norm must be 0 or more, got -1"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be at least 1, got 0"),
        ({"per_device_train_batch_size": -4}, "per_device_train_batch_size must be at least 1, got -4"),
        ({"per_device_eval_batch_size": 0}, "per_device_eval_batch_size must be at least 1, got 0"),
        ({"gradient_accumulation_steps": -1}, "gradient_accumulation_steps must be at least 1, got -1"),
        ({"neftune_noise_alpha": -5}, "neftune_noise_alpha must be 0 or more, got -5"),
    ],
)  # fmt: skip
def test_training_that_learns_nothing_is_refused(tmp_path, said, words):
    plan = make_plan({"data": "mine", "training": {"use_cpu": True, **said}})
    with pytest.raises(UserError, match=words):
        require_ranges(sft_config(plan, tmp_path, {**default_length(plan), **plan.training}))


@pytest.mark.parametrize(
    "said",
    [
        {"max_steps": 1, "warmup_steps": 1},
        {"num_train_epochs": 1, "gradient_accumulation_steps": 9, "warmup_steps": 0.1},
    ],
)
def test_a_single_step_of_warm_up_is_refused(tmp_path, said):
    plan = make_plan({"data": "mine", "training": {"use_cpu": True, **said}})
    training = fitted_length(plan.training, default_length(plan), 20)
    with pytest.raises(UserError, match="the only optimisation step would be one of warm-up"):
        require_learning(sft_config(plan, tmp_path, training), 20)


def test_one_step_at_a_constant_rate_learns(tmp_path):
    said = {"use_cpu": True, "max_steps": 1, "warmup_steps": 1, "lr_scheduler_type": "constant"}
    plan = make_plan({"data": "mine", "training": said})
    require_learning(sft_config(plan, tmp_path, {**default_length(plan), **plan.training}), 20)
