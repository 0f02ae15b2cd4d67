"""Merge an adapter into its base model, as one folder that `from_pretrained` and vLLM load without PEFT."""

import os
from pathlib import Path

import torch

from tokenry.core.errors import UserError
from tokenry.core.io.files import new_folder, require_new
from tokenry.models.checkpoint import find_folder
from tokenry.models.loading import ADAPTER_CONFIG, MODEL_PATTERNS, load_model, load_tokenizer


def save_merged(
    adapter: str | os.PathLike, output: str | os.PathLike, dtype: torch.dtype | str | None = None
) -> None:
    """Save the base model of an adapter with the adapter merged into its weights, and the tokenizer beside it.

    Args:
        adapter: a PEFT adapter: a folder (`OUTPUT/NAME/model` of `tokenry tune`), or a name on the Hugging Face hub.
        output: a new folder, written as a whole or not at all.
        dtype: type of the merged weights; None keeps that of the base model.
    """
    require_new(Path(output))
    if not (find_folder(adapter, MODEL_PATTERNS, revision=None) / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"{adapter} is not an adapter (it has no {ADAPTER_CONFIG}): there is nothing to merge."
        )
    model, tokenizer = load_model(adapter, dtype), load_tokenizer(adapter)
    with new_folder(Path(output)) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
