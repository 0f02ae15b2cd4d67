"""The length of training and of its warm-up: the defaults, or less of each if there is little data.

Arguments that the user sets are left alone. The others follow the data, until there are `FEW_STEPS` optimisation steps:

    gradient accumulation   as much as leaves that many steps, else 1
    epochs                  as many as make that many steps, at most `MOST_EPOCHS`
    warm-up                 0 where its share of the steps is less than one step: the first step would be at a rate of 0
"""

import math
from collections.abc import Mapping
from typing import Any

from trl import SFTConfig

from tokenry.core.errors import UserError

FEW_STEPS = 20
MOST_EPOCHS = 5
_CHANGE_STEPS = ("gradient_accumulation_steps", "num_train_epochs")


def fitted_length(
    training: Mapping[str, Any], defaults: Mapping[str, Any], samples: int, processes: int = 1
) -> dict[str, Any]:
    """Complete what is said of training by how long it takes on so many samples.

    Args:
        training: the arguments of `SFTConfig` that are set.
        defaults: `num_train_epochs`, `gradient_accumulation_steps` and `warmup_steps` (a share of the steps) for plentiful data.
        samples: number of training samples.
        processes: number of processes that share every step; each has batches of its own.
    """
    fitted = {**defaults, **training}
    said = fitted.get("max_steps", -1) > 0
    left_open = defaults.keys() - training.keys() - ({*_CHANGE_STEPS} if said else set())
    batches = math.ceil(samples / max(1, fitted.get("per_device_train_batch_size", 8) * processes))

    def steps() -> int:
        if fitted.get("max_steps", -1) > 0:
            return int(fitted["max_steps"])
        of_an_epoch = math.ceil(batches / max(1, fitted["gradient_accumulation_steps"]))
        return math.ceil(fitted["num_train_epochs"] * of_an_epoch)

    if steps() < FEW_STEPS and "gradient_accumulation_steps" in left_open:
        enough = math.floor(batches * fitted["num_train_epochs"] / FEW_STEPS)
        fitted["gradient_accumulation_steps"] = min(max(1, enough), defaults["gradient_accumulation_steps"])
    if steps() < FEW_STEPS and "num_train_epochs" in left_open:
        of_an_epoch = math.ceil(batches / max(1, fitted["gradient_accumulation_steps"]))
        epochs = math.ceil(FEW_STEPS / of_an_epoch)
        fitted["num_train_epochs"] = max(min(epochs, MOST_EPOCHS), defaults["num_train_epochs"])
    if "warmup_steps" in left_open and steps() * defaults["warmup_steps"] < 1:
        fitted["warmup_steps"] = 0
    return fitted


def training_steps(args: SFTConfig, samples: int) -> int:
    """The number of optimisation steps on `samples` samples."""
    return args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * _epoch(args, samples))


def trained_epochs(args: SFTConfig, samples: int) -> float:
    """The number of epochs that these steps make."""
    return training_steps(args, samples) / _epoch(args, samples)


def _epoch(args: SFTConfig, samples: int) -> int:
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    return math.ceil(samples / (batch * args.world_size))


def require_ranges(args: SFTConfig) -> None:
    """Refuse training arguments under which nothing is learned, whatever the data."""
    for name in (
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
    ):
        if getattr(args, name) < 1:
            raise UserError(f"{name} must be at least 1, got {getattr(args, name)}.")
    if not args.learning_rate > 0:
        raise UserError(
            f"learning_rate must be above 0, got {args.learning_rate}: nothing would be learned; 1e-4 is usual with LoRA."
        )
    if args.max_steps == 0 or args.max_steps < -1:
        raise UserError(
            f"max_steps must be at least 1, or -1 for num_train_epochs to decide; got {args.max_steps}."
        )
    if args.max_steps < 0 and not args.num_train_epochs > 0:
        raise UserError(f"num_train_epochs must be above 0, got {args.num_train_epochs}.")
    for name in ("weight_decay", "max_grad_norm", "neftune_noise_alpha"):
        if (getattr(args, name) or 0) < 0:
            raise UserError(f"{name} must be 0 or more, got {getattr(args, name)}.")


def require_learning(args: SFTConfig, samples: int) -> None:
    """Refuse a training on so many samples whose only step is one of warm-up."""
    one_step = training_steps(args, samples) == 1
    if one_step and args.lr_scheduler_type != "constant" and args.get_warmup_steps(1) >= 1:
        raise UserError(
            "the only optimisation step would be one of warm-up, at a learning rate of 0: set warmup_steps=0, or train for longer."
        )


def length_in_words(fitted: Mapping[str, Any], defaults: Mapping[str, Any], samples: int) -> str | None:
    """Say how the length of training followed from the data; None where the defaults are kept."""
    longer = [name for name in ("num_train_epochs",) if fitted[name] > defaults[name]]
    shorter = [
        name for name in ("gradient_accumulation_steps", "warmup_steps") if fitted[name] < defaults[name]
    ]
    changed = [f"{name}={fitted[name]:g}" for name in (*longer, *shorter)]
    return f"{samples} samples are few, so they are trained on with {', '.join(changed)}" if changed else None
