"""Trainings of models of words that one process and two ranks must end alike; run by test_two_ranks.py, on two CPU processes."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from tests.tiny.words import flat_lm, windows, word_pooled
from tokenry.architectures import collate_flat, collate_words

KINDS: dict[str, tuple[Callable[[], Any], Any]] = {
    "pooled": (word_pooled, collate_words),
    "flat": (flat_lm, collate_flat),
}


def run(kind: str, folder: Path, ranks: int = 1, ragged: bool = False) -> dict[str, torch.Tensor]:
    """Four windows a step, in order, with as many units each unless they are ragged; returns the weights."""
    make, collate = KINDS[kind]
    data = [window for seed in range(4) for window in windows(seed, (6, 2, 4) if ragged else (4, 4, 4), 5)]
    if not ragged:
        data = [[(*word, 1, 1, 1, 1)[:4] for word in window] for window in data]
    arguments = TrainingArguments(
        str(folder), max_steps=3, per_device_train_batch_size=4 // ranks, learning_rate=0.1, optim="sgd", report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no", train_sampling_strategy="sequential", remove_unused_columns=False,
        **({"ddp_backend": "gloo", "ddp_timeout": 60, "ddp_find_unused_parameters": False} if ranks > 1 else {}),
    )  # fmt: skip
    trainer = Trainer(
        make(),
        arguments,
        train_dataset=[{"words": window} for window in data],
        data_collator=lambda rows: collate([row["words"] for row in rows]),
    )
    trainer.train()
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


def _main(output: Path) -> None:
    torch.set_num_threads(1)
    for kind in KINDS:
        for ragged in (False, True):
            found = run(kind, output, 2, ragged)
            torch.save(found, output / f"{kind}-{'ragged' if ragged else 'even'}-{os.environ['RANK']}.pt")


if __name__ == "__main__":
    tempfile.tempdir = sys.argv[1]
    _main(Path(sys.argv[1]))
