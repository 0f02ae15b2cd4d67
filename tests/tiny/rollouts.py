"""A tiny reinforcement learning: a Llama of 64 tokens, a reward for odd tokens, and settings that take a fraction of a second a step."""

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from tests.tiny.models import llama
from tests.tiny.tokenizers import VOCABULARY, word_tokenizer


def odd_tokens(completion_ids, **_) -> list[float]:
    return [sum(token % 2 for token in ids) / len(ids) for ids in completion_ids]


def prompts(number: int = 12) -> Dataset:
    return Dataset.from_list([{"prompt": f"w{row} w{row + 1}"} for row in range(number)])


def grpo_config(output_dir, **options) -> GRPOConfig:
    """Four optimiser steps for each generation of four groups of four."""
    return GRPOConfig(
        **{
            "output_dir": str(output_dir),
            "per_device_train_batch_size": 4,
            "num_generations": 4,
            "steps_per_generation": 4,
            "max_completion_length": 6,
            "learning_rate": 0.01,
            "lr_scheduler_type": "constant",
            "max_steps": 5,
            "bf16": False,
            "gradient_checkpointing": False,
            "report_to": [],
            "logging_steps": 1,
            "log_level": "error",
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            **options,
        }
    )


def grpo_trainer(
    kind: type[GRPOTrainer], output_dir, *, model=None, reward=odd_tokens, others=None, **options
) -> GRPOTrainer:
    """A trainer of a kind; `others` are its own arguments beside the settings."""
    return kind(
        model or llama(),
        reward,
        args=grpo_config(output_dir, **options),
        train_dataset=prompts(),
        processing_class=word_tokenizer(),
        **(others or {}),
    )


def written_rollouts(given, trainer) -> dict[str, list]:
    """Responses that depend on the number of the generation and of the row alone, over all ranks; every third token is of a tool."""
    first = trainer.accelerator.process_index * len(given)
    responses, masks = [], []
    for row in range(first, first + len(given)):
        generator = torch.Generator().manual_seed(1000 * trainer.state.global_step + row)
        length = int(torch.randint(2, 7, (1,), generator=generator))
        # Few tokens at first, so that responses begin alike.
        ids = [
            6 + int(torch.randint(2 if token < 3 else VOCABULARY - 6, (1,), generator=generator))
            for token in range(length)
        ]
        responses.append(ids)
        masks.append([int(token % 3 != 2) for token in range(length)])
    return {
        "prompt_ids": [trainer.processing_class(prompt)["input_ids"] for prompt in given],
        "completion_ids": responses,
        "logprobs": [[0.0] * len(ids) for ids in responses],
        "env_mask": masks,
    }
