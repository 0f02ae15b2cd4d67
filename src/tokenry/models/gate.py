"""The gate for a model beside the one in training: a reference, a base, an earlier checkpoint."""

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from torch import nn
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.io.files import read_json
from tokenry.core.tensors.gate import embedding_rows, require_causal_lm, require_same_tokenizer
from tokenry.core.tensors.losses import causal_lm
from tokenry.models.loading import load_tokenizer


def require_reference(model: nn.Module, tokenizer: Any, what: str = "the reference model") -> None:
    """Refuse a second model that is no causal language model, or was saved with another tokenizer than the data is encoded with.

    Args:
        model: the second model, wrapped or not.
        tokenizer: the tokenizer (or processor) of the data.
        what: the name of the model in errors.
    """
    require_causal_lm(model, what)
    theirs = tokenizer_of(model)
    if theirs is not None and tokenizer is not None:
        require_same_tokenizer(tokenizer, theirs, what)


def tokenizer_of(model: nn.Module) -> PreTrainedTokenizerBase | None:
    """The tokenizer that was saved with a model, if it is on this machine; None too where the model has other rows by now."""
    inner = causal_lm(model)
    folder = _folder_of(str(getattr(inner, "name_or_path", "") or ""))
    if folder is None:
        return None
    try:
        saved = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
        rows = (saved.get("text_config") or saved).get("vocab_size")
        # Resized since it was loaded: it was trained with a tokenizer that is not there.
        return load_tokenizer(folder) if rows in (None, embedding_rows(model)) else None
    except UserError:
        return None


def _folder_of(name: str) -> Path | None:
    if not name or Path(name).is_dir():
        return Path(name) if name else None
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None
