"""A linear regression that one process learns with two batches per step and two processes with one each."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from tokenry.core.train.training import LoopConfig, Training


class Numbers:
    def __getitem__(self, number):
        return torch.full((2, 3), float(number % 5) - 2.0)


def regression(batches_per_step):
    torch.manual_seed(0)
    module = nn.Linear(3, 1)
    config = LoopConfig(4, lambda step: 0.1, batches_per_step=batches_per_step)
    return module, Training(
        module, lambda batch: {"loss": (module(batch) - 1).square().mean()}, Numbers(), config
    )


def main(folder):
    module, training = regression(batches_per_step=1)
    training.run()
    if torch.distributed.get_rank() == 0:
        loss = torch.tensor(training.history["loss"])
        save_file({"weight": module.weight.detach(), "loss": loss}, folder / "weights.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
