"""What a training run costs, counted in forward passes over one token, and how far it is.

a pass over data     1 per token
training             3 per token (forward, and backward through activations and weights)
"""

from typing import Any

from transformers import TrainerCallback
from trl import SFTConfig

from tokenry.finetuning import TokenWeighing
from tokenry.verbs._stages import Stages
from tokenry.verbs._tune.training_length import trained_epochs

TRAINED = 3.0
_READ_BEFORE_TRAINING = {"history_nll", "base_nll", "reference_nll"}


def training_cost(weighing: TokenWeighing, args: SFTConfig, tokens: int, samples: int) -> float:
    """Estimate what a training run costs.

    Args:
        weighing: its static signals are a pass each.
        args: how long is trained.
        tokens: of the data.
        samples: of the data.
    """
    passes = len(weighing.needs & _READ_BEFORE_TRAINING) if weighing.share < 1 else 0
    return (passes + TRAINED * trained_epochs(args, samples)) * tokens


class TellSteps(TrainerCallback):
    """Tells the share of the optimisation steps that is done as that of the present stage, with step and loss.

    Args:
        stages: told.
        last: the last step of the stage; None for all of them.
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
