"""ZOO-Prune: how far does the projector's output move when a visual token is perturbed?

Source: Training-Free Token Pruning via Zeroth-Order Gradient Estimation (arXiv 2509.24837, CVPR 2026). For the projector P, token x:

    sampled       s = mean over directions u of ‖P(x + h·u) − P(x − h·u)‖ / 2h         u uniform on the unit sphere, the same for all
    exact rewrite P(x) = W2 act(a) + b2 with a = W1 x + b1:  P(x + h·u) − P(x − h·u) = W2 [act(a + h·W1 u) − act(a − h·W1 u)]
    closed form   s = ‖J‖_F / √dim,  ‖J‖_F² = gᵀ [(W2ᵀ W2) ∘ (W1 W1ᵀ)] g  with g = act′(a)    root mean square instead of mean

The sensitivity is a property of the projector, not of relevance: where background lies on its steep part, it points the wrong
way. Selection with it: `diversity.sensitivity_diverse_select`; before trusting it: `relevance.relevance_correlation`.
"""

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn.functional import gelu

from tokenry.compression.precision import precise, require_features
from tokenry.core.errors import UserError, require_at_least, require_one_of

Projector = Callable[[Tensor], Tensor]

NUM_DIRECTIONS = 64
STEP = 1e-2


@torch.no_grad()
def zeroth_order_sensitivity(
    features: Float[Tensor, "..."],
    projector: Projector,
    num_directions: int = NUM_DIRECTIONS,
    step: float = STEP,
    directions: Float[Tensor, "directions width"] | None = None,
    generator: Generator | None = None,
    chunk: int = 8,
) -> Float[Tensor, "*batch tokens"]:
    """Estimate the sensitivity of each token's projection to a small step, for any projector.

    Args:
        features: what enters the projector, (tokens, dim) or (batch, tokens, dim). Halves are computed in float32, also when
            the projector's weights are halves (a copy of it is used).
        projector: maps (..., dim) to (..., other dim), token by token.
        num_directions: random directions, the same ones for all tokens (m). Not read when `directions` are given.
        step: length of the step to either side, in the units of the features (h).
        directions: use these, made unit length.
        generator: draws the directions.
        chunk: directions evaluated at once; bounds the memory.

    Returns:
        Sensitivity of every token: output units per input unit.

    Raises:
        UserError: step, number of directions or chunk are not positive, features are not finite or have the wrong rank, the
            projector drops out at random or does not return one vector per token.

    Source: ZOO-Prune, steps 1 and 2.
    """
    features = _checked(features)
    project = _in_dtype(projector, features.dtype)
    total = torch.zeros(features.shape[:-1], dtype=features.dtype, device=features.device)
    units = _unit_directions(features, num_directions, step, directions, generator)
    for some in _chunks(units, chunk):
        steps = step * some.view(len(some), *(1,) * (features.ndim - 1), -1)
        ahead, behind = (_projected(project, features + sign * steps) for sign in (1, -1))
        total += (ahead - behind).norm(dim=-1).sum(0)
    return total / (len(units) * 2 * step)


@torch.no_grad()
def mlp_sensitivity(
    features: Float[Tensor, "..."],
    w1: Float[Tensor, "hidden dim"],
    b1: Float[Tensor, "hidden"] | None,
    w2: Float[Tensor, "out hidden"],
    method: str = "sampled",
    num_directions: int = NUM_DIRECTIONS,
    step: float = STEP,
    directions: Float[Tensor, "directions width"] | None = None,
    generator: Generator | None = None,
    chunk: int = 8,
    activation: Projector = gelu,
    interaction: Float[Tensor, "hidden hidden"] | None = None,
) -> Float[Tensor, "*batch tokens"]:
    """Sensitivity of each token's projection to a small step, for the projector w2 · activation(w1 x + b1) + b2.

    `sampled` equals `zeroth_order_sensitivity` up to rounding, with one product per direction instead of four. `closed_form` is
    what the root mean square over infinitely many directions tends to for a small step: no sampling, deterministic.

    Args:
        features: what enters the projector, (tokens, dim) or (batch, tokens, dim); halves are computed in float32.
        w1: weight of the first linear layer.
        b1: its bias; None if it has none.
        w2: weight of the second linear layer; its bias cancels.
        method: `sampled` or `closed_form`.
        num_directions: this and the next four are read by `sampled`; see `zeroth_order_sensitivity`.
        step: length of the step to either side.
        directions: use these, made unit length.
        generator: draws the directions.
        chunk: directions evaluated at once.
        activation: between the layers, element by element.
        interaction: `projector_interaction(w1, w2)`, computed once and used for many images; read by `closed_form`.

    Raises:
        UserError: see `zeroth_order_sensitivity`; or features of another width than w1, or an unknown method.

    Source: ZOO-Prune, steps 1 and 2, for a projector with two layers; the closed form is not in the paper.
    """
    features = _checked(features)
    w1, w2 = w1.to(features.dtype), w2.to(features.dtype)
    if features.shape[-1] != w1.shape[1]:
        raise UserError(
            f"features have width {features.shape[-1]} but the projector takes {w1.shape[1]}: give what enters the projector, "
            "not what leaves it."
        )
    hidden = nn.functional.linear(features, w1, None if b1 is None else b1.to(features.dtype))
    require_one_of(method, ("sampled", "closed_form"), "method")
    if method == "closed_form":
        if interaction is None:
            interaction = projector_interaction(w1, w2)
        return _closed_form(hidden, interaction.to(features.dtype), activation, features.shape[-1])
    units = _unit_directions(features, num_directions, step, directions, generator)
    total = torch.zeros(features.shape[:-1], dtype=features.dtype, device=features.device)
    for some in _chunks(units, chunk):
        steps = (step * some @ w1.T).view(len(some), *(1,) * (features.ndim - 1), -1)
        change = activation(hidden + steps) - activation(hidden - steps)
        total += nn.functional.linear(change, w2).norm(dim=-1).sum(0)
    return total / (len(units) * 2 * step)


def projector_interaction(
    w1: Float[Tensor, "hidden dim"], w2: Float[Tensor, "out hidden"]
) -> Float[Tensor, "hidden hidden"]:
    """Compute (w2ᵀ w2) ∘ (w1 w1ᵀ): all that the closed form needs to know of a projector's weights, in float32 or float64."""
    w1, w2 = precise(w1), precise(w2)
    return (w2.T @ w2).mul_(w1 @ w1.T)


def low_rank_projector(
    w1: Float[Tensor, "hidden dim"],
    b1: Float[Tensor, "hidden"] | None,
    w2: Float[Tensor, "out hidden"],
    b2: Float[Tensor, "out"] | None,
    ranks: tuple[int, int],
    activation: Projector = gelu,
) -> Projector:
    """Build the projector with both weights replaced by their best approximations of the given ranks.

    It is what the released code for LLaVA-NeXT takes sensitivities of (pass it to `zeroth_order_sensitivity`): cheaper where
    the ranks are far below the widths.

    Raises:
        UserError: a rank is not between 1 and the smaller side of its weight.

    Source: ZOO-Prune, released code: weight = (U S) V truncated, bias on the outer factor.
    """
    (outer1, inner1), (outer2, inner2) = (_factors(w, rank) for w, rank in zip((w1, w2), ranks, strict=True))

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return nn.functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    def project(features: Tensor) -> Tensor:
        hidden = activation(linear(linear(features, inner1), outer1, b1))
        return linear(linear(hidden, inner2), outer2, b2)

    return project


def _factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    if not 1 <= rank <= min(weight.shape):
        raise UserError(
            f"a rank must be from 1 to {min(weight.shape)} for a weight of {tuple(weight.shape)}, got {rank}."
        )
    left, scale, right = torch.linalg.svd(precise(weight), full_matrices=False)
    return left[:, :rank] * scale[:rank], right[:rank]


def _closed_form(
    hidden: Float[Tensor, "*batch tokens hidden"],
    interaction: Float[Tensor, "hidden hidden"],
    activation: Projector,
    width: int,
) -> Float[Tensor, "*batch tokens"]:
    """‖J‖_F / √width from what enters the activation."""
    slope = torch.func.jvp(activation, (hidden,), (torch.ones_like(hidden),))[1]
    squared = ((slope @ interaction) * slope).sum(-1)
    return (squared.clamp(min=0) / width).sqrt()


def _unit_directions(
    features: Tensor,
    number: int,
    step: float,
    directions: Tensor | None,
    generator: Generator | None,
) -> Float[Tensor, "directions dim"]:
    """The given directions or drawn ones, of length 1; the step that will be taken along them is checked too."""
    if not 0 < step < float("inf"):
        raise UserError(
            f"step must be positive, got {step}: it is how far a feature is moved to either side, for example 0.01."
        )
    width = features.shape[-1]
    if directions is None:
        require_at_least(1, num_directions=number)
        device = features.device if generator is None else generator.device
        directions = torch.randn(number, width, generator=generator, dtype=features.dtype, device=device)
    elif len(directions) < 1 or directions.shape[1] != width:
        raise UserError(
            f"directions must be (at least 1, {width}) like the features, got {tuple(directions.shape)}."
        )
    directions = directions.to(features)
    return directions / (directions.norm(dim=-1, keepdim=True) + 1e-12)


def _chunks(directions: Tensor, chunk: int) -> tuple[Tensor, ...]:
    require_at_least(1, chunk=chunk)
    return directions.split(chunk)


def _checked(features: Tensor) -> Tensor:
    require_features(features)
    return precise(features)


def _in_dtype(projector: Projector, dtype: torch.dtype) -> Projector:
    """The projector as it can be used in float32: at h = 0.01 the difference would be rounding noise in halves."""
    if not isinstance(projector, nn.Module):
        return projector
    for module in projector.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise UserError(
                f"the projector is in training mode and drops out at random (p = {module.p}), so two evaluations differ: call "
                "projector.eval() first."
            )
    if any(weight.dtype != dtype for weight in projector.parameters()):
        return copy.deepcopy(projector).to(dtype)
    return projector


def _projected(project: Projector, features: Tensor) -> Tensor:
    projected = project(features)
    if projected.shape[:-1] != features.shape[:-1]:
        raise UserError(
            f"the projector must return one vector per token, {features.shape[-2]} tokens, got shape "
            f"{tuple(projected.shape[1:])}: a projector that changes the number of tokens has no sensitivity per token."
        )
    return projected
