"""Load a model or a tokenizer by name, folder or `embedded`, safetensors only; and the gate that models go through."""

from tokenry.core.tensors.gate import require_causal_lm, require_readable, require_same_tokenizer
from tokenry.core.train.classifier import ClassifierConfig
from tokenry.models.embedded import EMBEDDED, EMBEDDED_TITLE, embedded_folder
from tokenry.models.endpoint import Endpoint
from tokenry.models.gate import require_reference
from tokenry.models.loading import load_model, load_tokenizer, preferred_device, preferred_dtype
from tokenry.models.merging import save_merged
from tokenry.models.text_classifier import FineTuned, TextClassifier, load_text_classifier
from tokenry.models.text_model import Generated, LocalText, Sampling, TextModel, require_generated

__all__ = [
    "EMBEDDED",
    "EMBEDDED_TITLE",
    "ClassifierConfig",
    "Endpoint",
    "FineTuned",
    "Generated",
    "LocalText",
    "Sampling",
    "TextClassifier",
    "TextModel",
    "embedded_folder",
    "load_model",
    "load_text_classifier",
    "load_tokenizer",
    "preferred_device",
    "preferred_dtype",
    "require_causal_lm",
    "require_generated",
    "require_readable",
    "require_reference",
    "require_same_tokenizer",
    "save_merged",
]
