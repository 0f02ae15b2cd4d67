"""Options of a verb that trains a model itself, counted in steps; its plan adds its own, and the words and defaults that differ."""

from dataclasses import dataclass
from pathlib import Path

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import require_folder_name
from tokenry.core.plans import embedded
from tokenry.verbs._hardware import Hardware


@dataclass(frozen=True, kw_only=True)
class CheckpointedTraining:
    """A training of which checkpoints are kept, so that one that was stopped is resumed.

    Attributes:
        save_every: steps between checkpoints.
        resume: resume from the last checkpoint in the folder.
        seed: random seed.
        output: new folder for the model, result.json and report.html.
    """

    save_every: int = 500
    resume: bool = False
    seed: int = 0
    hardware: Hardware = embedded(Hardware(), only=("device",))
    output: Path

    def __post_init__(self) -> None:
        require_at_least(1, save_every=self.save_every)
        require_at_least(0, seed=self.seed)
        require_folder_name(self.output, "the model")


@dataclass(frozen=True, kw_only=True)
class StepTraining(CheckpointedTraining):
    """A training of so many steps at one highest rate, a share of whose data is held out.

    Attributes:
        steps: steps of the optimiser.
        batch_size: samples of a step in each process.
        learning_rate: highest learning rate.
        held_out: share of the texts that measure what was learned.
    """

    steps: int
    batch_size: int
    learning_rate: float
    held_out: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(1, steps=self.steps, batch_size=self.batch_size)
        if not self.learning_rate > 0:
            raise UserError(f"learning_rate must be above 0, got {self.learning_rate}.")
        if not 0.0 < self.held_out < 1.0:
            raise UserError(f"held_out must be in (0, 1), got {self.held_out}.")
