"""Which checkpoints can be resumed from.

What a weighing remembers is saved last, so its file also says that a checkpoint is whole.
"""

import json
import re
from pathlib import Path

from tokenry.core.errors import UserError

STATE_FILE = "tokenry_state.safetensors"


def last_whole_checkpoint(folder: Path, trl_too: bool = False) -> Path:
    """Find the newest checkpoint in `folder` that was written to its end.

    Args:
        folder: the output folder of a training.
        trl_too: checkpoints without `STATE_FILE` count too, such as TRL's own.

    Raises:
        UserError: there is none.
    """
    steps = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.glob("checkpoint-*")}
    checkpoints = sorted((path for path, step in steps.items() if step), key=lambda path: int(path.name[11:]))
    whole = [path for path in checkpoints if (path / STATE_FILE).exists() or (trl_too and _is_finished(path))]
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
    if not (folder / STATE_FILE).exists() and not _is_finished(folder):
        raise UserError(f"{folder} was not written to its end by tokenry or TRL: resume from an earlier one.")


def _is_finished(checkpoint: Path) -> bool:
    """Whether the trainer's own state, which it writes last, is whole."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
