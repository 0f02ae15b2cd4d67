"""Checkpoints of a weighed run: which can be resumed from, and what the weighing remembers in them.

What a weighing remembers is saved last, so its file also says that a checkpoint is complete.
"""

from dataclasses import dataclass
from pathlib import Path

from tokenry.core.errors import UserError
from tokenry.core.train.checkpoints import checkpoints_in, is_finished
from tokenry.finetuning.history import HistorySource
from tokenry.finetuning.token_store import TokenStore

STATE_FILE = "tokenry_state.safetensors"


def last_whole_checkpoint(folder: Path, trl_too: bool = False) -> Path:
    """Find the newest checkpoint in `folder` that was written to its end.

    Args:
        folder: the output folder of a training run.
        trl_too: also count checkpoints without `STATE_FILE`, such as TRL's own.
    """
    whole = [
        checkpoint
        for checkpoint in checkpoints_in(folder)
        if (checkpoint / STATE_FILE).exists() or (trl_too and is_finished(checkpoint))
    ]
    if not whole:
        raise UserError(f"{folder} holds no whole checkpoint to resume from: start without resuming.")
    return whole[-1]


@dataclass(frozen=True)
class Memory:
    """What a weighing remembers beyond the weights of the model: last epoch's choice and losses, and the averages of a history.

    Attributes:
        weighing: the weighing in words.
        store: numbers about the tokens.
        history: its averages are part of the memory.
        of_last_epoch: whether the history is last epoch's losses.
    """

    weighing: str
    store: TokenStore
    history: HistorySource
    of_last_epoch: bool

    @property
    def decides(self) -> bool:
        """Whether what is learned next depends on it."""
        return self.of_last_epoch or bool(self.history.state())

    def save(self, checkpoint: Path) -> None:
        """Write it into a checkpoint."""
        self.store.save(checkpoint / STATE_FILE, self.store.recorded, others=self.history.state())

    def restore(self, checkpoint: Path) -> None:
        """Read it from a checkpoint.

        Raises:
            UserError: the checkpoint does not exist, is incomplete, or belongs to another weighing.
        """
        if not checkpoint.is_dir():
            raise UserError(
                f"the checkpoint {checkpoint} does not exist: name one that does, or start without resuming."
            )
        if not (checkpoint / STATE_FILE).exists():
            if not is_finished(checkpoint):
                raise UserError(
                    f"{checkpoint} was not written to its end by tokenry or TRL: resume from an earlier one."
                )
            if self.decides:
                raise UserError(
                    f"{checkpoint} holds nothing of what {self.weighing} remembers: it was not written by tokenry, or not to "
                    "its end; resume from a checkpoint of this training."
                )
            return
        averages = self.store.load(checkpoint / STATE_FILE, others=set(self.history.state()))
        forgotten = self.of_last_epoch and "history_nll" not in self.store.columns
        if forgotten or averages.keys() != self.history.state().keys():
            raise UserError(
                f"{checkpoint} was written under a weighing with another history than {self.weighing}: resume with "
                "the weighing that it was trained with."
            )
        self.history.restore(averages)
