"""The records of a finished run in its folder: its measurements in all, and on every held-out item.

A resumed comparison reads them, so that no run is made twice.
"""

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ValidationError

from tokenry.core.errors import UserError
from tokenry.core.io.files import read_json, write_json
from tokenry.core.io.ranks import by_first
from tokenry.evaluation import HeldOut
from tokenry.verbs._tune.records import Run


class _Items(BaseModel):
    nll: list[float]
    tokens: list[int]
    text_bytes: list[int] | None
    items: list[str]


@by_first
def is_there(path: Path) -> bool:
    """Whether something was finished: what is written is whole or absent."""
    return path.exists()


@by_first
def save_run(folder: Path, run: Run, held_out: HeldOut) -> None:
    """Write both; the run comes last, so its file says that the folder is complete."""
    _write_held_out(folder / "held_out.json", held_out)
    write_json(folder / "run.json", run.model_dump(mode="json"))


@by_first
def load_run(folder: Path) -> tuple[Run, HeldOut] | None:
    """Read both back; None when there is no finished run."""
    if not (folder / "run.json").exists():
        return None
    try:
        return Run.model_validate(read_json(folder / "run.json")), _read_held_out(folder / "held_out.json")
    except (ValidationError, UserError) as error:
        raise UserError(
            f"the record of a run in {folder} is damaged: delete that folder, and the run is made again."
        ) from error


@by_first
def save_held_out(path: Path, held_out: HeldOut) -> None:
    """Write what was measured on held-out items."""
    _write_held_out(path, held_out)


@by_first
def load_held_out(path: Path) -> HeldOut:
    """Read what was measured on held-out items."""
    return _read_held_out(path)


def _write_held_out(path: Path, held_out: HeldOut) -> None:
    items = _Items(
        nll=held_out.nll.tolist(),
        tokens=held_out.tokens.tolist(),
        text_bytes=None if held_out.text_bytes is None else held_out.text_bytes.tolist(),
        items=list(held_out.items),
    )
    write_json(path, items.model_dump())


def _read_held_out(path: Path) -> HeldOut:
    try:
        stored = _Items.model_validate(read_json(path))
    except (ValidationError, UserError) as error:
        raise UserError(f"{path} is damaged: delete it, and it is measured again.") from error
    return HeldOut(
        nll=np.array(stored.nll),
        tokens=np.array(stored.tokens),
        text_bytes=None if stored.text_bytes is None else np.array(stored.text_bytes),
        items=tuple(stored.items),
    )
