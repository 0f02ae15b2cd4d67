"""Load a text encoder with its tokenizer: the tower of a BERT-like model, or the encoder of T5, without any head. Safetensors only."""

import os

import torch
from transformers import AutoModelForTextEncoding, PreTrainedModel, PreTrainedTokenizerBase

from tokenry.models.checkpoint import as_dtype, find_folder, require_config, require_weights
from tokenry.models.loading import MODEL_PATTERNS, WEIGHTS, load_tokenizer, load_weights, require_complete


def load_text_encoder(
    name: str | os.PathLike, dtype: torch.dtype | str | None = None, revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder and its tokenizer.

    Args:
        name: a local folder, or a name on the Hugging Face hub.
        dtype: a torch dtype or its name; None keeps the type in which the weights are stored.
        revision: a branch, tag or commit; for names on the hub.

    Raises:
        UserError: no such model, or one that has no text encoder.
    """
    folder = find_folder(name, MODEL_PATTERNS, revision)
    require_config(name, folder)
    require_weights(name, folder, WEIGHTS)
    model, loading = load_weights(
        AutoModelForTextEncoding, name, folder, "a text encoder", dtype=as_dtype(dtype)
    )
    # A pooler is trained with a head alone, and a head is not asked for.
    require_complete(model, name, [key for key in loading["missing_keys"] if "pooler" not in key])
    model.name_or_path = str(name)
    return model.eval(), load_tokenizer(name, revision)
