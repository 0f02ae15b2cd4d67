"""The folder of a model: found by name, and looked at before anything is loaded from it."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from tokenry.core.errors import UserError
from tokenry.models.embedded import EMBEDDED, embedded_folder

_PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | str:
    """Read a dtype by its name; None and `auto` are as the weights are stored."""
    if dtype is None or dtype == "auto":
        return "auto"
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise UserError(f"dtype must be one of {', '.join(_DTYPES)} or auto, got {dtype!r}.")
    return _DTYPES[dtype]


def find_folder(name: str | os.PathLike, patterns: Sequence[str], revision: str | None) -> Path:
    """Return the local folder of `name`; of a model on the hub, the files that match `patterns` are fetched first."""
    if name == EMBEDDED:
        return embedded_folder()
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise UserError(f"{name} is a file: name the folder that holds config.json and the weights.")
    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=list(patterns)))
    except HFValidationError as error:
        raise UserError(f"the folder {name} does not exist.") from error
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{name} is neither a local folder nor in the cache of the Hugging Face hub, which cannot be reached from here: "
            f"check the name and the network, or use the model that needs none, `{EMBEDDED}`."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"{name} cannot be fetched from the Hugging Face hub: {first_sentence(error)}"
        ) from error


def require_config(name: str | os.PathLike, folder: Path) -> None:
    """Raise `UserError` unless the folder has a config."""
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{name} has no config.json: name the folder that model.save_pretrained wrote (found: {_contents(folder)})."
        )


def require_weights(name: str | os.PathLike, folder: Path, files: Sequence[str]) -> None:
    """Raise `UserError` unless the folder has one of these weight files."""
    if any((folder / file).is_file() for file in files):
        return
    pickled = [file for file in _PICKLED_WEIGHTS if (folder / file).is_file()]
    if pickled:
        raise UserError(
            f"{name} has only pickled weights ({pickled[0]}), which can run code when they are read: if you trust them, convert "
            "them once by loading the model in transformers and calling save_pretrained, which writes safetensors."
        )
    raise UserError(f"{name} has no weights (no {files[0]}; found: {_contents(folder)}).")


def _contents(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"


def first_sentence(error: Exception) -> str:
    """The first line of an error's words, its type where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
