"""An exponential moving average of the weights of a model in training, as a callback of `transformers.Trainer`.

average ← decay · average + (1 − decay) · current        after every step of the optimiser

average = WeightAverage(decay=0.9999)
Trainer(model, arguments, train_dataset=data, callbacks=[average]).train()
with average.in_place(model):
    model.save_pretrained("averaged")
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tokenry.core.errors import UserError
from tokenry.core.io.files import atomic_write

AVERAGES = "averages.safetensors"
"""The file of the averages in a checkpoint."""


class WeightAverage(TrainerCallback):
    """The average of every trainable parameter; saved with every checkpoint, and resumed from it.

    Args:
        decay: share of the average that a step keeps.
        resume_from: checkpoint that the training resumes from, if it is not one in the output folder of the Trainer.

    Attributes:
        averages: the averaged parameters by name; none before training.

    Raises:
        UserError: a decay outside [0, 1).
    """

    def __init__(self, decay: float = 0.9999, resume_from: str | os.PathLike | None = None) -> None:
        if not 0.0 <= decay < 1.0:
            raise UserError(f"the decay of the moving average must be in [0, 1), got {decay}.")
        self.decay = decay
        self.averages: dict[str, Tensor] = {}
        self._resume_from = resume_from

    def start(self, model: nn.Module) -> None:
        """Start from the weights of `model` as they are."""
        self.averages.clear()
        self.averages.update({name: parameter.detach().clone() for name, parameter in _trained(model)})

    def follow(self, model: nn.Module) -> None:
        """Move the averages towards the weights of `model`."""
        with torch.no_grad():
            for name, parameter in _trained(model):
                moving_average(self.averages[name], parameter.detach(), self.decay)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Put the averages in place of the weights of `model` inside the context."""
        with torch.no_grad():
            current = {name: parameter.detach().clone() for name, parameter in _trained(model)}
            for name, parameter in _trained(model):
                parameter.copy_(self.averages[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in _trained(model):
                    parameter.copy_(current[name])

    def restore(self, averages: dict[str, Tensor]) -> None:
        """Restore saved averages."""
        for name, average in self.averages.items():
            average.copy_(averages[name])

    def save(self, folder: Path) -> None:
        """Save the averages in a checkpoint, from the first process; sharded ones are gathered by all."""
        whole = {name: _whole(average).cpu().contiguous() for name, average in self.averages.items()}
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            with atomic_write(folder / AVERAGES) as partial:
                save_file(whole, partial)

    def load(self, folder: Path) -> None:
        """Resume from a checkpoint.

        Raises:
            UserError: the checkpoint has no averages, or damaged ones.
        """
        try:
            saved = load_file(folder / AVERAGES)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{folder} holds no moving average that can be read ({error}): resume from a checkpoint that was saved with one, or leave "
                "the callback out."
            ) from error
        for name, average in self.averages.items():
            average.copy_(_sharded_like(average, saved[name]))

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        """Start from the model, or from the averages of the checkpoint."""
        assert model is not None
        self.start(_inner(model))
        if state.global_step > 0:
            in_output = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            self.load(in_output if self._resume_from is None else Path(self._resume_from))

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        """Follow the model."""
        assert model is not None
        self.follow(_inner(model))

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Save the averages with the checkpoint."""
        self.save(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")


def moving_average(average: Tensor, current: Tensor, decay: float) -> Tensor:
    """Update `average` in place to decay · average + (1 − decay) · current, and return it.

    Source: ssToken (arXiv 2510.18250), history update with alpha = decay.
    """
    return average.mul_(decay).add_(current.to(average.device), alpha=1 - decay)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _inner(model: nn.Module) -> nn.Module:
    """The model itself where the Trainer hands it wrapped for several processes."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def _whole(average: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    return average.full_tensor() if isinstance(average, DTensor) else average


def _sharded_like(average: Tensor, whole: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(average, DTensor):
        return whole
    return distribute_tensor(whole.to(average.device), average.device_mesh, average.placements)
