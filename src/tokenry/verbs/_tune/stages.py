"""The cost of a training run, counted in forward passes over one token, and its progress.

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
_READ_BEFORE_TRAINING = {"history_nll", "base_nll", "reference_nll", "out_of_fold_nll"}


def training_cost(weighing: TokenWeighing, args: SFTConfig, tokens: int, samples: int) -> float:
    """Estimate what a training run costs.

    Args:
        weighing: the weighing; each of its static signals costs a pass.
        args: training arguments, for the length.
        tokens: number of tokens in the data.
        samples: number of samples in the data.
    """
    selects = weighing.share < 1
    passes = len(weighing.needs & _READ_BEFORE_TRAINING) if selects else 0
    folds = TRAINED * weighing.cross_fit.epochs if selects and "out_of_fold_nll" in weighing.needs else 0.0
    return (passes + folds + TRAINED * trained_epochs(args, samples)) * tokens


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
