"""Every weighing works with every way of training: two steps, the right share, weights that moved. (DDP, FSDP2: test_distributed.py.)"""

import math

import pytest
import torch
from peft import LoraConfig

from tests.capabilities import CAPABILITIES, WEIGHINGS
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

LORA = LoraConfig(r=4, target_modules=["q_proj", "up_proj"])
SETUPS = {
    "full": {},
    "LoRA": {"peft_config": LORA},
    "multi-turn": {"multi_turn": True},
    "packing": {"packing": True, "max_length": 24},
    "padding-free": {"padding_free": True},
    "accumulation": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 3},
    "checkpointing": {"gradient_checkpointing": True},
    "bfloat16": {"bf16": True, "dtype": torch.bfloat16},
}
MADE = {
    "AllTokens": AllTokens(),
    "RandomTokens": RandomTokens(),
    "SSToken": SSToken(warmup_fraction=0.5),
    "Rho1": Rho1(),
    "TokenCleaning": TokenCleaning(),
    "CrossFitted": CrossFitted(),
    "SmallLoss": SmallLoss(warmup_epochs=0.0),
    "DatasetWeights": DatasetWeights(),
    "PromptResponseWeights": PromptResponseWeights(),
}


def _train(folder, weighing, multi_turn=False, dtype=torch.float32, peft_config=None, **options):
    rows = token_rows(samples=6, multi_turn=multi_turn)
    trainer = TokenWeighingTrainer(
        tiny_llama().to(dtype),
        args=sft_config(folder, **{"max_length": None, "learning_rate": 1.0, **options}),
        train_dataset=rows.add_column("weight", [0.5 * row for row in range(6)]),
        processing_class=tiny_tokenizer(),
        peft_config=peft_config,
        weighing=weighing,
        reference_model=tiny_llama(seed=1).to(dtype) if "reference_nll" in weighing.needs else None,
        history_cache=folder / "cache",
        record_signals=isinstance(weighing, AllTokens),  # plain fine-tuning records nothing unless told to
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(before[name], p)}
    return trainer, rows, moved


def _assert_right_weights(trainer, rows):
    """The number of tokens kept is share · R within rounding, per group; given weights are those of the data."""
    weighing, weights = trainer.weighing, trainer.store.columns["weight"]
    learned = ~weights.isnan()
    labels = torch.cat([torch.tensor(labels) for labels in rows["labels"]])
    if isinstance(weighing, PromptResponseWeights):
        expected = torch.where(labels == -100, weighing.prompt, weighing.response)
        torch.testing.assert_close(weights[learned], expected[learned])
        return
    lengths = torch.tensor([len(ids) for ids in rows["input_ids"]])
    if isinstance(weighing, DatasetWeights):
        expected = torch.repeat_interleave(0.5 * torch.arange(6), lengths)
        torch.testing.assert_close(weights[learned], expected[learned])
        return
    steps = math.ceil(len(trainer.train_dataset) / trainer.args.per_device_train_batch_size)
    groups = {"sample": len(rows), "batch": steps, "dataset": 1}[weighing.scope]
    surplus = int((weights == 1).sum()) - weighing.share * int(learned.sum())
    within = (0 <= surplus + 1e-6 < groups) if weighing.rounding == "ceil" else (-groups < surplus <= 1e-6)
    assert within, f"{surplus} tokens more than the share"


@pytest.mark.parametrize("capability", SETUPS)
@pytest.mark.parametrize("name", WEIGHINGS)
def test_a_weighing_trains_with(tmp_path, record_property, name, capability):
    record_property("capability", [name, capability])
    trainer, rows, moved = _train(tmp_path, MADE[name], **SETUPS[capability])
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    _assert_right_weights(trainer, rows)
    trainable = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert moved
    assert moved <= trainable
    assert capability != "LoRA" or all("lora" in name for name in moved)


def test_every_capability_has_a_test():
    assert {*SETUPS, "DDP", "FSDP2"} == set(CAPABILITIES)
    assert set(MADE) == set(WEIGHINGS)
