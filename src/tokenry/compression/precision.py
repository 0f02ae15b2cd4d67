"""Scores are finite and float32 or better, whatever a model computes in: half precision is widened, float64 stays."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from tokenry.core.errors import UserError


def precise(x: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Widen to float32, if it is not wider."""
    return x.to(precise_dtype(x.dtype))


def precise_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which scores of a model with this dtype are computed."""
    return torch.promote_types(dtype, torch.float32)


def require_features(features: Tensor) -> None:
    """Raise `UserError` unless these are finite vectors, (tokens, dim) or (batch, tokens, dim)."""
    if features.ndim not in (2, 3):
        raise UserError(
            f"features must be (tokens, dim) or (batch, tokens, dim), got shape {tuple(features.shape)}."
        )
    require_finite(features, "features")


def require_finite(values: Tensor, name: str) -> None:
    """Raise `UserError` unless all values are finite."""
    if values.numel() and not all(bool(torch.isfinite(extreme)) for extreme in values.aminmax()):
        broken = int((~torch.isfinite(values)).sum())
        raise UserError(
            f"{name} must be finite, got {broken} of {values.numel()} values that are not: run the vision encoder in bfloat16 "
            "or float32 if it overflows."
        )
