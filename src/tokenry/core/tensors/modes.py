"""States that a model is in for a while: evaluation, or the gathered weights that FSDP2 splits; afterwards it is as before."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.distributed.fsdp import FSDPModule


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout and the like off, and restore each module's own mode afterwards (a frozen part may have been off)."""
    in_training = [module for module in model.modules() if module.training]
    if in_training:
        model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Let the parts of a model that FSDP2 has split be called past its own forward, as generation and backbones are.

    Its layers gather their weights themselves. Those outside of them (embeddings, last norm, head) are gathered here, on every rank.
    """
    if isinstance(model, FSDPModule):
        model.unshard()
    try:
        yield
    finally:
        if isinstance(model, FSDPModule):
            model.reshard()
