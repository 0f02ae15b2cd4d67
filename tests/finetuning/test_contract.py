"""The contract: learning from every token is plain supervised fine-tuning, whatever the training set-up."""

import pytest
import torch
from peft import LoraConfig
from trl import SFTTrainer

from tests.finetuning.tiny import sft_config, tiny_llama, tiny_tokenizer, token_rows
from tokenry.finetuning import (
    AllTokens,
    CrossFitted,
    DatasetWeights,
    PromptResponseWeights,
    RandomTokens,
    Rho1,
    SmallLoss,
    SSToken,
    TokenCleaning,
    TokenWeighingTrainer,
)

SETUPS = {
    "padding": {},
    "accumulation": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    "packing": {"packing": True, "max_length": 40},
    "packing_and_accumulation": {"packing": True, "max_length": 40, "gradient_accumulation_steps": 2},
    "padding_free": {"padding_free": True, "max_length": None},
    "checkpointing": {"gradient_checkpointing": True},
    "shuffled_packing": {"packing": True, "max_length": 40, "shuffle_dataset": True},
}
FULL = {
    "AllTokens": AllTokens(),
    "RandomTokens": RandomTokens(share=1.0),
    "SSToken": SSToken(share=1.0),
    "Rho1": Rho1(share=1.0),
    "TokenCleaning": TokenCleaning(share=1.0),
    "CrossFitted": CrossFitted(share=1.0),
    "SmallLoss": SmallLoss(share=1.0),
    "DatasetWeights": DatasetWeights(),
    "PromptResponseWeights": PromptResponseWeights(prompt=0.0),
}


def _weights_after(trainer):
    trainer.train()
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def _assert_same(first, second, tolerance=1e-6):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(
            first[name], second[name], atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


def _rows(weighing):
    rows = token_rows(multi_turn=True)
    return rows.add_column("weight", [1.0] * len(rows)) if isinstance(weighing, DatasetWeights) else rows


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize(
    "peft", [None, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"])], ids=["full", "lora"]
)
def test_all_tokens_equals_plain_sft(tmp_path, setup, peft):
    common = {
        "train_dataset": token_rows(multi_turn=True),
        "processing_class": tiny_tokenizer(),
        "peft_config": peft,
    }
    plain = SFTTrainer(tiny_llama(), args=sft_config(tmp_path, **SETUPS[setup]), **common)
    ours = TokenWeighingTrainer(
        tiny_llama(), args=sft_config(tmp_path, **SETUPS[setup]), weighing=AllTokens(), **common
    )
    _assert_same(_weights_after(plain), _weights_after(ours))


@pytest.mark.parametrize("name", FULL)
def test_every_weighing_at_full_share_equals_plain_sft(tmp_path, name):
    common = {"train_dataset": _rows(FULL[name]), "processing_class": tiny_tokenizer()}
    plain = SFTTrainer(tiny_llama(), args=sft_config(tmp_path, **SETUPS["accumulation"]), **common)
    ours = TokenWeighingTrainer(
        tiny_llama(), args=sft_config(tmp_path, **SETUPS["accumulation"]), weighing=FULL[name],
        history_cache=tmp_path / "cache", **common,
    )  # fmt: skip
    _assert_same(_weights_after(plain), _weights_after(ours))


def test_the_logged_loss_is_the_one_of_plain_sft(tmp_path):
    common = {"train_dataset": token_rows(), "processing_class": tiny_tokenizer()}
    options = SETUPS["accumulation"]
    plain = SFTTrainer(tiny_llama(), args=sft_config(tmp_path, **options), **common)
    ours = TokenWeighingTrainer(tiny_llama(), args=sft_config(tmp_path, **options), **common)
    plain.train()
    ours.train()
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (plain, ours)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_evaluation_is_plain_nll_on_all_response_tokens(tmp_path):
    common = {
        "train_dataset": token_rows(),
        "eval_dataset": token_rows(seed=5),
        "processing_class": tiny_tokenizer(),
    }
    plain = SFTTrainer(tiny_llama(), args=sft_config(tmp_path), **common)
    ours = TokenWeighingTrainer(
        tiny_llama(),
        args=sft_config(tmp_path),
        weighing=SSToken(),
        history_cache=tmp_path / "cache",
        **common,
    )
    assert plain.evaluate()["eval_loss"] == pytest.approx(ours.evaluate()["eval_loss"], abs=1e-6)
