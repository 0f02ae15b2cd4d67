"""Where the reference numbers lie: `golden("12-zero-tprune")` is the folder of that sheet."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch


def golden(slug: str) -> Path:
    folder = Path(__file__).parent / "golden" / slug
    assert folder.is_dir(), f"no reference numbers for {slug}"
    return folder


def golden_json(slug: str, name: str) -> Any:
    return json.loads((golden(slug) / name).read_text(encoding="utf-8"))


def golden_arrays(slug: str, name: str) -> dict[str, torch.Tensor]:
    with np.load(golden(slug) / name) as loaded:
        return {key: torch.from_numpy(np.asarray(value)) for key, value in loaded.items()}
