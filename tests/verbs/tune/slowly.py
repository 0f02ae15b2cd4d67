"""`python -m tokenry` with slow steps, so that what is watched is stopped in the midst of them."""

import runpy
import time

import torch

from tokenry.finetuning.interruption import StopAfterStep

if __name__ == "__main__":
    torch.set_num_threads(1)
    StopAfterStep.on_step_begin = lambda *_, **__: time.sleep(0.05)
    runpy.run_module("tokenry", run_name="__main__")
