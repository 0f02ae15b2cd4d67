"""`ReplacedTokenTrainer`: one process or two, one batch or several, interrupted or not, a training ends alike."""

import logging

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from tests.fresh_process import run_ranks
from tests.pretraining.two_ranks import STRATEGIES, data, run, trainer
from tests.tiny.pretraining import mask_tokenizer, pretrainer
from tokenry.core.errors import UserError
from tokenry.pretraining import ElectraAdamW, ReplacedTokenTrainer, official_lr


def weights(made):
    return {name: weight.detach().clone() for name, weight in made.model.named_parameters()}


def assert_same(first, second, atol=1e-6):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(
            first[name], second[name], rtol=0, atol=atol, msg=lambda words, name=name: f"{name}: {words}"
        )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What both ranks ended with, by every strategy; and what they said."""
    folder = tmp_path_factory.mktemp("two-ranks")
    said = run_ranks("tests.pretraining.two_ranks", str(folder), folder=folder)
    return folder, "".join(rank.stdout + rank.stderr for rank in said)


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_learn_as_one_process_does(alone, two_ranks, strategy):
    folder, said = two_ranks
    for rank in range(2):
        ended = folder / f"{strategy}-{rank}.pt"
        assert ended.exists(), said[-3000:]
        found = torch.load(ended)
        torch.testing.assert_close(found.pop("logged"), alone["logged"], rtol=1e-5, atol=1e-5)
        assert_same(found, {name: value for name, value in alone.items() if name != "logged"})


def test_how_a_step_is_cut_into_batches_changes_nothing(alone, tmp_path):
    made = trainer(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=1)
    made.train()
    assert_same(weights(made), {name: value for name, value in alone.items() if name != "logged"})


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        control.should_save, control.should_training_stop = True, state.global_step == 2


def with_dropout(folder):
    made = trainer(folder)
    for module in made.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    return made


def test_a_resumed_training_ends_with_the_same_weights(tmp_path):
    whole = with_dropout(tmp_path / "whole")
    whole.train()
    begun = with_dropout(tmp_path / "run")
    begun.add_callback(Stop())
    begun.train()
    resumed = with_dropout(tmp_path / "run")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 3
    assert_same(weights(resumed), weights(whole), atol=0)


def test_the_released_optimiser_takes_the_released_steps(tmp_path):
    made = trainer(tmp_path, warmup_steps=2, weight_decay=0.01, max_steps=4)
    own = ReplacedTokenTrainer(
        pretrainer(),
        made.args,
        train_dataset=data(),
        processing_class=mask_tokenizer(),
        released_optimizer=True,
    )
    rates = []

    class Rates(TrainerCallback):
        def on_optimizer_step(self, args, state, control, lr_scheduler, **_):
            rates.append(lr_scheduler.get_last_lr()[0])

    own.add_callback(Rates())
    own.train()
    assert rates == pytest.approx([official_lr(step, 1e-3, 4, 2) for step in range(1, 5)])
    optimizer = own.optimizer.optimizer if hasattr(own.optimizer, "optimizer") else own.optimizer
    assert isinstance(optimizer, ElectraAdamW)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]


def test_evaluation_says_the_loss_over_all_tokens_whatever_the_batches(tmp_path):
    found = [trainer(tmp_path, per_device_eval_batch_size=size).evaluate(data()) for size in (2, 12)]
    for name in ("eval_loss", "eval_generator_loss", "eval_discriminator_loss", "eval_auc", "eval_replaced"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-5)


def test_a_generator_that_is_always_right_is_told(tmp_path, caplog):
    made = trainer(tmp_path, max_steps=1)
    generator = made.model
    draw = generator._generate
    generator._generate = lambda rows, targets, quantiles: (*draw(rows, targets, quantiles)[:3], targets)
    with caplog.at_level(logging.WARNING):
        made.train()
    assert "nothing was replaced" in caplog.text
    assert made.state.log_history[0]["replaced"] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"compute_metrics": len}, "compute_metrics is of no use to ReplacedTokenTrainer"),
        ({"compute_loss_func": len}, "compute_loss_func is of no use to ReplacedTokenTrainer"),
    ],
)
def test_arguments_that_would_be_ignored_are_refused(options, words, tmp_path):
    with pytest.raises(UserError, match=words):
        ReplacedTokenTrainer(pretrainer(), TrainingArguments(str(tmp_path), use_cpu=True), **options)


def test_another_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="trains a ReplacedTokenPretrainer, got ElectraModel"):
        ReplacedTokenTrainer(pretrainer().discriminator, TrainingArguments(str(tmp_path), use_cpu=True))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: official_lr(0, 1e-3, 0, 1), "total must be at least 1, got 0"),
        (lambda: official_lr(0, 1e-3, 5, -1), "warmup must be at least 0, got -1"),
        (lambda: ElectraAdamW([torch.nn.Parameter(torch.ones(1))], betas=(1.0, 0.9)), r"betas must be in \[0, 1\)"),
        (lambda: ElectraAdamW([torch.nn.Parameter(torch.ones(1))], lr=-1.0), "lr must be at least 0, got -1.0"),
    ],
)  # fmt: skip
def test_an_optimiser_out_of_range_is_refused(call, words):
    with pytest.raises(UserError, match=words):
        call()
