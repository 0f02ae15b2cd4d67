"""How a network is told the time and the condition: sinusoids, and norms whose scale, shift and gate are computed (adaLN).

    sinusoid    [cos(t ω_i), sin(t ω_i)],   ω_i = 10000^(−i / half)            (DDPM, arXiv 2006.11239)
    adaLN       x ← x + gate · f(norm(x) · (1 + scale) + shift),   (shift, scale, gate) = W SiLU(condition) + b     (DiT, arXiv 2212.09748)
    RMS norm    x / √(mean(x²) + ε), in float32

Released weights put the rows of W in different orders, so the order has names.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tokenry.core.errors import UserError, require_at_least


def sinusoids(
    t: Float[Tensor, "*time"], dim: int, max_period: float = 10_000.0
) -> Float[Tensor, "*time {dim}"]:
    """[cos, sin] of t at `dim // 2` frequencies, in the dtype of t but no less than float32; an odd last column is 0."""
    half = dim // 2
    t = t if t.dtype == torch.float64 else t.float()
    frequencies = max_period ** (-torch.arange(half, device=t.device, dtype=t.dtype) / half)
    angles = t.unsqueeze(-1) * frequencies
    return nn.functional.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, dim - 2 * half))


class TimeEmbedding(nn.Module):
    """A time in [0, 1] as a vector: Linear, SiLU, Linear over the sinusoids of `scale · t`.

    Args:
        width: size of the vector.
        frequencies: size of the sinusoids.
        scale: what t is multiplied by.
        quantised: whether `scale · t` is cut to a whole number, as in xAR's released weights.
    """

    def __init__(
        self, width: int, frequencies: int = 256, scale: float = 1000.0, quantised: bool = False
    ) -> None:
        super().__init__()
        require_at_least(1, width=width, frequencies=frequencies)
        self.frequencies, self.scale, self.quantised = frequencies, scale, quantised
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Float[Tensor, "*time"]) -> Float[Tensor, "*time width"]:
        """The vectors of the times."""
        scaled = self.scale * t
        found = sinusoids(scaled.floor() if self.quantised else scaled, self.frequencies)
        return self.mlp(found.to(next(self.mlp.parameters()).dtype))


class Modulation(nn.Module):
    """What a condition does to the norms of a block: one row of `width` numbers for each name, in the order of the weights.

    Args:
        condition: size of the condition.
        width: size of a row.
        rows: names of the rows in their order in the weights, such as ("shift", "scale", "gate").
        zero: whether every row starts as 0, so that a block starts as the identity.
    """

    def __init__(self, condition: int, width: int, rows: Sequence[str], zero: bool = True) -> None:
        super().__init__()
        if len(set(rows)) != len(rows) or not rows:
            raise UserError(f"the rows of a modulation must have names of their own, got {list(rows)}.")
        self.rows = tuple(rows)
        self.linear = nn.Linear(condition, len(rows) * width)
        if zero:
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(
        self, condition: Float[Tensor, "*batch condition"]
    ) -> dict[str, Float[Tensor, "*batch width"]]:
        """The rows by name."""
        found = self.linear(nn.functional.silu(condition)).chunk(len(self.rows), dim=-1)
        return dict(zip(self.rows, found, strict=True))


def modulate(
    x: Float[Tensor, "*batch width"], shift: Float[Tensor, "..."], scale: Float[Tensor, "..."]
) -> Float[Tensor, "*batch width"]:
    """Scale and shift, which broadcast: x · (1 + scale) + shift."""
    return torch.addcmul(shift, x, 1.0 + scale)


def rms_norm(
    x: Float[Tensor, "*batch width"], weight: Float[Tensor, "width"] | None = None, eps: float = 1e-6
) -> Float[Tensor, "*batch width"]:
    """The RMS norm x / √(mean(x²) + ε) · weight: in float32 (float64 stays), returned in the dtype of x."""
    precise = x if x.dtype == torch.float64 else x.float()
    normed = precise * torch.rsqrt(precise.square().mean(dim=-1, keepdim=True) + eps)
    return (normed if weight is None else normed * weight).to(x.dtype)
