"""A training that one process and two ranks must end alike: `python -m tests.decoding.multi_token.two_ranks FOLDER` on each rank."""

import os
import sys
from pathlib import Path

import torch

from tests.decoding.multi_token.test_training import even_rows, trained, weights

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    trainer = trained(folder / "run", rows=even_rows(), per_device_train_batch_size=2)
    torch.save(weights(trainer.drafter), folder / f"{os.environ['RANK']}.pt")
