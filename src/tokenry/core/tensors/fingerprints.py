"""The weights of a model as a short hash, for caches and files that belong to one model."""

import hashlib
import re

import torch
from torch import nn

from tokenry.core.io.workspace import absorb


def model_fingerprint(model: nn.Module, adapters: bool = False) -> str:
    """Hash the weights of a model: names, shapes, dtypes, sums and a few values of every parameter.

    A step of training anywhere changes it; reading it costs one pass over the weights. Without `adapters`, a PEFT model has the
    fingerprint of its base model.
    """
    adapter = None if adapters else getattr(getattr(model, "base_model", None), "prefix", None)
    digest = hashlib.blake2b(digest_size=12)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if (adapter and adapter in name) or (not adapters and ".modules_to_save." in name):
                continue
            values = parameter.flatten()
            some = values[:: max(1, values.numel() // 16)].double()
            sums = torch.stack([values.sum(dtype=torch.float64), values.abs().sum(dtype=torch.float64)])
            plain = re.sub(r"^base_model\.model\.|\.base_layer|\.original_module", "", name)
            described = f"{plain} {tuple(parameter.shape)} {parameter.dtype}"
            absorb(digest, described.encode(), torch.cat([sums, some]))
    return digest.hexdigest()
