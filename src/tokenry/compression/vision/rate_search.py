"""Learn how many tokens each layer keeps, by gradient descent on a frozen classifier under a FLOPs target.

    loss = cross_entropy + flops_weight · (4.6 · (flops − target) / dense)²

Source: DiffRate (arXiv 2305.17997). 4.6 GFLOPs is a DeiT-S, for which this loss is the paper's, (GFLOPs − target)²; that one vanishes
for smaller models. Starting at the uniform schedule of the target is ours too: from zero logits, every layer starts at half the
tokens, and a short search stays there.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR
from transformers import PreTrainedModel

from tokenry.compression.apply import apply_token_reduction
from tokenry.compression.flops import LayerCost, layer_costs
from tokenry.compression.vision.diffrate import (
    DiffRate,
    Schedule,
    require_class_token,
    require_image_encoder,
    scheduled_flops,
    uniform_schedule,
)
from tokenry.compression.vision.rate_proxy import RateProxy
from tokenry.compression.vision.searched_rates import SearchedRates
from tokenry.core.errors import UserError, require_at_least, require_one_of, require_share
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.patching import Encoder, find_encoder

DEIT_SMALL_GFLOPS = 4.6
_MISSED = 0.015
"""A final schedule this far from its target (relative) is warned about."""


Batch = Mapping[str, Tensor] | Sequence[Tensor]
"""Images and labels: by name, as transformers collates them (`pixel_values`, `labels`), or as a pair, as torchvision's data sets are."""


@runtime_checkable
class Batches(Iterable[Batch], Sized, Protocol):
    """Batches that can be gone through several times, such as a `DataLoader` or a list."""


@dataclass(frozen=True)
class SearchStep:
    """The state of a search after a step.

    Attributes:
        step: number of steps done.
        steps: number of steps of the whole search.
        loss: cross-entropy of this batch, in nats.
        gflops: multiply-adds of the model at the counts of this step, in 1e9, patch embedding and head included.
        lr: learning rate of this step.
    """

    step: int
    steps: int
    loss: float
    gflops: float
    target_gflops: float
    lr: float


class SearchInterrupted(KeyboardInterrupt):
    """Ctrl-C during a search: a `KeyboardInterrupt` that carries what was learned so far.

    Attributes:
        schedule: the counts after the last step; `search_rates(..., init=schedule)` resumes from them.
    """

    def __init__(self, schedule: Schedule, step: int, steps: int) -> None:
        super().__init__(
            f"the search was stopped after {step} of {steps} steps, so this schedule is not the final one: {schedule}; "
            "search_rates(..., init=schedule) resumes from it."
        )
        self.schedule = schedule


def search_rates(
    model: PreTrainedModel,
    loader: Batches,
    target_gflops: float | None = None,
    *,
    target_share: float | None = None,
    granularity: int = 4,
    flops_weight: float = 5.0,
    lr: float = 1e-2,
    min_lr: float = 1e-3,
    epochs: int = 3,
    init: Literal["uniform", "zeros"] | Schedule = "uniform",
    flops_unit: Literal["share", "gflops"] = "share",
    gradient: Literal["bounded", "official"] = "bounded",
    progress: Callable[[SearchStep], None] = lambda step: None,
) -> Schedule:
    """Learn how many tokens each layer keeps; weights, modes and gradient flags of the model stay as they were.

    The model runs in evaluation mode (no dropout). Augmentation is left to the loader. Ctrl-C raises `SearchInterrupted`, which holds
    what was learned so far. A schedule that ends more than 1.5 % off its target is returned with a warning.

    Args:
        model: a classifier whose head reads the class token; called with `pixel_values`, it returns `logits`.
        loader: batches of `pixel_values` and `labels`, or pairs of them; labels are class numbers, or probabilities (batch, classes) as
            mixup makes them.
        target_gflops: multiply-adds of the whole model, in 1e9, patch embedding and head included as the paper counts them.
        target_share: alternatively, the share of the layers' multiply-adds: `TokenReduction.flops / dense_flops`.
        granularity: step between the counts to choose from; 1 for small images.
        lr: learning rate of AdamW on the logits, without weight decay; decays to `min_lr` by a cosine, from step to step (officially from
            epoch to epoch, which for one epoch is no decay at all).
        min_lr: final learning rate.
        epochs: passes over the loader.
        init: starting point: the uniform schedule of the target, zero logits (official), or a schedule.
        flops_unit: "share" measures the distance to the target relative to the dense model (times 4.6), "gflops" in GFLOPs (official).
        gradient: "bounded" takes for a dead token the change that bringing it back would make in attention, "official" the derivative
            there, which explodes where attention is sharp and then drowns the FLOPs term.
        progress: called after every step.

    Raises:
        UserError: an argument is out of range, the model does not fit, the target cannot be reached, or the loss is not finite.
        SearchInterrupted: Ctrl-C.

    Source: DiffRate, training objective and appendix (defaults).
    """
    _check(target_gflops, target_share, epochs, lr, min_lr, init)
    require_one_of(flops_unit, ("share", "gflops"), "flops_unit")
    require_one_of(gradient, ("bounded", "official"), "gradient")
    encoder = find_encoder(model)
    require_image_encoder(encoder)
    require_class_token(encoder)
    images = _first_images(loader)
    with _frozen(model):
        account = _account(model, encoder, images)
        patches = account.tokens - account.special
        rates = SearchedRates(
            len(encoder.layers), patches, granularity, account.special, bounded=gradient == "bounded"
        )
        target = _target(account, target_gflops, target_share, rates.proxies[-1])
        if init != "zeros":
            start = init if isinstance(init, Schedule) else account.uniform(target)
            rates.start_at(_fitting(start, encoder))
        unit = DEIT_SMALL_GFLOPS / account.dense if flops_unit == "share" else 1e-9
        for proxy in rates.proxies:
            proxy.to(model.device)
        with apply_token_reduction(model, rates):
            objective = _Objective(model, rates, account, target, flops_weight * unit**2)
            _descend(objective, loader, epochs, lr, min_lr, progress)
    schedule = rates.schedule()
    missed = float(rates.flops(account.costs, account.tokens).detach()) / target - 1
    if abs(missed) > _MISSED:
        warnings.warn(
            f"the schedule is {missed:+.1%} off the FLOPs target: search for more epochs, or with a larger flops_weight or lr, or a "
            "smaller granularity.",
            stacklevel=2,
        )
    return schedule


@dataclass(frozen=True)
class _Account:
    """FLOPs of one image: of the layers, which depend on the counts, and of the rest of the model, which does not."""

    costs: list[LayerCost]
    tokens: int
    special: int
    rest: int

    @property
    def dense(self) -> float:
        return self.with_kept(self.tokens)

    def with_kept(self, count: int) -> float:
        """FLOPs of the layers when `count` tokens leave every one of them."""
        counts = [self.tokens] + [count] * (len(self.costs) - 1)
        return float(scheduled_flops(self.costs, self.tokens, counts, counts))

    def uniform(self, target: float) -> Schedule:
        return uniform_schedule(self.costs, self.tokens, self.special, target / self.dense)


def _account(model: PreTrainedModel, encoder: Encoder, images: Tensor) -> _Account:
    layers = len(encoder.layers)
    full = DiffRate(Schedule([2**31] * layers, [2**31] * layers))
    with apply_token_reduction(model, full) as dense, torch.no_grad():
        model(pixel_values=images[:1].to(model.device))
        tokens = dense.token_counts[0]
    in_layers = {module for layer in encoder.layers for module in layer.modules()}
    others = [module for module in model.modules() if module not in in_layers]
    # The class token is counted as if it had been embedded too.
    embedding = sum(module.weight.numel() for module in others if isinstance(module, nn.Conv2d)) * tokens
    head = sum(module.weight.numel() for module in others if isinstance(module, nn.Linear))
    return _Account(layer_costs(encoder), tokens, encoder.special_tokens, embedding + head)


def _target(account: _Account, gflops: float | None, share: float | None, proxy: RateProxy) -> float:
    """The FLOPs target of the layers."""
    target = account.dense * share if share is not None else gflops * 1e9 - account.rest  # type: ignore[operator]
    least = account.with_kept(int(proxy.candidates[-1]) + account.special)
    if not least <= target <= account.dense:
        low, high = ((flops + account.rest) / 1e9 for flops in (least, account.dense))
        given = f"target_share={share}" if share is not None else f"target_gflops={gflops}"
        raise UserError(
            f"{given} is out of reach: this model takes {high:.4g} GFLOPs dense and at least {low:.4g} (a share of "
            f"{least / account.dense:.3f} of its layers) when all layers but the first keep the smallest count that granularity allows."
        )
    return target


def _check(
    gflops: float | None,
    share: float | None,
    epochs: int,
    lr: float,
    min_lr: float,
    init: object,
) -> None:
    if (gflops is None) == (share is None):
        raise UserError("give either target_gflops or target_share: how much the model may compute.")
    if share is not None:
        require_share(share, "target_share")
    if gflops is not None and not 0 < gflops < math.inf:
        raise UserError(f"target_gflops must be above 0, got {gflops}: it is what one image may cost.")
    require_at_least(1, epochs=epochs)
    if not 0 <= min_lr <= lr < math.inf:
        raise UserError(
            f"lr must be finite and at least min_lr, and min_lr not negative, got {lr} and {min_lr}."
        )
    if not isinstance(init, Schedule) and init not in ("uniform", "zeros"):
        raise UserError(f'init must be "uniform", "zeros" or a Schedule, got {init!r}.')


def _fitting(schedule: Schedule, encoder: Encoder) -> Schedule:
    DiffRate(schedule).layer_reducers(encoder)
    return schedule


def _first_images(loader: Batches) -> Tensor:
    for batch in loader:
        return _images_and_labels(batch)[0]
    raise UserError("the loader gives no batch: nothing can be searched with.")


def _images_and_labels(batch: Batch) -> tuple[Tensor, Tensor]:
    if isinstance(batch, Mapping):
        pair = [batch[name] for name in ("pixel_values", "labels") if name in batch]
        content = f"only {', '.join(batch)}"
    else:
        pair, content = list(batch), f"{len(batch)} tensors"
    if len(pair) != 2:
        raise UserError(
            f"a batch must hold pixel_values and labels, or be a pair of them, but it has {content}."
        )
    return pair[0], pair[1]


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients of the weights for a while."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with evaluation_mode(model):
        model.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in learned:
                parameter.requires_grad_()


@dataclass(frozen=True)
class _Objective:
    model: PreTrainedModel
    rates: SearchedRates
    account: _Account
    target: float
    weight: float

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, float]:
        """Loss with the FLOPs term, loss without it in nats, and FLOPs of the layers."""
        device = self.model.device
        logits = self.model(pixel_values=images.to(device)).logits
        cross = cross_entropy(logits.float(), labels.to(device))
        flops = self.rates.flops(self.account.costs, self.account.tokens)
        penalty = self.weight * (flops - self.target) ** 2
        return cross + penalty.to(cross), cross.detach(), float(flops.detach())


def _descend(
    objective: _Objective,
    loader: Batches,
    epochs: int,
    lr: float,
    min_lr: float,
    progress: Callable[[SearchStep], None],
) -> None:
    optimizer = torch.optim.AdamW(
        [proxy.logits for proxy in objective.rates.proxies], lr=lr, weight_decay=0.0
    )
    step, steps = 0, epochs * len(loader)
    cosine = CosineAnnealingLR(optimizer, steps, min_lr)
    try:
        for _ in range(epochs):
            for batch in loader:
                loss, cross, flops = objective(*_images_and_labels(batch))
                if not bool(loss.isfinite()):
                    raise UserError(
                        f"the loss of step {step} is {float(loss.detach())}: check the images for nan, or run the model in float32."
                    )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                progress(_told(objective, step, steps, float(cross), flops, float(cosine.get_last_lr()[0])))
                cosine.step()
    except KeyboardInterrupt as interrupt:
        raise SearchInterrupted(objective.rates.schedule(), step, steps) from interrupt


def _told(objective: _Objective, step: int, steps: int, cross: float, flops: float, lr: float) -> SearchStep:
    rest = objective.account.rest
    return SearchStep(step, steps, cross, (flops + rest) / 1e9, (objective.target + rest) / 1e9, lr)
