"""Load a model or a tokenizer by name, folder or `embedded`; safetensors only."""

from tokenry.models.embedded import EMBEDDED, EMBEDDED_TITLE, embedded_folder
from tokenry.models.loading import load_model, load_tokenizer, preferred_device, preferred_dtype

__all__ = [
    "EMBEDDED",
    "EMBEDDED_TITLE",
    "embedded_folder",
    "load_model",
    "load_tokenizer",
    "preferred_device",
    "preferred_dtype",
]
