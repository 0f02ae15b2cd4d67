"""Weighted sums of a row loss over rows of hidden states, with gradients, one chunk of logits at a time.

    total = Σ weights[row] · loss(logits[row], targets[row])

A head that is a plain matrix gets all gradients in the forward (`matrix_loss`), so that nothing of size rows × vocabulary waits for the
backward. Any other head runs its own forward with a graph, once more in the backward (`module_loss`). Both call the same row loss.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from tokenry.core.tensors.output_head import OutputHead, accumulation_dtype, matmul_operand
from tokenry.core.tensors.row_losses import RowLoss

# 16 million logits (64 MB in float32) are enough to keep every matrix product busy on CPU and GPU alike.
CHUNK_ELEMENTS = 1 << 24

Losses = tuple[
    Float[Tensor, ""],
    Float[Tensor, "rows"],
    Float[Tensor, "rows"],
    Float[Tensor, "rows"],
    Float[Tensor, "rows"],
]
"""The weighted sum; NLL, entropy and accuracy of every row, and the weight of its target within the row loss."""


def chunks(rows: int, vocabulary: int, chunk_elements: int) -> Iterator[slice]:
    """Cut rows into equal parts whose logits are no more than `chunk_elements`."""
    most = max(1, chunk_elements // vocabulary)
    size = math.ceil(rows / max(1, math.ceil(rows / most)))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, max(1, size)))


def matrix_loss(
    rows: Float[Tensor, "rows dim"],
    targets: Int[Tensor, "rows"],
    weights: Float[Tensor, "rows"],
    head: OutputHead,
    row_loss: RowLoss,
    chunk_elements: int,
) -> Losses:
    """Form loss and gradients of a head that is a plain matrix."""
    linear = head.linear
    assert linear is not None
    values: list[Tensor] = []

    def compute(rows: Tensor) -> Tensor:
        total, *values[:] = _MatrixLoss.apply(
            rows, linear.weight, linear.bias, targets, weights, head, row_loss, chunk_elements
        )
        return total

    total = head.in_forward(rows, compute)
    nll, entropy, accuracy, weight = values
    return total, nll, entropy, accuracy, weight


class _MatrixLoss(torch.autograd.Function):
    """Loss and gradients of a linear head chunk by chunk in one go: three matrix products per row and none in the backward.

    Where the logits are a multiple of hidden @ weight.T (no bias, no soft-cap) and the row loss has a `slope`, the entropy needs no pass
    over the vocabulary: with E the mean over the predicted distribution and h the hidden state,

        entropy = nll − (E[logits] − logits[target])        E[logits] − logits[target] = h · ∂nll/∂h
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor,
        head: OutputHead,
        row_loss: RowLoss,
        chunk_elements: int,
    ) -> Losses:
        accumulate = accumulation_dtype(rows.dtype)
        matrix = matmul_operand(weight)
        grad_rows = torch.empty_like(rows) if rows.requires_grad else None
        grad_weight = None
        grad_bias = (
            torch.zeros_like(bias, dtype=accumulate) if bias is not None and bias.requires_grad else None
        )
        is_multiple = head.softcap is None and bias is None and grad_rows is not None
        loss, nll, entropy, accuracy, weight_in_loss = torch.empty(
            5, *targets.shape, dtype=accumulate, device=rows.device
        )
        for part in list(chunks(rows.shape[0], weight.shape[0], chunk_elements)) or [slice(0, 0)]:
            chunk = rows[part].to(matrix.dtype)
            logits = head.matrix_logits(chunk, matrix, bias)
            bend = None if head.softcap is None else _softcap_derivative(logits, head)
            values = row_loss(logits, targets[part], entropy=not is_multiple)
            loss[part], nll[part], accuracy[part] = values.loss, values.nll, values.is_best
            weight_in_loss[part] = 1.0 if values.weight is None else values.weight
            gradient = logits
            gradient *= (weights[part] * (head.scale / head.temperature))[:, None]
            if bend is not None:
                gradient *= bend
            if grad_bias is not None:
                grad_bias += gradient.sum(0)
            gradient = gradient.to(matrix.dtype)
            if grad_rows is not None:
                grad_rows[part] = torch.mm(gradient, matrix)
            if values.entropy is not None:
                entropy[part] = values.entropy
            else:
                assert grad_rows is not None
                assert values.slope is not None
                above = (chunk.to(accumulate) * grad_rows[part].to(accumulate)).sum(-1)
                entropy[part] = nll[part] - above / (weights[part] * values.slope)
            if weight.requires_grad:
                grad_weight = _add_product(grad_weight, gradient.t(), chunk, accumulate)
            del logits, gradient, bend  # or they would be alive beside the logits of the next chunk
        ctx.gradients = (grad_rows, grad_weight, grad_bias)
        ctx.dtypes = (rows.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(nll, entropy, accuracy, weight_in_loss)
        return (weights * loss).sum(), nll, entropy, accuracy, weight_in_loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "weighted_cross_entropy forms its gradients once: backward was called a second time."
            )
        scaled = [
            None if gradient is None else _scaled(gradient, grad_total, dtype)
            for gradient, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        ]
        ctx.gradients = None
        return (*scaled, None, None, None, None, None)


def _softcap_derivative(logits: Tensor, head: OutputHead) -> Tensor:
    """The derivative of the soft-cap, from the logits after it and after the temperature."""
    assert head.softcap is not None
    return 1 - (logits / (head.softcap / head.temperature)).square()


def _add_product(total: Tensor | None, left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """Add `left @ right` to `total`, summing in `dtype`; a single product is its own sum, so nothing is filled or converted."""
    if total is None:
        return torch.mm(left, right)
    if left.dtype == dtype:
        return total.addmm_(left, right)
    return total.to(dtype).add_(torch.mm(left, right))


def _scaled(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """`gradient` times a scalar tensor, in `dtype`, rounded once: the factor is not rounded to half precision first."""
    gradient = gradient.to(torch.promote_types(gradient.dtype, dtype))
    # Devices other than the CPU round a scalar tensor to the dtype of what it multiplies; a vector promotes that instead.
    exact = gradient.dtype == factor.dtype or gradient.is_cpu
    return (gradient.mul_(factor) if exact else gradient * factor.reshape(1)).to(dtype)


def module_loss(
    rows: Float[Tensor, "rows dim"],
    targets: Int[Tensor, "rows"],
    weights: Float[Tensor, "rows"],
    head: OutputHead,
    row_loss: RowLoss,
    chunk_elements: int,
) -> Losses:
    """Form the loss through the head's own forward, recomputing each chunk of logits in the backward."""

    def of_chunk(chunk: Tensor, chunk_targets: Tensor) -> tuple[Tensor, ...]:
        logits = head.logits(chunk)
        with torch.no_grad():
            gradient = logits.clone()
            values = row_loss(gradient, chunk_targets, entropy=True)
        assert values.entropy is not None
        loss = WithGradient.apply(logits, values.loss, gradient)
        weight = torch.ones_like(values.nll) if values.weight is None else values.weight
        return loss, values.nll, values.entropy, values.is_best.to(loss.dtype), weight

    parts = list(chunks(rows.shape[0], head.vocabulary, chunk_elements)) or [slice(0, 0)]
    computed = [checkpoint(of_chunk, rows[part], targets[part], use_reentrant=False) for part in parts]
    loss, *values = (torch.cat(values) for values in zip(*computed, strict=True))
    nll, entropy, accuracy, weight = values
    return (weights * loss).sum(), nll, entropy, accuracy, weight


class WithGradient(torch.autograd.Function):
    """A loss of every row of logits whose gradient is known: that of Σ logits · gradient, and no NaN where a logit is −inf."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        """Pass the loss on, and keep its gradient."""
        ctx.save_for_backward(gradient)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None]:
        """Scale the gradient of each row."""
        (gradient,) = ctx.saved_tensors
        return gradient * grad_loss[:, None], None, None
