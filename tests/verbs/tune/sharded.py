"""`python -m tokenry` on ranks under FSDP2, as `accelerate launch --use_fsdp --fsdp_version 2` starts them.

accelerate shards on accelerators only, which the CPU processes are declared to be here: without that they train under DDP.
"""

import os
import runpy

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

LAUNCHED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}
_begin = PartialState.__init__


def _as_accelerators(state: PartialState, *arguments: object, **options: object) -> None:
    _begin(state, *arguments, **options)
    if state.distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ |= LAUNCHED
    PartialState.__init__ = _as_accelerators
    runpy.run_module("tokenry", run_name="__main__")
