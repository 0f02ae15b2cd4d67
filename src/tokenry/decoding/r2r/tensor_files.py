"""Files of tensors that say what they are: safetensors with a JSON text in the metadata."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tokenry.core.errors import UserError
from tokenry.core.io.files import atomic_write

_ABOUT = "tokenry"


def save_tensors(path: Path, kind: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors, and what is to be known about them."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as partial:
        save_file(contiguous, partial, {_ABOUT: json.dumps({"kind": kind, **about})})


def read_tensors(path: Path, kind: str, verb: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read such a file.

    Args:
        kind: what it must hold.
        verb: the command that writes it.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            about = json.loads((opened.metadata() or {}).get(_ABOUT, "{}"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): `{verb}` writes a {kind}.") from error
    if about.get("kind") != kind:
        raise UserError(f"{path} holds no {kind}: `{verb}` writes one.")
    return tensors, about
