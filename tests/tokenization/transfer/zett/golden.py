"""The reference numbers of sheet 38."""

import torch

from tests.golden import golden_arrays, golden_json


def arrays(name: str) -> dict[str, torch.Tensor]:
    return golden_arrays("38-zett", f"dev-{name}.npz")


def content(name: str) -> object:
    return golden_json("38-zett", f"dev-{name}.json")
