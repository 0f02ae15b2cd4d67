"""Every test runs with the shapes in `tokenry`'s signatures checked (jaxtyping + beartype)."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

install_import_hook("tokenry", "beartype.beartype")

import torch

torch.set_num_threads(1)
