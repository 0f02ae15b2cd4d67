"""The contract: learning from every token is plain supervised fine-tuning, whatever the training set-up."""

import pytest
from peft import LoraConfig
from trl import SFTTrainer

from tests.finetuning.check_weighing import assert_same_weights
from tests.tiny.models import llama as tiny_llama
from tests.tiny.tokenizers import word_tokenizer as tiny_tokenizer
from tests.tiny.training import sft_config, token_rows
from tokenry.finetuning import AllTokens, SSToken, TokenWeighingTrainer

SETUPS = {
    "padding": {},
    "accumulation": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    "packing": {"packing": True, "max_length": 40},
    "packing_and_accumulation": {"packing": True, "max_length": 40, "gradient_accumulation_steps": 2},
    "padding_free": {"padding_free": True, "max_length": None},
    "checkpointing": {"gradient_checkpointing": True},
    "shuffled_packing": {"packing": True, "max_length": 40, "shuffle_dataset": True},
}


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
    assert_same_weights(plain, ours)


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
