"""The checkpoints in the folder of a run."""

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from tokenry.core.io.ranks import by_first
from tokenry.finetuning.trainer import STATE_FILE, last_whole_checkpoint
from tokenry.verbs._training import step_of


@by_first
def checkpoint_in(folder: Path, most: int | None = None) -> str | None:
    """The newest whole checkpoint, if there is one; those behind `most` steps are removed, as they are of a decay."""
    for checkpoint in folder.glob("checkpoint-*"):
        if most is not None and step_of(checkpoint) > most:
            shutil.rmtree(checkpoint)
    return str(last_whole_checkpoint(folder)) if any(folder.glob(f"checkpoint-*/{STATE_FILE}")) else None


@by_first
def has_checkpoint(folder: Path, step: int) -> bool:
    """Whether a whole checkpoint of a step is there."""
    return (folder / f"checkpoint-{step}" / STATE_FILE).exists()


@by_first
def has_reached(folder: Path, step: int) -> bool:
    """Whether a run was trained to a step, or beyond and perhaps to its end."""
    states = folder.glob(f"checkpoint-*/{STATE_FILE}")
    return any(folder.glob("*.json")) or any(step_of(state.parent) >= step for state in states)


@by_first
def steps_in(folder: Path) -> int:
    """The step of the newest checkpoint; 0 where there is none."""
    return max(map(step_of, folder.glob("checkpoint-*")), default=0)


@by_first
def copy_checkpoint(source: Path, folder: Path, step: int, of_last_epoch: bool) -> None:
    """Let a run go on from another's checkpoint; with `of_last_epoch` it remembers what each token cost in the epoch just over."""
    there, partial = f"checkpoint-{step}", folder / ".checkpoint.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source / there, partial)
    if of_last_epoch:
        columns = load_file(partial / STATE_FILE)
        save_file({**columns, "history_nll": columns["nll"].clone()}, partial / STATE_FILE)
    shutil.rmtree(folder / there, ignore_errors=True)
    partial.rename(folder / there)
