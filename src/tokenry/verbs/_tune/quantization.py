"""A base in 4 bits under a LoRA adapter (QLoRA, arXiv 2305.14314): bitsandbytes on a CUDA device, by TRL's own path."""

import importlib.util
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from tokenry.core.errors import UserError


def loaded_in_4bit(device: torch.device, dtype: torch.dtype | str) -> dict[str, Any]:
    """What `from_pretrained` needs to load a model in 4 bits: NF4, with the scales quantized again.

    Args:
        device: where the model is trained.
        dtype: type of the computation.
    """
    if device.type != "cuda":
        raise UserError(f"--quantize 4bit needs a CUDA GPU, and training runs on {device}: leave it out.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "--quantize 4bit needs bitsandbytes, which is not installed: `pip install 'tokenry[quantize]'`."
        )
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": device}}
