"""`MaskedTokenTrainer`: what is masked follows from seed and step, and what is refused."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForMaskedLM, TrainerCallback, TrainingArguments

from tests.tiny.pretraining import encoder_config, mask_tokenizer
from tokenry.core.errors import UserError
from tokenry.pretraining import MaskedTokenTrainer

ROWS = [[2, *range(7, 7 + length), 3] for length in (12, 9, 5, 1, 0, 20)]


def trainer(folder, tokenizer=None, **settings):
    torch.manual_seed(0)
    arguments = TrainingArguments(
        str(folder), max_steps=4, per_device_train_batch_size=3, use_cpu=True, report_to=[], disable_tqdm=True,
        learning_rate=1e-2, save_steps=1, **settings,
    )  # fmt: skip
    return MaskedTokenTrainer(
        AutoModelForMaskedLM.from_config(encoder_config("bert")),
        arguments,
        train_dataset=Dataset.from_dict({"input_ids": ROWS}),
        processing_class=tokenizer or mask_tokenizer(),
    )


def weights(made):
    return torch.cat([weight.detach().flatten() for weight in made.model.parameters()])


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step == 2


def test_a_resumed_training_has_the_masks_that_it_would_have_had(tmp_path):
    whole = trainer(tmp_path / "whole")
    whole.train()
    begun = trainer(tmp_path / "run")
    begun.add_callback(Stop())
    begun.train()
    resumed = trainer(tmp_path / "run")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    assert torch.equal(weights(resumed), weights(whole))
    other = trainer(tmp_path / "other", seed=1)
    other.train()
    assert not torch.equal(weights(other), weights(whole))


def test_an_evaluation_has_always_the_same_masks(tmp_path):
    made = trainer(tmp_path, per_device_eval_batch_size=6)
    rows = made.train_dataset
    losses = [made.evaluate(rows)["eval_loss"] for _ in range(2)]
    assert losses[0] == losses[1] > 0


def test_a_tokenizer_without_a_mask_token_is_refused(tmp_path):
    bare = mask_tokenizer()
    bare.mask_token = None
    with pytest.raises(UserError, match="has no mask token, which stands for a masked token"):
        trainer(tmp_path, bare)
    with pytest.raises(UserError, match="and has no tokenizer: give it as processing_class"):
        MaskedTokenTrainer(AutoModelForMaskedLM.from_config(encoder_config("bert")), trainer(tmp_path).args)
