"""What every weighing must pass: `check_weighing(MyWeighing(), tmp_path)` in the test of a new one.

It trains with every way of training: two steps, the right share of the tokens, weights that moved. And where it learns from every
token (`share=1`, or what `plain` says) it is plain supervised fine-tuning. DDP and FSDP2 are in test_distributed.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTTrainer

from tests import tiny
from tests.tiny.tokenizers import word_tokenizer
from tests.tiny.training import sft_config, token_rows
from tokenry.core.tensors.row_losses import cross_entropy
from tokenry.finetuning import AllTokens, TokenWeighing, TokenWeighingTrainer

LORA = LoraConfig(r=4, target_modules=["q_proj", "up_proj"])
SETUPS: dict[str, dict[str, Any]] = {
    "full": {},
    "LoRA": {"peft_config": LORA},
    "multi-turn": {"multi_turn": True},
    "packing": {"packing": True, "max_length": 24},
    "padding-free": {"padding_free": True},
    "accumulation": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 3},
    "checkpointing": {"gradient_checkpointing": True},
    "bfloat16": {"bf16": True, "dtype": torch.bfloat16},
}
SAMPLES = 6

Expected = Callable[[Dataset], torch.Tensor]
"""The weight of every token of the rows, one sample after the other; only learnable tokens are read."""


def check_weighing(
    weighing: TokenWeighing,
    folder: Path,
    plain: dict[str, Any] | None = None,
    expected: Expected | None = None,
) -> None:
    """Check a weighing in every set-up.

    Args:
        weighing: it, with options that select in an epoch of two steps.
        folder: where it may write.
        plain: options with which it learns from every response token alike; `share=1.0` when None.
        expected: the weights that it gives; None for one that chooses a share, or has a row loss of its own.
    """
    for setup in SETUPS:
        check_training(weighing, setup, folder / setup, expected)
    check_plain(weighing, folder / "plain", plain)


def check_training(
    weighing: TokenWeighing, setup: str, folder: Path, expected: Expected | None = None
) -> None:
    """Train for two steps in one set-up."""
    weighing = replace(weighing, warmup_epochs=0.0)
    options = dict(SETUPS[setup])
    rows = token_rows(SAMPLES, multi_turn=options.pop("multi_turn", False))
    dtype = options.pop("dtype", torch.float32)
    trainer = TokenWeighingTrainer(
        tiny.llama().to(dtype),
        train_dataset=rows.add_column("weight", [0.5 * row for row in range(SAMPLES)]),
        processing_class=word_tokenizer(),
        peft_config=options.pop("peft_config", None),
        weighing=weighing,
        reference_model=tiny.llama(seed=1).to(dtype) if "reference_nll" in weighing.needs else None,
        history_cache=folder / "cache",
        record_signals=isinstance(weighing, AllTokens),  # plain fine-tuning records nothing unless told to
        args=sft_config(folder, **{"max_length": None, "learning_rate": 1.0, **options}),
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(before[name], p)}

    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    own_loss = weighing.row_loss is not cross_entropy
    assert all(math.isfinite(loss) and (loss > 0 or own_loss) for loss in losses)
    trainable = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert moved
    assert moved <= trainable
    assert setup != "LoRA" or all("lora" in name for name in moved)
    weights = trainer.store.columns["weight"]
    learned = ~weights.isnan()
    if own_loss:
        assert ((weights[learned] > 0) & (weights[learned] < 2)).all()
    elif expected is None:
        _assert_share_kept(trainer, len(rows), weights, int(learned.sum()))
    else:
        torch.testing.assert_close(weights[learned], expected(rows)[learned])


def check_plain(weighing: TokenWeighing, folder: Path, plain: dict[str, Any] | None = None) -> None:
    """Two ways to learn from every token: its own, and TRL's."""
    weighing = replace(weighing, **(plain or {"share": 1.0}))
    rows = token_rows(multi_turn=True)
    options = {
        "train_dataset": rows.add_column("weight", [1.0] * len(rows)),
        "processing_class": word_tokenizer(),
    }
    args = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    theirs = SFTTrainer(tiny.llama(), args=sft_config(folder / "theirs", **args), **options)
    ours = TokenWeighingTrainer(
        tiny.llama(),
        args=sft_config(folder / "ours", **args),
        weighing=weighing,
        reference_model=tiny.llama(seed=1) if "reference_nll" in weighing.needs else None,
        history_cache=folder / "cache",
        **options,
    )
    assert_same_weights(theirs, ours)


def assert_same_weights(*trainers: SFTTrainer, tolerance: float = 1e-6) -> None:
    """Trained with both, a model ends with the same weights."""
    first, second = [(trainer.train(), dict(trainer.model.named_parameters()))[1] for trainer in trainers]
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(
            first[name], second[name], atol=tolerance, rtol=0, msg=lambda words, name=name: f"{name}: {words}"
        )


def _assert_share_kept(trainer: TokenWeighingTrainer, rows: int, weights: torch.Tensor, learned: int) -> None:
    """The number of tokens kept is share · R within rounding, per group."""
    weighing = trainer.weighing
    steps = math.ceil(len(trainer.train_dataset) / trainer.args.per_device_train_batch_size)
    groups = {"sample": rows, "batch": steps, "dataset": 1}[weighing.scope]
    surplus = int((weights == 1).sum()) - weighing.share * learned
    within = (0 <= surplus + 1e-6 < groups) if weighing.rounding == "ceil" else (-groups < surplus <= 1e-6)
    assert within, f"{surplus} tokens more than the share"
