"""What token weighing cannot do, said in one sentence before any work starts."""

import inspect
from collections.abc import Mapping
from typing import Any

import trl
from datasets import IterableDataset
from torch import nn
from trl import SFTTrainer

from tokenry.core.attention import attention_layers, resolve_layers
from tokenry.core.errors import UserError
from tokenry.finetuning.weighing import TokenWeighing


def refuse_arguments(weighing: TokenWeighing, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of `SFTTrainer` under which tokens cannot be weighed.

    Raises:
        UserError: one sentence saying which, and what to do.
    """
    if not isinstance(weighing, TokenWeighing):
        raise UserError(
            f"weighing must be a TokenWeighing such as SSToken(share=0.6), got {type(weighing).__name__}."
        )
    overrides_weigh = type(weighing).weigh is not TokenWeighing.weigh
    if overrides_weigh and type(weighing).weight_sum is TokenWeighing.weight_sum:
        raise UserError(
            f"{type(weighing).__name__} defines `weigh` but not `weight_sum`: say what its weights sum to, so that the loss "
            "can be divided by it under gradient accumulation, or define `score` instead of `weigh`."
        )
    if "packing" not in inspect.signature(SFTTrainer._prepare_dataset).parameters:
        raise UserError(
            f"trl {trl.__version__} prepares data in a way that tokenry does not know: install a tested version."
        )
    if arguments.get("compute_loss_func") is not None:
        raise UserError("compute_loss_func replaces the loss that tokens are weighed in: leave it out.")
    if isinstance(arguments.get("train_dataset"), IterableDataset) and weighing.needs - {
        "nll",
        "entropy",
        "prompt_attention",
    }:
        raise UserError(
            f"{type(weighing).__name__} looks up numbers by token, which a streamed data set does not allow: load it whole, "
            "or use a weighing that needs the current loss only."
        )
    config = arguments.get("args")
    if config is not None:
        _refuse_config(weighing, config)
    peft_config = arguments.get("peft_config")
    if peft_config is not None and getattr(peft_config, "is_prompt_learning", False):
        raise UserError(
            "prompt tuning puts virtual tokens before the text, so tokens cannot be told apart: use LoRA."
        )


def _refuse_config(weighing: TokenWeighing, config: Any) -> None:
    liger = getattr(config, "liger_kernel_config", None) or {}
    if getattr(config, "use_liger_kernel", False) and liger.get("fused_linear_cross_entropy", True):
        raise UserError(
            "Liger's fused loss replaces the model's forward, so no token could be weighed: set use_liger_kernel=False, or "
            "liger_kernel_config={'fused_linear_cross_entropy': False} to keep its layer kernels."
        )
    if getattr(config, "loss_type", "nll") not in ("nll", "chunked_nll"):
        raise UserError(
            f"loss_type={config.loss_type!r} weighs tokens itself: use loss_type='nll' with a weighing."
        )
    if getattr(config, "label_smoothing_factor", 0.0):
        raise UserError("label_smoothing_factor cannot be combined with token weighing: set it to 0.")
    wrapped = getattr(config, "packing", False) and config.packing_strategy == "wrapped"
    if wrapped and weighing.needs:
        raise UserError(
            "packing_strategy='wrapped' cuts samples apart, so tokens cannot be ranked within them: use 'bfd'."
        )


def refuse_model(weighing: TokenWeighing, trainer: SFTTrainer) -> None:
    """Refuse what only the built trainer can tell: parallelism, auxiliary losses, layers, a warm-up without end.

    Raises:
        UserError: one sentence saying which, and what to do.
    """
    parallelism = getattr(trainer.accelerator, "parallelism_config", None)
    for name in ("cp_enabled", "sp_enabled", "tp_enabled"):
        if getattr(parallelism, name, False):
            raise UserError(
                "token weighing needs whole samples on each rank, which context, sequence and tensor parallelism split: "
                "use DDP, FSDP or DeepSpeed ZeRO."
            )
    if getattr(trainer, "aux_loss_enabled", False):
        raise UserError(
            "the load-balancing loss of this mixture-of-experts model is not supported under token weighing: set "
            "router_aux_loss_coef=0.0."
        )
    if getattr(trainer, "_is_vision_dataset", False):
        raise UserError("token weighing is for text: the training data has images.")
    if "prompt_attention" in weighing.needs and weighing.share < 1.0:
        resolve_layers(weighing.attention_probe.layers, len(attention_layers(trainer.model)))
    epochs = trainer.args.num_train_epochs
    if weighing.share < 1.0 and trainer.args.max_steps <= 0 and not weighing.selects(epochs - 1e-6):
        raise UserError(
            f"{type(weighing).__name__} learns from all tokens for longer than the {epochs:g} epochs of this training, so "
            "nothing would ever be selected: raise num_train_epochs or lower warmup_epochs."
        )


def has_whole_weights(model: nn.Module) -> bool:
    """Tell whether every parameter lies whole on this rank (not on the meta device, not partitioned by ZeRO-3)."""
    return all(p.device.type != "meta" and not hasattr(p, "ds_id") for p in model.parameters())
