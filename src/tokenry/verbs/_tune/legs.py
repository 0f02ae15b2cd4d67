"""A training in legs: at a constant rate, with a decay at the end of each leg that serves judging and is not continued.

rate     ╱‾‾‾‾‾‾‾‾‾‾‾●‾‾‾‾‾‾‾‾‾●‾‾‾ …
decay                 ╲         ╲
"""

from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback


@dataclass(frozen=True)
class Leg:
    """A stretch of a training whose rate is constant up to `step`, and then falls to zero over `decay` steps.

    What is saved at `step` is gone on from; what is trained behind it only serves to be judged.
    """

    step: int
    decay: int

    @property
    def end(self) -> int:
        """The last step."""
        return self.step + self.decay


class EndOfLeg(TrainerCallback):
    """Saves at the step that is gone on from, and stops at the end."""

    def __init__(self, leg: Leg) -> None:
        self._leg = leg

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save, or stop."""
        control.should_save |= state.global_step == self._leg.step
        control.should_training_stop |= state.global_step >= self._leg.end


def branching_schedule(leg: Leg, warmup: int) -> dict[str, Any]:
    """The training arguments of a schedule that is constant up to the leg's decay; without one it stays constant behind the leg."""
    stable = max(0, leg.step + (not leg.decay) - warmup)
    shape = {"num_stable_steps": stable, "num_decay_steps": leg.decay, "decay_type": "linear"}
    return {"warmup_steps": warmup, "lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": shape}
