"""Ctrl-C during training ends the step, saves a checkpoint and stops; a second Ctrl-C stops at once."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StopAfterStep(TrainerCallback):
    """Inside the context, an interrupt stops the trainer in order; `stopped` is then True.

    Args:
        told: called when an interrupt arrives, as the step may take long to end.
    """

    def __init__(self, told: Callable[[], None] = lambda: None) -> None:
        self.stopped = False
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
        if self.stopped:
            control.should_save = True
            control.should_training_stop = True

    def _stop(self, signal_number: int, frame: FrameType | None) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
        self._told()
