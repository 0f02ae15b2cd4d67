"""The one training loop of the small models that recipes train from nothing: AdamW (or another) and a schedule of the learning rate."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Generator, Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

Batch = TypeVar("Batch")
Schedule = Callable[[Optimizer, int], LRScheduler]

_REPORTS = 100


def constant(optimizer: Optimizer, steps: int) -> LRScheduler:
    """The learning rate as it is."""
    return ConstantLR(optimizer, 1.0)


def one_cycle(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Rise to the learning rate, then fall to nothing."""
    return OneCycleLR(optimizer, optimizer.defaults["lr"], total_steps=steps)


def cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Warm-up over a twentieth of the steps, then half a cosine."""
    return get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)


def linear(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Fall from the learning rate to nothing in a straight line."""
    return get_linear_schedule_with_warmup(optimizer, 0, steps)


def batches_of_epochs(
    number: int, batch_size: int, epochs: int, generator: Generator
) -> Iterator[Int[Tensor, "batch"]]:
    """The indices of all samples in batches, in a new order in every epoch; a last, smaller batch is left out."""
    whole = number - number % batch_size
    for _ in range(epochs):
        yield from torch.randperm(number, generator=generator)[:whole].split(batch_size)


def fit(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Callable[[Batch], Tensor],
    steps: int,
    learning_rate: float,
    schedule: Schedule,
    *,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    clip: float | None = None,
    fused: bool = False,
    optimiser: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> list[float]:
    """Train all parameters of a model in place and return the loss of every step.

    Args:
        model: the model, in the mode in which it is to be trained.
        batches: at least as many batches as there are steps.
        loss: computes the loss of one batch.
        learning_rate: the highest learning rate.
        schedule: makes the schedule of the learning rate from the optimiser and the number of steps.
        weight_decay: weight decay of AdamW.
        betas: decay rates of AdamW's moments.
        clip: largest norm of the gradients; None for no limit.
        fused: whether AdamW uses its fused kernel.
        optimiser: makes another optimiser, which then has settings of its own, from the parameters.
        progress: called about a hundred times with the share of the steps that is done.
    """
    optimizer = (
        AdamW(
            model.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=fused or None
        )
        if optimiser is None
        else optimiser(model.parameters())
    )
    scheduled, losses = schedule(optimizer, steps), []
    progress(0.0)
    for step, batch in enumerate(islice(batches, steps), start=1):
        value = loss(batch)
        value.backward()
        if clip is not None:
            clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        scheduled.step()
        losses.append(value.item())
        if step % max(1, steps // _REPORTS) == 0 or step == steps:
            progress(step / steps)
    return losses
