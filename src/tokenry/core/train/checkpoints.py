"""The checkpoints of `transformers.Trainer` in a folder, and which of them were written to their end."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def checkpoints_in(folder: Path) -> list[Path]:
    """The folders `checkpoint-N` of a training, oldest first."""
    steps = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.glob("checkpoint-*")}
    return sorted((path for path, step in steps.items() if step), key=lambda path: int(path.name[11:]))


def is_finished(checkpoint: Path) -> bool:
    """Whether the trainer's own state, which it writes last, is whole."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def apart(weights: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Weights that share no memory, which safetensors refuses: tied ones are written once for each name."""
    seen: set[int] = set()
    apart = {}
    for name, weight in weights.items():
        memory = weight.untyped_storage().data_ptr()
        apart[name] = weight.clone() if memory in seen else weight.contiguous()
        seen.add(memory)
    return apart
