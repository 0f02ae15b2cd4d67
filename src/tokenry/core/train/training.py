"""Trains any module by its own loss, resumes it exactly, and leaves the rest to `transformers.Trainer`.

    step n      loss(batches[n])["loss"] is differentiated, AdamW takes a step with learning_rate(n)

Several processes (DDP through accelerate), trackers, callbacks and every other `TrainingArguments` come with the Trainer.

    training = Training(model, lambda batch: {"loss": model(**batch).loss}, batches, LoopConfig(100, lambda step: 1e-4))
    training.run(Path("runs/electra"), resume=True, progress=print)
    training.history["loss"]
"""

import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import atomic_write
from tokenry.core.io.progress import Progress
from tokenry.core.train.adamw import AdamWSettings
from tokenry.core.train.checkpoints import apart, checkpoints_in, is_finished

Values = Mapping[str, Tensor | float]
"""The `loss` of a batch, which is differentiated, and whatever else is to be recorded: always the same names."""

_RECORD = "history.safetensors"
_EARLIER_CHECKPOINT = "checkpoint.safetensors"


@runtime_checkable
class NumberedBatches(Protocol):
    """Batches by number: batch `n` is always the same, whatever was asked for before; a `range` where the number is enough."""

    def __getitem__(self, number: int, /) -> Any: ...


@dataclass(frozen=True)
class LoopConfig:
    """The loop of a training.

    Attributes:
        learning_rate: learning rate of each step, from 0.
        batches_per_step: batches whose mean loss is one step: their gradients are accumulated.
        bfloat16: compute the loss in mixed precision.
        save_every: steps between checkpoints, of which the last is kept.
    """

    steps: int
    learning_rate: Callable[[int], float]
    adamw: AdamWSettings = field(default_factory=AdamWSettings)
    batches_per_step: int = 1
    bfloat16: bool = False
    seed: int = 0
    save_every: int = 1000

    def __post_init__(self) -> None:
        require_at_least(
            1, steps=self.steps, batches_per_step=self.batches_per_step, save_every=self.save_every
        )


class Training:
    """A training of the trainable parameters of a module.

    Args:
        module: any module, on the device on which it is to be trained.
        loss: computes the values of one batch with the module.
        batches: step `n` takes the batches from `n * batches_per_step`; with several processes each takes its share of the numbers.
        fingerprint: everything that determines the training; a checkpoint of another is refused.
        callbacks: of transformers, such as an evaluation every few steps.
        **arguments: any other `TrainingArguments`, such as `report_to="tensorboard"`.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[Any], Values],
        batches: NumberedBatches,
        config: LoopConfig,
        fingerprint: str = "",
        callbacks: Sequence[TrainerCallback] = (),
        **arguments: Any,
    ) -> None:
        self._stepped = _Stepped(module, loss)
        self._batches, self._config = batches, config
        self._callbacks, self._arguments = callbacks, arguments
        self._record = _Recorder(config.batches_per_step, fingerprint)

    @property
    def history(self) -> dict[str, list[float]]:
        """What was recorded, one value per step: the learning rate, and the values of `loss`."""
        return self._record.history

    def run(
        self,
        folder: str | os.PathLike | None = None,
        resume: bool = False,
        progress: Progress = lambda what, share: None,
        stage: Callable[[int], str] = lambda step: "training",
    ) -> None:
        """Take the steps that are left.

        Args:
            folder: folder of the checkpoints; None to keep none.
            resume: resume from the last checkpoint in the folder, if there is one.
            progress: called before each step.
            stage: names a step for the progress.

        Raises:
            UserError: the folder holds a checkpoint and `resume` is off, or one that is damaged or of another training.
        """
        checkpoint = None if folder is None else self._begin(Path(folder), resume)
        with _own_randomness(), TemporaryDirectory() if folder is None else nullcontext(folder) as output:
            arguments = self._training_arguments(Path(output), keep=folder is not None)
            trainer = _Trainer(self._stepped, self._batches, self._config, self._record, arguments)
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(_Told(progress, stage))
            for callback in self._callbacks:
                trainer.add_callback(callback)
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        self._stepped.zero_grad()
        progress("done", 1.0)

    def _begin(self, folder: Path, resume: bool) -> Path | None:
        """The checkpoint to resume from; None to begin anew."""
        finished = [checkpoint for checkpoint in checkpoints_in(folder) if is_finished(checkpoint)]
        earlier = folder / _EARLIER_CHECKPOINT
        if not (finished or earlier.exists()):
            return None
        if not resume:
            raise UserError(
                f"{folder} holds a training that was begun: resume it (--resume), or name a new folder."
            )
        if not finished:
            _read_record(earlier)
            raise UserError(
                f"{earlier} was written by an earlier version, which alone can resume it: name a new folder."
            )
        if _read_record(finished[-1] / _RECORD)[0].get("fingerprint") != self._record.fingerprint:
            raise UserError(
                f"{finished[-1]} belongs to a training with another model, tokenizer, texts or settings: give the same ones, or name a "
                "new folder."
            )
        return finished[-1]

    def _training_arguments(self, output: Path, keep: bool) -> TrainingArguments:
        config, adamw = self._config, self._config.adamw
        device = next(self._stepped.parameters()).device
        options: dict[str, Any] = {
            "output_dir": str(output),
            "max_steps": config.steps,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": config.batches_per_step,
            "learning_rate": 1.0,  # times learning_rate(step), see create_scheduler
            "optim": "adamw_torch",
            "adam_beta1": adamw.beta1,
            "adam_beta2": adamw.beta2,
            "adam_epsilon": adamw.epsilon,
            "weight_decay": adamw.weight_decay,
            "max_grad_norm": adamw.max_gradient_norm,
            "bf16": config.bfloat16,
            "seed": config.seed,
            "save_strategy": "steps" if keep else "no",
            "save_steps": config.save_every,
            "save_total_limit": 1,
            "logging_strategy": "no",
            "logging_nan_inf_filter": False,
            "report_to": "none",
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "dataloader_pin_memory": device.type == "cuda",
            "use_cpu": device.type == "cpu",
        }
        arguments = TrainingArguments(**(options | self._arguments))
        if arguments.world_size == 1:
            # One process drives the device of the module, not all that there are, nor the first of them.
            arguments._n_gpu = min(arguments.n_gpu, 1)
            if device.type == "cuda":
                torch.cuda.set_device(device)
                arguments.__dict__["_setup_devices"] = device
        return arguments


class _Stepped(nn.Module):
    """The module with its loss: what is wrapped for several processes and mixed precision, so that the module itself stays as it is."""

    def __init__(self, module: nn.Module, loss: Callable[[Any], Values]) -> None:
        super().__init__()
        self.module = module
        self._loss = loss

    def forward(self, batch: Any) -> dict[str, Any]:
        return dict(self._loss(batch))


class _Recorder:
    """What was recorded of each step, the means over its batches; a file of it stands in every checkpoint."""

    def __init__(self, batches_per_step: int, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.history: dict[str, list[float]] = {}
        self._batches_per_step = batches_per_step
        self._batches: list[dict[str, float]] = []

    def add(self, values: dict[str, float]) -> None:
        self._batches.append(values)
        if len(self._batches) == self._batches_per_step:
            for name in values:
                mean = sum(batch[name] for batch in self._batches) / len(self._batches)
                self.history.setdefault(name, []).append(mean)
            self._batches = []

    def save(self, path: Path) -> None:
        metadata = {"names": json.dumps(list(self.history)), "fingerprint": self.fingerprint}
        columns = {name: torch.tensor(values, dtype=torch.float64) for name, values in self.history.items()}
        with atomic_write(path) as partial:
            save_file(columns, partial, metadata)

    def load(self, path: Path) -> None:
        metadata, columns = _read_record(path)
        self.history = {name: columns[name].tolist() for name in json.loads(metadata["names"])}
        self._batches = []


def _read_record(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as opened:
            return opened.metadata() or {}, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it to begin anew.") from error


class _Numbers(Dataset):
    """The batches of a training as a data set of that many items."""

    def __init__(self, batches: NumberedBatches, length: int) -> None:
        self._batches, self._length = batches, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"batch": self._batches[number]}


def _only(items: list[dict[str, Any]]) -> dict[str, Any]:
    return items[0]


class _Trainer(Trainer):
    """The Trainer with numbered batches, one learning rate per step, and a record of every step."""

    def __init__(
        self,
        stepped: _Stepped,
        batches: NumberedBatches,
        config: LoopConfig,
        record: _Recorder,
        arguments: TrainingArguments,
    ) -> None:
        items = config.steps * config.batches_per_step * arguments.world_size
        super().__init__(stepped, arguments, train_dataset=_Numbers(batches, items), data_collator=_only)
        self._rate, self._record = config.learning_rate, record

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        self._created_lr_scheduler = True
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: self._rate(step))
        return self.lr_scheduler

    def compute_loss(self, model: nn.Module, inputs: Mapping[str, Any], *_: Any, **__: Any) -> Tensor:
        values = model(inputs["batch"])
        numbers = torch.tensor(
            [float(value.detach() if isinstance(value, Tensor) else value) for value in values.values()],
            dtype=torch.float64,
        )
        if self.args.world_size > 1:
            numbers = self.accelerator.reduce(numbers.float().to(self.args.device), "mean").double()
        rate = float(self.lr_scheduler.get_last_lr()[0])
        self._record.add({"learning_rate": rate, **dict(zip(values, numbers.tolist(), strict=True))})
        return values["loss"]

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        if "loss" in logs:
            logs |= {name: values[-1] for name, values in self._record.history.items() if name not in logs}
        super().log(logs, *args, **options)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict or apart(self.model.state_dict()))
        self._record.save(Path(output_dir or self.args.output_dir) / _RECORD)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        checkpoint = Path(resume_from_checkpoint)
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{checkpoint} is damaged ({error}): remove it to begin anew.") from error
        self._record.load(checkpoint / _RECORD)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        step = 0 if checkpoint is None else int(Path(checkpoint).name.rpartition("-")[2])
        if self.lr_scheduler.last_epoch != step:
            # A checkpoint without the state of its optimiser: the moments begin anew, the steps do not.
            self.lr_scheduler = LambdaLR(self.optimizer, self.lr_scheduler.lr_lambdas, step - 1)


class _Told(TrainerCallback):
    def __init__(self, progress: Progress, stage: Callable[[int], str]) -> None:
        self._progress, self._stage = progress, stage

    def on_step_begin(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._progress(self._stage(state.global_step), state.global_step / state.max_steps)


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Give the Trainer, which seeds every generator there is, its own; what others draw is as if it had not run."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
