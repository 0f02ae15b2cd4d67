"""Small preference data, and the settings of a short training on them."""

import torch
from datasets import Dataset
from trl import DPOConfig


def preference_rows(pairs: int = 8, seed: int = 0) -> Dataset:
    """Prompts of four words with two responses of two to five, for the word tokenizer."""
    generator = torch.Generator().manual_seed(seed)

    def words(number: int) -> str:
        return " ".join(f"w{int(word)}" for word in torch.randint(0, 50, (number,), generator=generator))

    return Dataset.from_list(
        [
            {"prompt": words(4) + " ", "chosen": words(3 + pair % 3), "rejected": words(2 + pair % 4)}
            for pair in range(pairs)
        ]
    )


def dpo_config(output_dir, **options) -> DPOConfig:
    return DPOConfig(
        **{
            "output_dir": str(output_dir),
            "per_device_train_batch_size": 4,
            "max_steps": 3,
            "learning_rate": 0.05,
            "optim": "sgd",
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,
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
