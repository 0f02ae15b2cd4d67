"""The moving average of weights: it follows every step of a stock Trainer, resumes exactly, and leaves the model as it was."""

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from tests import tiny
from tokenry.core.errors import UserError
from tokenry.core.tensors.ema import AVERAGES, WeightAverage

IDS = torch.arange(10, 18)
ROWS = [{"input_ids": IDS + row, "labels": IDS + row} for row in range(6)]


def trained(folder, average, steps, callbacks=(), resume=None):
    arguments = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=1, learning_rate=1e-2, lr_scheduler_type="constant", save_steps=2,
        report_to="none", use_cpu=True, disable_tqdm=True, gradient_accumulation_steps=2,
    )  # fmt: skip
    trainer = Trainer(tiny.llama(), arguments, train_dataset=ROWS, callbacks=[average, *callbacks])
    trainer.train(resume_from_checkpoint=resume)
    return trainer.model


class Weights(TrainerCallback):
    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, model=None, **_):
        self.steps.append({name: weight.detach().clone() for name, weight in model.named_parameters()})


def test_it_follows_the_weights_after_every_step_of_the_optimiser(tmp_path):
    average, weights = WeightAverage(0.5), Weights()
    start = {name: weight.detach().clone() for name, weight in tiny.llama().named_parameters()}
    trained(tmp_path, average, 3, [weights])
    for step in weights.steps:
        start = {name: 0.5 * start[name] + 0.5 * step[name] for name in start}
    assert len(weights.steps) == 3, "two batches make one step"
    torch.testing.assert_close(average.averages, start)


def test_a_resumed_training_has_the_average_of_one_that_was_not_interrupted(tmp_path):
    whole, first, second = WeightAverage(0.9), WeightAverage(0.9), WeightAverage(0.9)
    trained(tmp_path / "whole", whole, 4)
    trained(tmp_path / "parts", first, 2)
    trained(tmp_path / "parts", second, 4, resume=True)
    assert all(torch.equal(whole.averages[name], second.averages[name]) for name in whole.averages)
    elsewhere = WeightAverage(0.9, resume_from=tmp_path / "whole/checkpoint-2")
    trained(tmp_path / "elsewhere", elsewhere, 4, resume=str(tmp_path / "whole/checkpoint-2"))
    assert all(torch.equal(whole.averages[name], elsewhere.averages[name]) for name in whole.averages)


def test_the_model_is_afterwards_as_it_was(tmp_path):
    average = WeightAverage(0.5)
    model = trained(tmp_path, average, 2)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with average.in_place(model):
        assert all(torch.equal(weight, average.averages[name]) for name, weight in model.named_parameters())
        assert not all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_mistakes_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"the decay of the moving average must be in \[0, 1\), got 1.0"):
        WeightAverage(1.0)
    trained(tmp_path, WeightAverage(0.5), 2)
    (tmp_path / "checkpoint-2" / AVERAGES).unlink()
    with pytest.raises(UserError, match="checkpoint-2 holds no moving average that can be read"):
        trained(tmp_path, WeightAverage(0.5), 4, resume=True)
