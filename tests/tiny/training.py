"""Small data to fine-tune on, and the settings of a short training."""

import torch
from datasets import Dataset
from trl import SFTConfig

from tests.tiny.tokenizers import VOCABULARY


def token_rows(samples: int = 12, seed: int = 0, multi_turn: bool = False) -> Dataset:
    """Samples of 6 to 20 tokens with `labels` on the second half (multi-turn: on every other run of three)."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(samples):
        length = int(torch.randint(6, 21, (1,), generator=generator))
        ids = torch.randint(6, VOCABULARY, (length,), generator=generator).tolist()
        spoken = [t // 3 % 2 == 1 if multi_turn else t >= length // 2 for t in range(length)]
        labels = [token if is_target else -100 for token, is_target in zip(ids, spoken, strict=True)]
        rows.append({"input_ids": ids, "labels": labels})
    return Dataset.from_list(rows)


def sft_config(output_dir, **options) -> SFTConfig:
    return SFTConfig(
        **{
            "output_dir": str(output_dir),
            "per_device_train_batch_size": 3,
            "num_train_epochs": 1,
            "learning_rate": 0.1,
            "optim": "sgd",
            "lr_scheduler_type": "constant",
            "max_length": 64,
            "bf16": False,
            "gradient_checkpointing": False,
            "report_to": [],
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            **options,
        }
    )
