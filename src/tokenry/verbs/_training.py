"""What every verb that trains needs: steps told and timed, peak memory, the device, and the folder of a run."""

import gc
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from tokenry.core.errors import UserError
from tokenry.core.io.files import new_folder
from tokenry.core.io.ranks import by_first, processes
from tokenry.core.io.workspace import Workspace
from tokenry.core.plans import plan_settings
from tokenry.finetuning.interruption import StopAfterStep
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._side_by_side import Interrupted
from tokenry.verbs._stages import Stages
from tokenry.verbs._step_training import StepTraining

_MAY_DIFFER = ("output", "resume", "device", "dtype", "save_every")


class TellSteps(TrainerCallback):
    """Tells the share of the optimisation steps that is done as that of the present stage, with step and loss.

    Args:
        stages: the stages to tell.
        last: the last step of the stage; None for all steps.
    """

    def __init__(self, stages: Stages, last: int | None = None) -> None:
        self._stages, self._loss, self._first, self._last = stages, "", 0, last

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin where a resumed training does, if it is one of several stages."""
        self._first = state.global_step if self._last else 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the step."""
        self._tell(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Tell the loss."""
        if logs and "loss" in logs:
            self._loss = f", loss {float(logs['loss']):.3f}"
            self._tell(state)

    def _tell(self, state: Any) -> None:
        details = f"step {state.global_step:,} of {state.max_steps:,}{self._loss}"
        steps = (self._last or state.max_steps) - self._first
        self._stages.tell((state.global_step - self._first) / max(1, steps), details)


class StepClock(TrainerCallback):
    """Times the optimisation steps; the time of each stands in the trainer's log, which outlives an interruption."""

    def __init__(self) -> None:
        self.steps, self._seconds, self._unlogged, self._began = 0, 0.0, 0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start."""
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop."""
        self._seconds += time.perf_counter() - self._began
        self._unlogged += 1
        self.steps += 1

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the mean time of the steps since the last entry to this one."""
        if self._unlogged:
            state.log_history[-1]["seconds_per_step"] = self._seconds / self._unlogged
            self._seconds, self._unlogged = 0.0, 0


class PeakMemory:
    """Measures the highest memory of this process while open, in megabytes; `peak_mb` is None where it cannot be told.

    On a GPU it is the memory that torch allocated there, else the resident memory that Linux reports.
    """

    peak_mb: float | None = None

    def __enter__(self) -> "PeakMemory":
        gc.collect()  # a trainer and its callbacks hold each other
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            return self
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
            self._told = True
        except OSError:
            self._told = False
        return self

    def __exit__(self, *_: object) -> None:
        if torch.cuda.is_available():
            self.peak_mb = torch.cuda.max_memory_allocated() / 1e6
        elif self._told:
            status = Path("/proc/self/status").read_text()
            self.peak_mb = int(status.split("VmHWM:")[1].split()[0]) / 1e3


def own_training(plan: Any) -> dict[str, Any]:
    """The training arguments that a plan's fields are, and those of every training that a verb reports itself; the model keeps its dtype."""
    device = plan.hardware.place().type
    return {
        "output_dir": str(plan.output / "checkpoints"),
        "per_device_train_batch_size": plan.batch_size,
        "num_train_epochs": plan.epochs,
        "max_steps": plan.max_steps or -1,
        "max_length": plan.max_length,
        "seed": plan.seed,
        "bf16": False,
        "use_cpu": device == "cpu",
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": device == "cuda",
    }


def step_arguments(plan: StepTraining, **own: Any) -> TrainingArguments:
    """The arguments of a stock `Trainer` that a plan's fields are, and those of every training that a verb reports itself."""
    device = plan.hardware.place().type
    return TrainingArguments(
        output_dir=str(plan.output / "checkpoints"),
        max_steps=plan.steps,
        per_device_train_batch_size=plan.batch_size,
        per_device_eval_batch_size=plan.batch_size,
        learning_rate=plan.learning_rate,
        seed=plan.seed,
        use_cpu=device == "cpu",
        logging_steps=max(1, plan.steps // 100),
        save_strategy="steps",
        save_steps=plan.save_every,
        save_total_limit=1,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=device == "cuda",
        **own,
    )


def take_steps(plan: StepTraining, trainer: Trainer, stages: Stages, cost: float = 1.0) -> None:
    """Train by `step_arguments`, as the stage `training`, from the last checkpoint where the plan resumes.

    Raises:
        UserError: the weights are split between processes, or the folder holds another training.
    """
    if splits_weights(trainer.args):
        raise UserError(
            "the model is saved whole, and FSDP and DeepSpeed split its weights: launch with DDP, or train it in Python."
        )
    folder = trainer.args.output_dir
    _claim_checkpoints(plan, Path(folder))
    trainer.add_callback(TellSteps(stages))
    stages.begin("training", cost)
    checkpoint = get_last_checkpoint(folder) if plan.resume else None
    train_or_stop(trainer, stages, checkpoint, "; go on with --resume.")


def train_or_stop(trainer: Trainer, stages: Stages, checkpoint: str | None, kept: str = "") -> None:
    """Train, from a checkpoint where there is one; Ctrl-C ends the step and keeps a checkpoint of it.

    Args:
        kept: ends the sentence on where it was stopped.

    Raises:
        Interrupted: the user stopped it.
    """
    stop = StopAfterStep(told=lambda: stages.say("stopping after this step (Ctrl-C: at once)"))
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(stop)
    with stop:
        trainer.train(resume_from_checkpoint=checkpoint)
    if stop.stopped:
        step, steps = trainer.state.global_step, trainer.state.max_steps
        raise Interrupted(f"stopped after step {step} of {steps} of {stages.what}{kept}")


def logged_curve(trainer: Trainer, columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """The steps whose log entry holds all of `columns`, under the names that these map to."""
    return [
        {"step": entry["step"], **{name: entry[key] for key, name in columns.items()}}
        for entry in trainer.state.log_history
        if entry.keys() >= columns.keys()
    ]


def logged_points(trainer: Trainer, names: Iterable[str]) -> list[dict[str, Any]]:
    """The steps whose log entry holds a loss, with those of the figures `names` that it holds."""
    history = trainer.state.log_history
    shown = ("step", *names)
    return [{name: entry[name] for name in shown if name in entry} for entry in history if "loss" in entry]


def logged_numbers(trainer: Trainer) -> list[dict[str, float]]:
    """The finite numbers of every log entry that holds a loss."""
    return [
        {
            name: float(value)
            for name, value in entry.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


def require_device(args: TrainingArguments, device: str | None) -> None:
    """Refuse a device that is not there, or not the one that the training arguments lead to."""
    asked = Hardware(device).place()
    if device and (asked.type != args.device.type or (asked.index or 0) != (args.device.index or 0)):
        raise UserError(
            f"training would run on {args.device}, not on {device}: leave use_cpu out, and choose among GPUs by CUDA_VISIBLE_DEVICES."
        )


def splits_weights(args: TrainingArguments) -> bool:
    """Whether FSDP or DeepSpeed will split the weights between the processes, by these arguments or by `accelerate launch`."""
    launched = [os.environ.get(f"ACCELERATE_USE_{name}", "false") for name in ("FSDP", "DEEPSPEED")]
    return processes() > 1 and bool(args.fsdp or args.deepspeed or "true" in map(str.lower, launched))


@by_first
def _claim_checkpoints(plan: StepTraining, checkpoints: Path) -> None:
    settings = plan_settings(plan, without=_MAY_DIFFER)
    workspace = Workspace(checkpoints, settings, "run.json")
    if workspace.is_begun and not plan.resume:
        raise UserError(
            f"{checkpoints} holds a training that was begun: resume it (--resume), or name a new folder."
        )
    workspace.claim(
        f"{checkpoints} belongs to a training with other settings: give the same ones, or name a new folder."
    )


@by_first
def remove_checkpoints(folder: Path, but: int | None = None) -> None:
    """Remove what a run would go on from, but one step."""
    for checkpoint in folder.glob("checkpoint-*"):
        if step_of(checkpoint) != but:
            shutil.rmtree(checkpoint, ignore_errors=True)


@by_first
def save_parts(folder: Path, *parts: Any) -> None:
    """Save a model and what belongs to it, such as its tokenizer, into one new folder, which is whole or absent."""
    with new_folder(folder) as partial:
        for part in parts:
            part.save_pretrained(partial)


def save_model(trainer: Trainer, folder: Path) -> None:
    """Save model and tokenizer; the folder is whole or absent. Weights that are shared between processes are gathered."""
    weights = trainer.accelerator.get_state_dict(trainer.model) if processes() > 1 else None
    _save(trainer, folder, weights)


@by_first
def _save(trainer: Trainer, folder: Path, weights: dict[str, Any] | None) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    trainer.model.save_pretrained(partial, state_dict=weights)
    trainer.processing_class.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def step_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was saved."""
    return int(checkpoint.name.rpartition("-")[2])
