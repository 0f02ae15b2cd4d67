"""The reference numbers of sheet 38."""

import json
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parents[3] / "golden" / "38-zett"


def arrays(name: str) -> dict[str, torch.Tensor]:
    with np.load(FOLDER / f"dev-{name}.npz") as loaded:
        return {key: torch.from_numpy(loaded[key]) for key in loaded}


def content(name: str) -> object:
    return json.loads((FOLDER / f"dev-{name}.json").read_text(encoding="utf-8"))
