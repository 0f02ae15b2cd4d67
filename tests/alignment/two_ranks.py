"""Trainings that one process and two ranks must end alike; run by test_two_ranks.py, on two CPU processes.

`python -m torch.distributed.run --nproc_per_node 2 -m tests.alignment.two_ranks FOLDER` writes what each rank has in the end.
In reinforcement learning a group of four of twelve responses is split between the ranks.
"""

import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch

from tests import tiny
from tests.alignment.every_part import EveryPart
from tests.tiny.preferences import dpo_config, preference_rows
from tests.tiny.rollouts import grpo_trainer, written_rollouts
from tests.tiny.tokenizers import word_tokenizer
from tokenry.alignment import GroupCredit, PreferenceTrainer, Tempo, TokenCreditTrainer
from tokenry.alignment.credit import READS_RATIO

CREDITS = {
    "grpo": lambda: GroupCredit(),
    "tempo": lambda: Tempo(),
    "every part": lambda: EveryPart(which=READS_RATIO | {"advantages"}),
}

PREFERENCES = {
    "dpo": {},
    "formula, normalised": {"loss": "L -> W | given W or L", "update": "normalised"},
}


def run(name: str, folder: Path, ranks: int = 1) -> dict[str, torch.Tensor]:
    """Train by a credit or a preference loss."""
    options = {"ddp_backend": "gloo", "ddp_timeout": 60} if ranks > 1 else {}
    return (_prefer if name in PREFERENCES else _learn)(name, folder, ranks, options)


def _prefer(name: str, folder: Path, ranks: int, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Three steps of four pairs; the weights and the logged margins."""
    trainer = PreferenceTrainer(
        tiny.llama(),
        ref_model=tiny.llama(seed=1),
        args=dpo_config(folder, per_device_train_batch_size=4 // ranks, **options),
        train_dataset=preference_rows(),
        processing_class=word_tokenizer(),
        **PREFERENCES[name],
    )
    trainer.train()
    margins = [log["rewards/margins"] for log in trainer.state.log_history if "rewards/margins" in log]
    return {"margins": torch.tensor(margins), **_weights(trainer.model)}


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {f"model.{name}": parameter.detach().clone() for name, parameter in model.named_parameters()}


def _learn(name: str, folder: Path, ranks: int, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Learn twice from each of two generations; the weights, and what was generated."""
    credit = CREDITS[name]()
    trainer = grpo_trainer(
        TokenCreditTrainer,
        folder,
        others={"credit": credit, "rollout_func": written_rollouts},
        per_device_train_batch_size=6 // ranks,
        steps_per_generation=2,
        gradient_accumulation_steps=2,
        num_iterations=2,
        max_steps=4,
        optim="sgd",
        learning_rate=0.5,
        **options,
    )
    trainer.train()
    found = _weights(trainer.model)
    logs = [log for log in trainer.state.log_history if "reward" in log]
    report = [log[key] for log in logs for key in sorted(log) if key.startswith("credit/")]
    found |= {f"generation.{name}": values for name, values in trainer.generation._asdict().items()}
    found["report"] = torch.tensor(report)
    if isinstance(credit, EveryPart):
        found["batch_sizes"] = torch.tensor([len(mask) for _, mask in credit.calls("entropy_signal")])
    return found


def _main(output: Path) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    for name in (*CREDITS, *PREFERENCES):
        try:
            torch.save(run(name, output, ranks=2), output / f"{name}-{rank}.pt")
        except Exception:
            (output / f"{name}-{rank}.txt").write_text(traceback.format_exc())
            raise


if __name__ == "__main__":
    tempfile.tempdir = sys.argv[1]
    _main(Path(sys.argv[1]))
