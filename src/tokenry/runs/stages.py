"""How much of a long job is done, so that the time that went tells the time that remains.

A job is a row of stages, each as long as what it costs, counted in forward passes over one token:

    a pass over data     1 per token
    training             3 per token (forward, and backward through activations and weights)
    answers              5 per token: written one at a time, they wait for the weights to be read
"""

from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback
from trl import SFTConfig

from tokenry.core.progress import Progress
from tokenry.finetuning import TokenWeighing
from tokenry.runs.training_length import training_steps

_TRAINED, _ANSWERED = 3.0, 5.0
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
    epochs = training_steps(args, samples) * _samples_per_step(args) / samples
    return (passes + _TRAINED * epochs) * tokens


def answers_cost(answers: int, tokens: int) -> float:
    """Estimate what it costs to write `answers` of at most `tokens` tokens."""
    return _ANSWERED * answers * tokens


class Stages:
    """Tells `report` what is being done, and the share of all stages that is done.

    Args:
        report: is told.
        costs: of all stages.
    """

    def __init__(self, report: Progress, costs: Sequence[float]) -> None:
        self._report, self._total = report, sum(costs)
        self._done = self._cost = self._share = 0.0
        self.what = "starting"

    def begin(self, what: str, cost: float) -> None:
        """End the stage before, and begin one."""
        self._done += self._cost
        self.what, self._cost = what, cost
        self.tell(0.0)

    def skip(self, cost: float) -> None:
        """Count a stage as done that need not be."""
        self._done += cost

    def tell(self, share: float) -> None:
        """Tell that a share of the present stage is done."""
        self._share = min(1.0, (self._done + share * self._cost) / self._total)
        self._report(self.what, self._share)

    def say(self, words: str) -> None:
        """Add words to what is being done."""
        self._report(f"{self.what}: {words}", self._share)


class TellSteps(TrainerCallback):
    """Tells the share of the optimisation steps that is done as that of the present stage."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell."""
        self._stages.tell(state.global_step / max(1, state.max_steps))


def _samples_per_step(args: SFTConfig) -> int:
    return args.per_device_train_batch_size * args.gradient_accumulation_steps
