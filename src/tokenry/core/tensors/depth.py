"""A language model of fewer layers than it has: its first ones, with the last norm and the head behind them.

Models of several depths are a family whose order is known, at the price of one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from tokenry.core.errors import UserError
from tokenry.core.tensors.output_head import causal_lm


@contextmanager
def at_depth(model: nn.Module, layers: int) -> Iterator[None]:
    """Let a causal language model run its first `layers` layers only; afterwards it is as before.

    Raises:
        UserError: the model has fewer layers, or none that can be found.
    """
    inner = causal_lm(model)
    config = inner.config.get_text_config()
    depth = config.num_hidden_layers
    stack = next(
        (part for part in inner.modules() if isinstance(part, nn.ModuleList) and len(part) == depth), None
    )
    if stack is None:
        raise UserError(f"the layers of {type(inner).__name__} were not found, so it has one depth only.")
    if not 1 <= layers <= depth:
        raise UserError(f"a depth must be from 1 to {depth}, the layers of this model, got {layers}.")
    deeper = list(stack[layers:])
    del stack[layers:]
    config.num_hidden_layers = layers
    try:
        yield
    finally:
        stack.extend(deeper)
        config.num_hidden_layers = depth
