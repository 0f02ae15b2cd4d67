"""Ctrl-C during training ends the step, saves a checkpoint and stops; a second Ctrl-C stops at once.

Several processes stop after the same step, whichever of them were interrupted and in whichever step.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StopAfterStep(TrainerCallback):
    """Inside the context, an interrupt stops the trainer in order; `stopped` is then True.

    Args:
        told: called when an interrupt arrives, as the step may take long to end.
    """

    def __init__(self, told: Callable[[], None] = lambda: None) -> None:
        self.stopped, self._asked = False, False
        self._told = told
        self._before: Any = None

    def __enter__(self) -> "StopAfterStep":
        # Python delivers signals to the main thread only.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save and stop when asked to."""
        self._agree(args.device)
        if self.stopped:
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Hear an interrupt that came after the last step."""
        self._agree(args.device)

    def _agree(self, device: torch.device) -> None:
        """Stop on every rank if one of them was asked to."""
        asked = torch.tensor(float(self._asked), device=device)
        if dist.is_initialized():
            dist.all_reduce(asked, dist.ReduceOp.MAX)
        self.stopped = bool(asked)

    def _stop(self, signal_number: int, frame: FrameType | None) -> None:
        if self._asked or self.stopped:
            raise KeyboardInterrupt
        self._asked = True
        self._told()
