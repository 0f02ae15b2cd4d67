"""Load the model of a folder or a hub name as what it was saved as: a masked language model, or else a causal one."""

import os
from typing import NamedTuple

import torch
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel

from tokenry.core.errors import UserError
from tokenry.models.checkpoint import as_dtype, find_folder, first_sentence, require_config, require_weights
from tokenry.models.loading import (
    ADAPTER_CONFIG,
    MODEL_PATTERNS,
    WEIGHTS,
    load_model,
    load_weights,
    require_complete,
)


class LanguageModel(NamedTuple):
    """A language model and its kind."""

    model: PreTrainedModel
    masked: bool


def load_language_model(name: str | os.PathLike, dtype: torch.dtype | str | None = None) -> LanguageModel:
    """Load a masked language model where the architecture in its config is one, else a causal one."""
    folder = find_folder(name, MODEL_PATTERNS, None)
    if (folder / ADAPTER_CONFIG).is_file():
        return LanguageModel(load_model(name, dtype), masked=False)
    require_config(name, folder)
    try:
        architectures = AutoConfig.from_pretrained(folder).architectures or []
    except (OSError, ValueError) as error:
        raise UserError(f"the config of {name} cannot be read: {first_sentence(error)}") from error
    if not any("MaskedLM" in written for written in architectures):
        return LanguageModel(load_model(name, dtype), masked=False)
    require_weights(name, folder, WEIGHTS)
    model, loading = load_weights(
        AutoModelForMaskedLM, name, folder, "a masked language model", dtype=as_dtype(dtype)
    )
    require_complete(model, name, loading["missing_keys"])
    model.name_or_path = str(name)
    return LanguageModel(model, masked=True)
