"""The Fisher trace: flatness by ordinary backward passes, where a model has learned the language.

    labels of the model    Σ_v p_v ∇²(−log p_v) = Σ_v p_v ∇log p_v ∇log p_vᵀ           Bartlett's identity
    at the optimum         tr ∇²L = E ‖∇log p(y)‖² with y drawn from the model
    one backward           E ‖∇ (1/M) Σ_m ℓ_m‖² = (1/M²) Σ_m E ‖∇ℓ_m‖² where labels are independent: M times it is the mean per token

Away from the optimum it is the trace of the Gauss–Newton matrix, never negative, which leaves out what the residuals bend. With the labels of
the data it is the empirical Fisher, a third number.

Source: Same Pre-training Loss, Better Downstream (arXiv 2210.14199), section on the saturation regime.
"""

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.core.tensors.alignment import IGNORED
from tokenry.pretraining.flatness.draws import (
    AS_USUAL,
    FEWEST_DRAWS,
    DrawConfig,
    TraceDraw,
    TraceDraws,
    TraceEstimate,
    cycled,
)
from tokenry.pretraining.flatness.objective import EXCLUDED, Batch, Objective, Targets, rows_of

LABELS = ("model", "data", "all")
PER = ("token", "sequence")

# Elements of the gradients of single tokens that are held at once (1 GB in float32), and the largest vocabulary that is summed over.
_GRADIENT_ELEMENTS = 1 << 28
_SUMMED_VOCABULARY = 1000


def fisher_trace(
    model: nn.Module,
    batches: Iterable[Batch],
    labels: str = "model",
    per: str = "token",
    *,
    sequences: int | None = None,
    tol: float | None = None,
    exclude: Sequence[str] = EXCLUDED,
    include: Sequence[str] | None = None,
    per_group: bool = False,
    config: DrawConfig = AS_USUAL,
) -> TraceEstimate:
    """Estimate the mean over targets of ‖∇log p(y)‖², with its standard error over the sequences.

    Args:
        model: as of `hessian_trace`; bfloat16 will do.
        batches: mappings with `labels` at the targets; their sequences are read one by one, without padding.
        labels: `model` draws y from the model; `data` takes the labels (empirical Fisher); `all` sums over a small vocabulary exactly.
        per: `token` differentiates every target on its own; `sequence` the mean of a sequence at once, which needs one backward and has
            the same expectation for labels of the model. With labels of the data it holds the products of different targets too.
        sequences: number of sequences, with new labels where they are read again; by default each is read once.
        tol: go on until the standard error is at most this share of the trace; `sequences` is then the fewest.
        exclude: as of `hessian_trace`.
        include: as of `hessian_trace`.
        per_group: as of `hessian_trace`.
        config: as of `hessian_trace`.

    Raises:
        UserError: nothing to train, no target, no logits, weights in float16, a loss that is not finite, or a folder of other draws.
    """
    require_at_least(1, sequences=sequences)
    require_at_least(0, tol=tol)
    require_one_of(labels, LABELS, "labels")
    require_one_of(per, PER, "per")
    if labels == "all" and per == "sequence":
        raise UserError("labels='all' sums over the vocabulary at every target: it goes with per='token'.")
    objective = Objective(model, exclude, include, half=(torch.float16,))
    draws = TraceDraws(objective, config, f"Fisher, labels of {labels}, per {per}")
    chosen = [*objective.parameters.values()]

    def draw(sequence: Batch, generator: Generator) -> TraceDraw:
        targets = objective.targets(sequence)
        loss = float(targets.nll.detach().mean())
        if not math.isfinite(loss):
            raise UserError(f"the loss is {loss}: the model is damaged, or its training has diverged.")
        return TraceDraw(
            len(targets.labels), loss, _squared_norms(targets, chosen, labels, per, generator).cpu()
        )

    once = sequences is None and tol is None
    given = [batches] if isinstance(batches, Mapping) else batches
    rows = _with_targets(given if once else cycled(given), objective.shifts)
    fewest = sys.maxsize if once else sequences or FEWEST_DRAWS
    with objective.at_rest(twice=False) as notes:
        found = draws.make(rows, draw, fewest, tol, notes)
    return found if per_group else TraceEstimate(found.estimate, {}, None, found.loss, found.notes)


def _with_targets(batches: Iterable[Batch], causal: bool | None) -> Iterator[dict[str, Tensor]]:
    """The sequences of batches that have a target."""
    for batch in batches:
        for row in rows_of(batch):
            labels = row.get("labels", row.get("input_ids") if causal else None)
            if labels is None or bool((labels[..., 1 if causal else 0 :] != IGNORED).any()):
                yield row


def _squared_norms(
    targets: Targets, parameters: Sequence[Tensor], labels: str, per: str, generator: Generator
) -> Float[Tensor, "parameters"]:
    """Mean over the targets of one sequence of ‖∇log p(y)‖², by parameter."""
    logp = targets.logits.log_softmax(-1)
    if labels == "all":
        return _summed(logp, parameters)
    chosen = targets.labels if labels == "data" else sampled(logp, generator)
    nll = -logp.gather(-1, chosen[:, None])[:, 0]
    if not bool(nll.isfinite().all()):
        raise UserError(
            "the loss of a sequence is not finite: the model is damaged, or its training has diverged."
        )
    if per == "token":
        return _norms_of_each(nll, torch.ones_like(nll), parameters) / len(nll)
    gradients = torch.autograd.grad(nll.mean(), parameters, materialize_grads=True)
    return len(nll) * torch.stack([gradient.square().sum(dtype=torch.float64) for gradient in gradients])


def sampled(logp: Float[Tensor, "targets vocabulary"], generator: Generator) -> Int[Tensor, "targets"]:
    """A label for every target, drawn from the model."""
    return torch.multinomial(logp.detach().exp(), 1, generator=generator)[:, 0]


def _summed(
    logp: Float[Tensor, "targets vocabulary"], parameters: Sequence[Tensor]
) -> Float[Tensor, "parameters"]:
    """Mean over the targets of Σ_v p_v ‖∇log p_v‖²: the expectation over labels of the model, without drawing any."""
    if logp.shape[-1] > _SUMMED_VOCABULARY:
        raise UserError(
            f"labels='all' takes a gradient for each of the {logp.shape[-1]} tokens of the vocabulary at every target: it is for at most "
            f"{_SUMMED_VOCABULARY}; use labels='model', which draws."
        )
    return _norms_of_each(logp.flatten(), logp.detach().exp().flatten(), parameters) / len(logp)


def _norms_of_each(
    values: Float[Tensor, "values"], weights: Float[Tensor, "values"], parameters: Sequence[Tensor]
) -> Float[Tensor, "parameters"]:
    """Σ weight · ‖∇value‖² by parameter, with as many gradients at once as the memory holds."""
    size = max(1, _GRADIENT_ELEMENTS // max(1, sum(parameter.numel() for parameter in parameters)))
    total = torch.zeros(len(parameters), dtype=torch.float64, device=values.device)
    one_each = torch.eye(len(values), dtype=values.dtype, device=values.device)
    for rows, of_rows in zip(one_each.split(size), weights.split(size), strict=True):
        gradients = torch.autograd.grad(
            values, parameters, rows, retain_graph=True, is_grads_batched=True, allow_unused=True
        )
        for number, gradient in enumerate(gradients):
            if gradient is not None:
                total[number] += gradient.flatten(1).square().sum(1, dtype=torch.float64) @ of_rows.double()
    return total
