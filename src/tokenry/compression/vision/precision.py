"""Scores are float32 or better, whatever a model computes in: half precision is widened, float64 stays."""

import torch
from jaxtyping import Shaped
from torch import Tensor


def precise(x: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Widen to float32, if it is not wider."""
    return x.to(precise_dtype(x.dtype))


def precise_dtype(dtype: torch.dtype) -> torch.dtype:
    """Tell the dtype in which scores of a model with this one are computed."""
    return torch.promote_types(dtype, torch.float32)
