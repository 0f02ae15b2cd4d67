"""Flatness: the trace of the Hessian of the pre-training loss, by Hutchinson's estimator with a standard error.

    z random with E zzᵀ = I, a fresh batch for every draw         v = ∇(∇L · z), one double backward         tr ∇²L = E zᵀv

    variance of one probe     Gaussian 2 tr(H²)                  Rademacher 2 (tr(H²) − Σ H_ii²), never larger

The output matrix of a language model may be probed apart from the other parameters, with a product of its own: what H holds between the
two, residuals p − label for the most part, then leaves the variance, and the trace stays what it is. It is done where it pays: in small
models that still miss their labels.

Of two models with the same loss, the one with the smaller trace is flatter and, in the paper, the better one downstream. A trace depends on
the parametrisation: compare equal architectures, or models that were enlarged to one (`tokenry.pretraining.flatness.enlarge`).

Source: Same Pre-training Loss, Better Downstream: Implicit Bias Matters for Language Models (arXiv 2210.14199), whose released code draws
Gaussian probes; Lanczos (1950) for the top eigenvalue.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import eigh_tridiagonal
from torch import Generator, Tensor, nn

from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.pretraining.flatness.draws import (
    AS_USUAL,
    DrawConfig,
    TraceDraw,
    TraceDraws,
    TraceEstimate,
    cycled,
)
from tokenry.pretraining.flatness.objective import EXCLUDED, Batch, Objective, second_derivatives

DISTRIBUTIONS = ("rademacher", "gaussian")
_PRICE_APART = 1.7
"""Price of a draw with a product for each of two blocks, in draws with one product."""


def hvp(
    model: nn.Module | Sequence[Tensor],
    loss: Tensor | Callable[[], Tensor],
    vector: Float[Tensor, "size"] | Sequence[Tensor],
) -> Any:
    """The product of the Hessian of a loss and a vector, by one double backward.

    Args:
        model: a module, whose trainable parameters in their order are meant, or the parameters themselves.
        loss: the loss with a graph, which is kept; or a function that computes it, with attention on the math kernel.
        vector: flat, or a tensor for every parameter.

    Returns:
        The product, in the form of the vector.

    Raises:
        UserError: the vector has another size than the parameters, or attention in the graph has no second derivative.
    """
    parameters = (
        [one for one in model.parameters() if one.requires_grad] if isinstance(model, nn.Module) else [*model]
    )
    flat = isinstance(vector, Tensor)
    sizes = [one.numel() for one in parameters]
    given = vector.numel() if isinstance(vector, Tensor) else sum(one.numel() for one in vector)
    if given != sum(sizes):
        raise UserError(
            f"the vector has {given} entries and the parameters have {sum(sizes)}: give one for each."
        )
    parts = vector.split(sizes) if isinstance(vector, Tensor) else vector
    shaped = [part.view_as(one) for part, one in zip(parts, parameters, strict=True)]
    with second_derivatives():
        gradients = _gradients(loss if isinstance(loss, Tensor) else loss(), parameters)
        product = _product(gradients, parameters, shaped)
    return torch.cat([part.flatten() for part in product]) if flat else product


def hessian_trace(
    loss_fn_or_model: nn.Module | Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    probes: int = 64,
    distribution: str = "rademacher",
    exclude: Sequence[str] = EXCLUDED,
    per_group: bool = False,
    tol: float | None = None,
    *,
    include: Sequence[str] | None = None,
    parameters: Mapping[str, Tensor] | None = None,
    config: DrawConfig = AS_USUAL,
) -> TraceEstimate:
    """Estimate the trace of the Hessian of the loss, with its standard error.

    Args:
        loss_fn_or_model: a causal or masked language model of transformers, wrapped or not; a module whose output is or has a loss; or a
            function that computes the loss of a batch from `parameters`.
        batches: mappings as the model takes them, read again and again; an iterator is read once.
        probes: number of probes; with `tol`, the number before which the error is not looked at.
        distribution: `rademacher` or `gaussian`, as in the released code.
        exclude: parameters are left out whose names hold one of these; `output_bias` is the bias of the output head, whatever its name.
        per_group: whether the traces of single layers are wanted too.
        tol: go on until the standard error is at most this share of the trace.
        include: only parameters whose names hold one of these, such as `lora_`; None for all that are trained.
        parameters: by name, where a loss function is given.
        config: seed, probes per batch, weighting, and what is written so that an interrupted estimate goes on.

    Raises:
        UserError: nothing to train, no target, weights in half precision, a loss that is not finite or has no graph, attention without a
            second derivative, or a folder of other draws.
    """
    require_at_least(1, probes=probes)
    require_at_least(0, tol=tol)
    require_one_of(distribution, DISTRIBUTIONS, "distribution")
    objective = Objective(loss_fn_or_model, exclude, include, parameters)
    draws = TraceDraws(objective, config, f"Hessian, {distribution}")
    chosen = [*objective.parameters.values()]

    def draw(batch: Batch, generator: Generator) -> TraceDraw:
        loss, targets = objective.loss(batch)
        gradients = _gradients(loss, chosen)
        trace = torch.zeros(2, len(chosen), dtype=torch.float64, device=objective.device)
        for block in blocks * config.probes_per_batch:
            probed = [chosen[place] for place in block]
            vector = [probe(one, distribution, generator) for one in probed]
            product = _product([gradients[place] for place in block], probed, vector)
            trace[:, block] += _parts(probed, vector, product)
        values, relative = (trace / config.probes_per_batch).cpu()
        return TraceDraw(targets, float(loss.detach()), values, float(relative.sum()))

    with objective.at_rest(twice=True) as notes:
        every = cycled(batches)
        first = [*islice(every, 1)]
        blocks = _probed_apart(objective, chosen, first, config.seed)
        found = draws.make(chain(first, every), draw, -(-probes // config.probes_per_batch), tol, notes)
    return found if per_group else TraceEstimate(found.estimate, {}, found.relative, found.loss, found.notes)


def top_hessian_eigenvalue(
    loss_fn_or_model: nn.Module | Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    exclude: Sequence[str] = EXCLUDED,
    tol: float = 1e-4,
    most_products: int = 100,
    *,
    include: Sequence[str] | None = None,
    parameters: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> float:
    """The largest eigenvalue of the Hessian of the mean loss over all batches, by Lanczos without reorthogonalisation.

        H q_j = β_{j−1} q_{j−1} + α_j q_j + β_j q_{j+1}         error ≤ β_k · |last component of the tridiagonal's eigenvector|

    Three vectors of the size of the parameters are held. Every step is a product with the Hessian over all batches.

    Args:
        loss_fn_or_model: as of `hessian_trace`.
        batches: all of them count, by their targets.
        exclude: as of `hessian_trace`.
        tol: bound on the error, relative to the eigenvalue.
        most_products: steps after which it is given up.
        include: as of `hessian_trace`.
        parameters: as of `hessian_trace`.
        seed: of the first vector.
    """
    require_at_least(1, most_products=most_products)
    objective = Objective(loss_fn_or_model, exclude, include, parameters)
    whole = [batches] if isinstance(batches, Mapping | Tensor) else [*batches]
    if not whole:
        raise UserError("there is no batch with a target: give at least one.")
    generator = Generator(objective.device).manual_seed(seed)
    first = [probe(one, "gaussian", generator).flatten() for one in objective.parameters.values()]
    vector = torch.cat(first)
    vector /= vector.norm()
    before, beta = torch.zeros_like(vector), 0.0
    alphas, betas = list[float](), list[float]()
    with objective.at_rest(twice=True):
        while True:
            product = whole_product(objective, whole, vector) - beta * before
            alphas.append(float(product.dot(vector)))
            product -= alphas[-1] * vector
            beta = float(product.norm())
            values, vectors = eigh_tridiagonal(np.array(alphas), np.array(betas))
            if beta * abs(vectors[-1, -1]) <= tol * abs(values[-1]) or len(alphas) >= most_products:
                return float(values[-1])
            betas.append(beta)
            before, vector = vector, product / beta


def probe(like: Tensor, distribution: str, generator: Generator) -> Tensor:
    """A random tensor of the shape of another, with mean 0 and variance 1 everywhere."""
    drawn = torch.empty_like(like, requires_grad=False)
    if distribution == "gaussian":
        return drawn.normal_(generator=generator)
    return drawn.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)


def _probed_apart(
    objective: Objective, chosen: Sequence[Tensor], first: Sequence[Batch], seed: int
) -> list[list[int]]:
    """The blocks that have a product of their own: told by the first batch, so that an estimate that goes on has those it began with."""
    if len(objective.blocks) > 1:
        for batch in first:
            gradients = _gradients(objective.loss(batch)[0], chosen)
            if _pays_apart(
                objective.blocks, gradients, chosen, Generator(objective.device).manual_seed(seed)
            ):
                return objective.blocks
    return [[*range(len(chosen))]]


def _pays_apart(
    blocks: Sequence[Sequence[int]],
    gradients: Sequence[Tensor],
    parameters: Sequence[Tensor],
    generator: Generator,
) -> bool:
    """Whether blocks have so much between them, by one probe of each, that a product for each costs less than the noise of one for all."""
    squares = torch.zeros(len(blocks), len(blocks), dtype=torch.float64)  # ‖H_ij‖², of the blocks i and j
    for row, block in enumerate(blocks):
        vector = [probe(parameters[place], "rademacher", generator) for place in block]
        product = _product([gradients[place] for place in block], parameters, vector)
        for column, other in enumerate(blocks):
            squares[row, column] = sum(float(product[place].square().sum()) for place in other)
    return bool(squares.sum() > _PRICE_APART * squares.trace())


def _parts(
    parameters: Sequence[Tensor], vector: Sequence[Tensor], product: Sequence[Tensor]
) -> Float[Tensor, "2 parameters"]:
    """zᵀHz and zᵀ diag(θ²) Hz, by parameter."""
    parts = [z * v for z, v in zip(vector, product, strict=True)]
    relative = [part * one.detach() ** 2 for part, one in zip(parts, parameters, strict=True)]
    return torch.stack(
        [torch.stack([one.sum(dtype=torch.float64) for one in side]) for side in (parts, relative)]
    )


def whole_product(objective: Objective, batches: Sequence[Batch], vector: Tensor) -> Tensor:
    """The product of a vector with the Hessian of the mean loss over the targets of all batches."""
    chosen = [*objective.parameters.values()]
    total, number = torch.zeros_like(vector), 0
    for batch in batches:
        loss, targets = objective.loss(batch)
        total += targets * hvp(chosen, loss, vector)
        number += targets
    return total / number


def _gradients(loss: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)


def _product(
    gradients: Sequence[Tensor], parameters: Sequence[Tensor], vector: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Differentiate gradients along a vector of theirs; the graph is kept. A gradient without a graph is a constant."""
    linked = [(one, part) for one, part in zip(gradients, vector, strict=True) if one.requires_grad]
    if not linked:
        return tuple(map(torch.zeros_like, parameters))
    outputs, directions = zip(*linked, strict=True)
    return torch.autograd.grad(outputs, parameters, directions, retain_graph=True, materialize_grads=True)
