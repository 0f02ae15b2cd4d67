"""Versions and hardware, recorded with every result."""

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

from tokenry.report.writing import plural

if TYPE_CHECKING:
    import torch


def environment(device: "torch.device", *packages: str) -> dict[str, str]:
    """Python, the hardware, and the packages that compute; `packages` names further ones."""
    import torch

    threads = plural(torch.get_num_threads(), "thread")
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads}"
    versions = {name: version(name) for name in ("tokenry", "torch", "transformers", *packages)}
    return {"python": platform.python_version(), "device": hardware, **versions}
