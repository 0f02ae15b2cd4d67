"""Which checkpoints can be resumed from.

What a weighing remembers is saved last, so its file also says that a checkpoint is whole.
"""

from pathlib import Path

from tokenry.core.errors import UserError
from tokenry.core.train.checkpoints import checkpoints_in, is_finished

STATE_FILE = "tokenry_state.safetensors"


def last_whole_checkpoint(folder: Path, trl_too: bool = False) -> Path:
    """Find the newest checkpoint in `folder` that was written to its end.

    Args:
        folder: the output folder of a training.
        trl_too: checkpoints without `STATE_FILE` count too, such as TRL's own.

    Raises:
        UserError: there is none.
    """
    whole = [
        checkpoint
        for checkpoint in checkpoints_in(folder)
        if (checkpoint / STATE_FILE).exists() or (trl_too and is_finished(checkpoint))
    ]
    if not whole:
        raise UserError(f"{folder} holds no whole checkpoint to resume from: start without resuming.")
    return whole[-1]


def require_checkpoint(folder: Path) -> None:
    """Refuse a folder that is no checkpoint.

    Raises:
        UserError: it does not exist, or was not written to its end.
    """
    if not folder.is_dir():
        raise UserError(
            f"the checkpoint {folder} does not exist: name one that does, or start without resuming."
        )
    if not (folder / STATE_FILE).exists() and not is_finished(folder):
        raise UserError(f"{folder} was not written to its end by tokenry or TRL: resume from an earlier one.")
