"""Traces that two processes estimate together; run by test_flatness_two_ranks.py.

`python -m torch.distributed.run --nproc_per_node 2 -m tests.pretraining.flatness_ranks FOLDER` writes what each rank found.
"""

import os
import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from tests import tiny
from tokenry.core.io.files import write_json
from tokenry.pretraining import DrawConfig, fisher_trace, hessian_trace

ROWS = torch.randint(5, 60, (8, 6), generator=torch.Generator().manual_seed(0)).split(2)
BATCHES = [{"input_ids": rows} for rows in ROWS]


def found(model, batches, folder=None):
    """Both traces over these batches."""
    config = DrawConfig(every=2, folder=folder)
    hessian = hessian_trace(model, batches, len(batches), config=config)
    fisher = fisher_trace(model, batches, "data", per="sequence")
    return {
        "hessian": [hessian.mean, hessian.stderr, hessian.estimate.samples],
        "fisher": [fisher.mean, fisher.stderr],
    }


def found_by_ddp(batches, folder):
    """The model is gone before the group is: freed last, its reducer ends Gloo's thread while it holds the lock that thread waits for."""
    return found(DistributedDataParallel(tiny.llama()), batches, folder)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    write_json(folder / f"found-{rank}.json", found_by_ddp(BATCHES[rank::2], folder / "draws"))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
