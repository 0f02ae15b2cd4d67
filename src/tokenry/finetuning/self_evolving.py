"""Self-evolving TokenCleaning: the reference model improves with the data that it cleans.

Source: TokenCleaning (arXiv 2502.01968), self-evolving cleaning. Split the data into equal consecutive parts;

    part 0:       plain fine-tuning of the base model gives M_0
    part t >= 1:  keep the top share of base_nll − nll(M_{t-1}) over the part; fine-tuning M_{t-1} further on it gives M_t

Scores always compare with the original base model.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import nn
from trl import SFTConfig

from tokenry.core.errors import UserError
from tokenry.finetuning.all_tokens import AllTokens
from tokenry.finetuning.token_cleaning import TokenCleaning
from tokenry.finetuning.trainer import TokenWeighingTrainer


def self_evolving_cleaning(
    model: nn.Module,
    base_model: nn.Module,
    train_dataset: Dataset,
    args: Callable[[Path], SFTConfig],
    output: Path,
    *,
    parts: int = 5,
    weighing: TokenCleaning | None = None,
    trainer_arguments: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Fine-tune `model` part by part, each part cleaned by the model that was trained on the parts before it.

    Args:
        model: the model to train (with its adapter for LoRA), changed in place.
        base_model: a copy of it before training; it is only read.
        train_dataset: the data in training order; a remainder is dropped.
        args: function that makes the training arguments of a part from its output folder.
        output: folder of the parts' outputs.
        parts: number of parts, at least 2.
        weighing: how a part is cleaned; None is `TokenCleaning()`.
        trainer_arguments: further arguments of the trainer (`processing_class`, …).

    Returns:
        The trained model.
    """
    if parts < 2:
        raise UserError(
            f"parts must be at least 2, got {parts}: the first makes the reference of the second."
        )
    size = len(train_dataset) // parts
    if size == 0:
        raise UserError(
            f"{len(train_dataset)} samples cannot be split into {parts} parts: give more data or fewer parts."
        )
    cleaning = weighing or TokenCleaning()
    for number in range(parts):
        trainer = TokenWeighingTrainer(
            model,
            args=args(output / f"part-{number}"),
            train_dataset=train_dataset.select(range(number * size, (number + 1) * size)),
            weighing=cleaning if number else AllTokens(),
            reference_model=model if number else None,
            base_model=base_model if number else None,
            **(trainer_arguments or {}),
        )
        trainer.train()
        model = trainer.model
    return model
