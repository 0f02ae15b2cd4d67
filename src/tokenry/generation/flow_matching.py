"""Flow matching: straight paths from noise to data, the velocity along them, and the solvers that follow it.

One convention: t = 0 is noise, t = 1 is data (a method that counts the other way is turned round at its own door).

    path        x_t = (1 − (1 − σ) t) noise + t data,   velocity = data − (1 − σ) noise          σ = `sigma_min`
    score       ∇ log p_t(x) = −noise / (1 − (1 − σ) t),   where noise = x_t − t velocity
    ODE         dx = v(x, t) dt                                                       `euler`, `midpoint`
    SDE         dx = (v + (1 − t) score) dt + √(2 (1 − t)) dW                         `euler_maruyama`
    guidance    v = v(nothing) + weight (v(condition) − v(nothing)); weight 1 is the condition alone

Source: Flow Matching for Generative Modeling (arXiv 2210.02747); the SDE as in SiT (arXiv 2401.08740) and xAR (arXiv 2502.20388).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tokenry.core.errors import UserError, require_at_least

Time = float | Float[Tensor, "*time"]
"""A time for everything, or one for each of the leading dimensions of what it belongs to."""

Velocity = Callable[[Float[Tensor, "*shape"], float], Float[Tensor, "*shape"]]
"""v(x, t): a network with its condition."""

SDE_END = 0.96
"""Where the last, noiseless step of the SDE begins (xAR's released sampler)."""


def flow_path(
    noise: Float[Tensor, "*shape"], data: Float[Tensor, "*shape"], t: Time, sigma_min: float = 0.0
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """The point at time t on the straight path from noise to data, and the velocity there, which a model is to say.

    Raises:
        UserError: a time or `sigma_min` outside [0, 1].
    """
    require_times(t)
    if not 0.0 <= sigma_min <= 1.0:
        raise UserError(
            f"sigma_min must be in [0, 1], got {sigma_min}: it is the width left around the data."
        )
    left = 1.0 - sigma_min
    t = _beside(t, data)
    return (1.0 - left * t) * noise + t * data, data - left * noise


def velocity_to_score(
    velocity: Float[Tensor, "*shape"], x: Float[Tensor, "*shape"], t: Time, sigma_min: float = 0.0
) -> Float[Tensor, "*shape"]:
    """∇ log p_t(x) of the paths with that velocity.

    Raises:
        UserError: a time outside [0, 1), or t = 1 where sigma_min is 0: data have no score.
    """
    require_times(t)
    t = _beside(t, x)
    width = 1.0 - (1.0 - sigma_min) * t
    _require_positive(width, "the score does not exist at t = 1 with sigma_min = 0: take an earlier time.")
    return (t * velocity - x) / width


def score_to_velocity(
    score: Float[Tensor, "*shape"], x: Float[Tensor, "*shape"], t: Time, sigma_min: float = 0.0
) -> Float[Tensor, "*shape"]:
    """The velocity of the paths with that score.

    Raises:
        UserError: a time outside (0, 1].
    """
    require_times(t)
    t = _beside(t, x)
    _require_positive(
        t, "the velocity does not follow from the score at t = 0, where all is noise: take a later time."
    )
    return (x + (1.0 - (1.0 - sigma_min) * t) * score) / t


def flow_matching_loss(
    predicted: Float[Tensor, "*shape"],
    velocity: Float[Tensor, "..."],
    mask: Tensor | None = None,
) -> Float[Tensor, ""]:
    """The mean squared error of a velocity, over everything, or over what a mask keeps.

    Args:
        predicted: (..., channels), what the model says.
        velocity: (..., channels), the velocity of the path.
        mask: (...) weights of tokens, or (..., channels) of single elements; None for all.

    Raises:
        UserError: shapes that do not fit, or a mask that keeps nothing.
    """
    if predicted.shape != velocity.shape:
        raise UserError(
            f"a velocity of shape {tuple(predicted.shape)} was predicted for one of shape {tuple(velocity.shape)}: they must be equal."
        )
    errors = (predicted - velocity).square()
    if mask is None:
        return errors.mean()
    if mask.shape not in (errors.shape, errors.shape[:-1]):
        raise UserError(
            f"the mask has the shape {tuple(mask.shape)}; for velocities of {tuple(errors.shape)} it must be {tuple(errors.shape[:-1])}, or "
            "the same."
        )
    weights = (mask if mask.ndim == errors.ndim else mask.unsqueeze(-1)).to(errors.dtype).expand_as(errors)
    total = weights.sum()
    if not total > 0:
        raise UserError("the mask keeps nothing, so there is no loss: leave such a batch out.")
    # What is masked may be anything, even nan: 0 · nan would be nan.
    return torch.where(weights != 0, errors * weights, 0).sum() / total


def logit_normal_times(
    *shape: int, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None, device: str | torch.device = "cpu"
) -> Float[Tensor, "*shape"]:  # fmt: skip
    """Times sigmoid(z) with z ~ N(mean, std²), which favour the middle of the path."""
    return torch.sigmoid(mean + std * torch.randn(*shape, generator=generator, device=device))


def guide(
    conditional: Float[Tensor, "*shape"], unconditional: Float[Tensor, "*shape"], weight: Time
) -> Float[Tensor, "*shape"]:
    """Classifier-free guidance: 1 is the condition alone, above 1 beyond it; (1 + g) for the form (1 + g) v(h) − g v(nothing).

    A drift that is affine in the velocity is guided by guiding the velocity.
    """
    return unconditional + _beside(weight, conditional) * (conditional - unconditional)


def even_times(steps: int) -> list[float]:
    """The times 0, 1/steps, …, 1 of a solver that takes `steps` equal steps.

    Raises:
        UserError: fewer steps than one.
    """
    require_at_least(1, steps=steps)
    return [step / steps for step in range(steps + 1)]


def sde_times(steps: int, end: float = SDE_END) -> list[float]:
    """The times of the SDE: `steps` of them evenly from 0 to `end`, from where the last step, without noise, goes to 1.

    One step is the noiseless one alone, from 0 to 1.

    Raises:
        UserError: fewer steps than one, or an end outside (0, 1).
    """
    require_at_least(1, steps=steps)
    if not 0.0 < end < 1.0:
        raise UserError(
            f"the last step of the SDE must begin between 0 (noise) and 1 (data), got {end}; {SDE_END} is usual."
        )
    if steps == 1:
        return [0.0, 1.0]
    return [end * step / (steps - 1) for step in range(steps)] + [1.0]


def euler(velocity: Velocity, x: Float[Tensor, "*shape"], times: Sequence[float]) -> Float[Tensor, "*shape"]:
    """Follow the ODE: one call of the velocity a step, at `times[:-1]`. The state keeps the dtype of `x`."""
    for start, end in _steps(times):
        x = x + (end - start) * velocity(x, start)
    return x


def midpoint(
    velocity: Velocity, x: Float[Tensor, "*shape"], times: Sequence[float]
) -> Float[Tensor, "*shape"]:
    """Follow the ODE with two calls a step: the velocity in the middle of the step is taken for all of it."""
    for start, end in _steps(times):
        half = (end - start) / 2
        x = x + (end - start) * velocity(x + half * velocity(x, start), start + half)
    return x


def euler_maruyama(
    velocity: Velocity,
    x: Float[Tensor, "*shape"],
    times: Sequence[float],
    noise: Callable[[int], Float[Tensor, "*shape"]],
) -> Float[Tensor, "*shape"]:
    """Follow the SDE with the diffusion 2 (1 − t): fresh noise in every step but the last.

    Args:
        velocity: of paths with sigma_min = 0.
        x: noise, at `times[0]`.
        times: such as `sde_times(steps)`.
        noise: standard normal noise of the shape of x for a step.
    """
    steps = _steps(times)
    for step, (start, end) in enumerate(steps):
        drift = (1.0 + start) * velocity(
            x, start
        ) - x  # v + (1 − t) score, which t = 1 does not make infinite
        change = (end - start) * drift
        if step < len(steps) - 1:
            change = change + (2.0 * (1.0 - start) * (end - start)) ** 0.5 * noise(step)
        x = x + change
    return x


def require_times(t: Time) -> None:
    """Raise `UserError` unless every time is in [0, 1]."""
    given = torch.as_tensor(t)
    outside = ~((given >= 0) & (given <= 1))
    if outside.any():
        raise UserError(
            f"a time must be in [0, 1], from noise to data, got {float(given[outside].flatten()[0]):g}."
        )


def _steps(times: Sequence[float]) -> list[tuple[float, float]]:
    if len(times) < 2 or any(not 0.0 <= time <= 1.0 for time in times) or sorted(set(times)) != list(times):
        raise UserError(
            f"the times of a solver must rise from noise (0) to data (1), got {list(times)}: take even_times(steps)."
        )
    return list(pairwise(times))


def _beside(t: Time, x: Tensor) -> Tensor | float:
    """A time with as many dimensions as `x`, in its dtype."""
    if not isinstance(t, Tensor):
        return t
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim)).to(x.device, x.dtype)


def _require_positive(value: Tensor | float, otherwise: str) -> None:
    if not torch.as_tensor(value > 0).all():
        raise UserError(otherwise)
