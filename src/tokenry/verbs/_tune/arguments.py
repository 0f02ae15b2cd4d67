"""From a plan to TRL and PEFT: the training arguments and the adapter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from trl import SFTConfig

from tokenry.core.errors import UserError
from tokenry.verbs._hardware import Hardware
from tokenry.verbs.tune import Plan


def sft_config(plan: Plan, folder: Path, training: Mapping[str, Any]) -> SFTConfig:
    """Make the training arguments of a run.

    Args:
        plan: plan of the run.
        folder: folder of the checkpoints.
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
        "dataloader_pin_memory": torch.cuda.is_available(),
        **training,
    }
    if plan.device == "cpu":
        options = {"use_cpu": True, **options}
    try:
        args = SFTConfig(**options)
    except (TypeError, ValueError, ImportError, OSError, RuntimeError) as error:
        raise UserError(f"a training argument is not right: {' '.join(str(error).split())}") from error
    _require_device(args, plan.device)
    return args


def _require_device(args: SFTConfig, device: str | None) -> None:
    """Refuse a device that is not there, or not the one that the training arguments lead to."""
    asked = Hardware(device).place()
    if device and (asked.type != args.device.type or (asked.index or 0) != (args.device.index or 0)):
        raise UserError(
            f"training would run on {args.device}, not on {device}: leave use_cpu out, and choose among GPUs by CUDA_VISIBLE_DEVICES."
        )


def lora_config(plan: Plan, model: PreTrainedModel) -> LoraConfig | None:
    """Adapt every linear map but the output head, from the first layer asked for."""
    if plan.lora is None:
        return None
    layers = model.config.get_text_config().num_hidden_layers
    if plan.lora.first_layer >= layers:
        raise UserError(
            f"lora.first_layer must be below the model's {layers} layers, got {plan.lora.first_layer}."
        )
    head = model.get_output_embeddings()
    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    }
    return LoraConfig(
        r=plan.lora.rank,
        lora_alpha=plan.lora.alpha,
        lora_dropout=plan.lora.dropout,
        target_modules=sorted(linear),
        layers_to_transform=list(range(plan.lora.first_layer, layers)) if plan.lora.first_layer else None,
        task_type="CAUSAL_LM",
    )
