"""Reinforcement learning that one process and two ranks must end alike; run by test_credit_distributed.py, on two CPU processes.

`python -m torch.distributed.run --nproc_per_node 2 -m tests.alignment.two_ranks FOLDER` writes what each rank has in the end.
A group of four of twelve responses is split between the ranks.
"""

import os
import sys
import tempfile
import traceback
from pathlib import Path

import torch

from tests.alignment.every_part import EveryPart
from tests.tiny.rollouts import grpo_trainer, written_rollouts
from tokenry.alignment import GroupCredit, Tempo, TokenCreditTrainer
from tokenry.alignment.credit import READS_RATIO

CREDITS = {
    "grpo": lambda: GroupCredit(),
    "tempo": lambda: Tempo(),
    "every part": lambda: EveryPart(which=READS_RATIO | {"advantages"}),
}


def run(name: str, folder: Path, ranks: int = 1) -> dict[str, torch.Tensor]:
    """Learn twice from each of two generations; the weights, and what was generated."""
    options = {"ddp_backend": "gloo", "ddp_timeout": 60} if ranks > 1 else {}
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
    found = {
        f"model.{name}": parameter.detach().clone() for name, parameter in trainer.model.named_parameters()
    }
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
    for name in CREDITS:
        try:
            torch.save(run(name, output, ranks=2), output / f"{name}-{rank}.pt")
        except Exception:
            (output / f"{name}-{rank}.txt").write_text(traceback.format_exc())
            raise


if __name__ == "__main__":
    tempfile.tempdir = sys.argv[1]
    _main(Path(sys.argv[1]))
