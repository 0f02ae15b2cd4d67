"""From a plan to TRL: the training arguments."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from trl import SFTConfig

from tokenry.core.errors import UserError
from tokenry.verbs._training import require_device
from tokenry.verbs.tune import Plan


def sft_config(plan: Plan, folder: Path, training: Mapping[str, Any]) -> SFTConfig:
    """Make the training arguments of a run.

    Args:
        training: training arguments of the plan, with the training length filled in.
    """
    options = {
        "output_dir": str(folder),
        "max_length": plan.max_length if training.get("packing") else None,  # the data fits already
        "seed": plan.seed,
        "bf16": False,  # the model itself runs in the dtype of the plan
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 0.1,
        "save_total_limit": 2,  # the newest may not be whole yet
        "report_to": [],
        "disable_tqdm": True,
        "log_level": "error",
        "log_level_replica": "error",
        "dataloader_pin_memory": torch.cuda.is_available(),
        **training,
    }
    if plan.device == "cpu":
        options = {"use_cpu": True, **options}
    try:
        args = SFTConfig(**options)
    except (TypeError, ValueError, ImportError, OSError, RuntimeError) as error:
        raise UserError(f"a training argument is not right: {' '.join(str(error).split())}") from error
    require_device(args, plan.device)
    return args
