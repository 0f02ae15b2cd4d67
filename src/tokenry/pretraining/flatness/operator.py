"""The Hessian over all batches as a linear operator of curvlinops: Hutch++, XTrace, diagonals and norms come with it.

    operator = hessian_operator(model, batches)
    hutchpp_trace(operator, 60)                    of curvlinops; the batches are fixed, so that only its probes have an error

Extra `tokenry[curvature]`. Products are our own double backward, with our choice of parameters, loss and attention kernel.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from tokenry.core.errors import UserError
from tokenry.pretraining.flatness.objective import EXCLUDED, Batch, Objective
from tokenry.pretraining.flatness.trace import whole_product


def hessian_operator(
    loss_fn_or_model: nn.Module | Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    exclude: Sequence[str] = EXCLUDED,
    include: Sequence[str] | None = None,
    parameters: Mapping[str, Tensor] | None = None,
) -> Any:
    """The Hessian of the mean loss over the targets of all batches, as a `PyTorchLinearOperator`; arguments as of `hessian_trace`.

    Raises:
        UserError: curvlinops is not installed, or as of `hessian_trace`.
    """
    try:
        base: Any = import_module("curvlinops._torch_base").PyTorchLinearOperator
    except ImportError as error:
        raise UserError(
            "curvlinops is not installed: pip install 'tokenry[curvature]', or take hessian_trace, which needs none of it."
        ) from error
    objective = Objective(loss_fn_or_model, exclude, include, parameters)
    whole = [batches] if isinstance(batches, Mapping | Tensor) else [*batches]
    chosen = [*objective.parameters.values()]

    class HessianOperator(base):
        SELF_ADJOINT = True
        device, dtype = objective.device, chosen[0].dtype

        def _matmat(self, columns: list[Tensor]) -> list[Tensor]:
            matrix = torch.cat([part.flatten(0, -2) for part in columns])
            with objective.at_rest(twice=True):
                products = [whole_product(objective, whole, column) for column in matrix.T]
            rows = torch.stack(products, dim=-1).split([one.numel() for one in chosen])
            return [part.view(*one.shape, -1) for part, one in zip(rows, chosen, strict=True)]

    shapes = [tuple(one.shape) for one in chosen]
    return HessianOperator(shapes, shapes)
