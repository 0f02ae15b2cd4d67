"""A router trained on labelled tokens, and its threshold: for a recall, or for a share of the tokens.

    loss        BCE with logits, positives weighed by (number of 0 / number of 1) · recall factor
    threshold   of 0.01 … 0.99 in 100 steps, the one with the lowest rate of positives among those with recall >= 0.95; the smallest of
                equally good ones; where none reaches it, the one with the highest recall
                or: the lowest one at which at most a share of the tokens is routed

The epoch with the lowest validation loss is kept. Whole texts are held out for it, as neighbouring tokens resemble each other.

Source: R2R (arXiv 2505.21600), and `loss.py`, `optimizer.py` of thu-nics/R2R, where the other losses stand too.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import TrainerCallback

from tokenry.core.errors import UserError, require_at_least, require_fraction
from tokenry.core.io.progress import Progress
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.train.adamw import AdamWSettings
from tokenry.core.train.numbered import step_generator
from tokenry.core.train.training import LoopConfig, Training
from tokenry.decoding.r2r.features import TokenFeatures
from tokenry.decoding.r2r.labels import require_labels
from tokenry.decoding.r2r.router import TokenRouter

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits and labels (0 and 1, as floats) to a number."""

_TINY = 1e-10


@dataclass(frozen=True)
class RouterTrainingConfig:
    """The training of a router.

    Attributes:
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        batch_size: tokens per step.
        epochs: maximum number of passes over the tokens.
        patience: passes without a lower validation loss after which training stops.
        validation: share of the texts that stop the training and choose the threshold.
        recall_factor: further weight of the divergent tokens.
        recall: share of the divergent tokens that the threshold is to find.
        rate: share of the tokens that the large model is to write, in the place of a recall.
        seed: random seed of the split, the order and dropout.
    """

    learning_rate: float = 5e-5
    weight_decay: float = 5e-4
    batch_size: int = 1024
    epochs: int = 50
    patience: int = 10
    validation: float = 0.1
    recall_factor: float = 1.0
    recall: float = 0.95
    rate: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(1, batch_size=self.batch_size, epochs=self.epochs, patience=self.patience)
        require_at_least(0, weight_decay=self.weight_decay, seed=self.seed)
        for name in ("validation", "recall", "rate"):
            require_fraction(getattr(self, name) or 0.0, name)
        if not self.learning_rate > 0 or not self.recall_factor > 0:
            raise UserError(
                f"learning_rate and recall_factor must be above 0, got {self.learning_rate} and {self.recall_factor}."
            )


@dataclass(frozen=True)
class RouterReport:
    """How a training went; the figures are of the texts that were held out.

    Attributes:
        trained_on: number of tokens that the router learned from.
        held_out: number of tokens that were held out.
        divergent: share of these that is divergent.
        epochs: passes that were made.
        best_epoch: the one that was kept, from 1.
        losses: validation loss after each.
        threshold: the threshold that was chosen.
        recall: share of the divergent tokens that it finds.
        rate: share of all tokens that it routes.
        reached: whether some threshold reaches the recall that was asked for.
    """

    trained_on: int
    held_out: int
    divergent: float
    epochs: int
    best_epoch: int
    losses: tuple[float, ...]
    threshold: float
    recall: float
    rate: float
    reached: bool


# --- losses ------------------------------------------------------------------------------------------------------------


def weighted_bce(labels: Int[Tensor, "rows"], recall_factor: float | int = 1.0) -> Loss:
    """Binary cross-entropy in which the divergent tokens of a data set weigh as much as the others."""
    positives = int((labels == 1).sum())
    weight = torch.tensor(int((labels == 0).sum()) / positives * recall_factor, device=labels.device)
    return lambda logits, targets: binary_cross_entropy_with_logits(
        logits, targets, pos_weight=weight.to(logits)
    )


def focal_loss(alpha: float | int = 1.0, gamma: float | int = 2.0) -> Loss:
    """Focal loss: alpha_t (1 − p_t)^gamma BCE. As released, alpha = 1 gives what is not divergent no weight at all."""

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        bce = binary_cross_entropy_with_logits(logits, targets, reduction="none")
        weight = alpha * targets + (1 - alpha) * (1 - targets)
        return (weight * (1 - torch.exp(-bce)) ** gamma * bce).mean()

    return loss


def preference_loss(beta: float | int = 1.0, positive: float | int = 0.5) -> Loss:
    """The released DPO-like loss: −log sigmoid(beta log p(right) / prior − beta log p(wrong) / (1 − prior))."""

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        probability = logits.sigmoid()
        right = torch.where(targets == 1, probability, 1 - probability)
        prior = torch.where(targets == 1, float(positive), 1 - float(positive))
        margin = torch.log(right + _TINY) / prior - torch.log(1 - right + _TINY) / (1 - prior)
        return -torch.log((beta * margin).sigmoid() + _TINY).mean()

    return loss


# --- thresholds --------------------------------------------------------------------------------------------------------


class ChosenThreshold(NamedTuple):
    """A threshold, and whether it does what was asked for."""

    value: float
    reached: bool


def recall_at(probabilities: Tensor, labels: Tensor, threshold: float | int) -> float:
    """Share of the divergent tokens whose probability reaches a threshold; unknown labels are left out."""
    _require_both(labels)
    return float((probabilities[labels == 1] >= threshold).double().mean())


def choose_threshold(
    probabilities: Tensor, labels: Tensor, min_recall: float | int = 0.95
) -> ChosenThreshold:
    """The threshold that routes the fewest tokens among those that find enough of the divergent ones."""
    require_fraction(float(min_recall), "min_recall")
    known = labels >= 0
    probabilities, labels = probabilities[known].double(), labels[known]
    grid = torch.from_numpy(np.linspace(0.01, 0.99, 100)).to(probabilities.device)
    ordered = probabilities.sort().values
    rates = 1 - torch.searchsorted(ordered, grid) / len(ordered)
    recalls = torch.stack([(probabilities[labels == 1] >= threshold).double().mean() for threshold in grid])
    enough = recalls >= min_recall
    if not bool(enough.any()):
        return ChosenThreshold(float(grid[recalls.argmax()]), False)
    return ChosenThreshold(float(grid[rates.masked_fill(~enough, 2.0).argmin()]), True)


def best_f1_threshold(probabilities: Tensor, labels: Tensor) -> float:
    """The one of 0.1, 0.2 … 0.9 with the highest F1; the smallest of equally good ones."""
    known = labels >= 0
    right = labels[known] == 1
    grid = torch.from_numpy(np.linspace(0.1, 0.9, 9))
    routed = probabilities[known].double()[:, None] >= grid.to(probabilities.device)
    found = (routed & right[:, None]).sum(0).double()
    return float(grid[(2 * found / (routed.sum(0) + right.sum())).argmax().cpu()])


def threshold_for_rate(scores: Float[Tensor, "rows"], rate: float | int) -> float:
    """The lowest threshold that routes at most this share of the scores: fewer only where scores are equal."""
    require_fraction(float(rate), "rate")
    if not len(scores):
        raise UserError("a threshold for a rate is read off scores, and there are none.")
    ordered = scores.double().sort(descending=True).values
    routed = int(rate * len(ordered) + 1e-9)
    if routed == len(ordered):
        return 0.0
    above = ordered[:routed][ordered[:routed] > ordered[routed]]
    if len(above):
        return float((above[-1] + ordered[routed]) / 2)
    return float(torch.nextafter(ordered[routed].float(), torch.tensor(torch.inf)))


# --- training ----------------------------------------------------------------------------------------------------------


def fit_router(
    router: TokenRouter,
    features: TokenFeatures,
    labels: Int[Tensor, "labels"],
    config: RouterTrainingConfig | None = None,
    loss: Loss | None = None,
    progress: Progress = lambda what, share: None,
) -> tuple[TokenRouter, RouterReport]:
    """Train a router in place, choose its threshold, and report how it went.

    Args:
        router: a router of the small model whose features these are.
        features: what the small model knows at each token.
        labels: 1 for divergent, 0 for not, -1 for unknown, which is left out.
        loss: another loss than weighted binary cross-entropy.
        progress: called before each step.

    Raises:
        UserError: features and labels that do not fit, or labels of one kind alone.
    """
    config = config or RouterTrainingConfig()
    _require_data(features, labels)
    known = labels >= 0
    features, labels = features.rows(known), labels[known]
    learned, held = _split(features.texts, labels, config)
    device = next(router.parameters()).device
    features, labels = features.to(device), labels.to(device)
    loss = loss or weighted_bce(labels[learned], config.recall_factor)
    batches = _Epochs(learned, config)
    watch = _Watch(router, features.rows(held), labels[held], loss, batches.per_epoch, config.patience)

    def of_batch(rows: Int[Tensor, "batch"]) -> dict[str, Tensor]:
        return {"loss": loss(_logits(router, features.rows(rows)), labels[rows].float())}

    adamw = AdamWSettings(beta2=0.999, weight_decay=config.weight_decay, max_gradient_norm=1e9)
    loop = LoopConfig(
        config.epochs * batches.per_epoch, lambda step: config.learning_rate, adamw, seed=config.seed
    )
    router.train()
    Training(router, of_batch, batches, loop, callbacks=[watch]).run(progress=progress)
    router.load_state_dict(watch.best)
    router.eval()
    probabilities = router.score(features.rows(held).step()).cpu()
    truth = labels[held].cpu()
    if config.rate is None:
        threshold, reached = choose_threshold(probabilities, truth, config.recall)
    else:
        threshold, reached = min(1.0, threshold_for_rate(probabilities, config.rate)), True
    router.threshold = threshold
    return router, RouterReport(
        trained_on=len(learned),
        held_out=len(held),
        divergent=float((truth == 1).double().mean()),
        epochs=len(watch.losses),
        best_epoch=1 + watch.losses.index(min(watch.losses)),
        losses=tuple(watch.losses),
        threshold=threshold,
        recall=recall_at(probabilities, truth, threshold),
        rate=float((probabilities >= threshold).double().mean()),
        reached=reached,
    )


class _Epochs:
    """The rows of each step: every epoch in another order, a last, smaller batch included."""

    def __init__(self, rows: Int[Tensor, "rows"], config: RouterTrainingConfig) -> None:
        self._rows, self._config = rows, config
        self.per_epoch = -(-len(rows) // config.batch_size)

    def __getitem__(self, number: int) -> Int[Tensor, "batch"]:
        epoch, place = divmod(number, self.per_epoch)
        order = torch.randperm(len(self._rows), generator=step_generator(self._config.seed, epoch, "router"))
        return self._rows[order[place * self._config.batch_size :][: self._config.batch_size]]


class _Watch(TrainerCallback):
    """Measures the validation loss after each epoch, keeps the best weights and ends the training."""

    def __init__(
        self,
        router: TokenRouter,
        features: TokenFeatures,
        labels: Tensor,
        loss: Loss,
        per_epoch: int,
        patience: int,
    ) -> None:
        self._router, self._features, self._labels, self._loss = router, features, labels, loss
        self._per_epoch, self._patience = per_epoch, patience
        self.losses: list[float] = []
        self.best: dict[str, Tensor] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the end of an epoch."""
        if state.global_step % self._per_epoch:
            return
        with evaluation_mode(self._router), torch.no_grad():
            value = float(self._loss(_logits(self._router, self._features), self._labels.float()))
        self.losses.append(value)
        if value <= min(self.losses) or not self.best:
            self.best = copy.deepcopy(self._router.state_dict())
        best = self.losses.index(min(self.losses))
        control.should_training_stop |= len(self.losses) - 1 - best >= self._patience


def _logits(router: nn.Module, features: TokenFeatures) -> Tensor:
    top_logits = features.top_logits[:, : router.top_k]
    logits: Tensor = router(features.hidden, features.tokens, top_logits)
    return logits


def _split(texts: Tensor, labels: Tensor, config: RouterTrainingConfig) -> tuple[Tensor, Tensor]:
    """The rows to learn from and those to hold out, by whole texts."""
    numbers = texts.unique()
    order = numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(config.seed))]
    held = torch.isin(texts, order[: max(1, round(config.validation * len(order)))])
    parts = (~held).nonzero()[:, 0], held.nonzero()[:, 0]
    for part, name in zip(parts, ("learned from", "held out"), strict=True):
        counts = [int((labels[part] == label).sum()) for label in (1, 0)]
        if 0 in counts:
            raise UserError(
                f"of the tokens {name}, {counts[0]} are divergent and {counts[1]} are not: a router needs both kinds in both parts; label more "
                "texts, or hold out another share of them (validation)."
            )
    return parts


def _require_data(features: TokenFeatures, labels: Tensor) -> None:
    columns = features.hidden, features.tokens, features.top_logits, features.entropy, features.texts
    lengths = {len(column) for column in columns} | {len(labels)}
    if len(lengths) > 1:
        raise UserError(
            f"features of {sorted(lengths)[0]} and {sorted(lengths)[-1]} tokens: give one of each, and one label, per token."
        )
    require_labels(labels)
    _require_both(labels)
    for name in ("hidden", "top_logits"):
        if not bool(getattr(features, name).isfinite().all()):
            raise UserError(
                f"the features hold values in {name} that are not finite: the small model's weights or its texts are damaged."
            )


def _require_both(labels: Tensor) -> None:
    counts = [int((labels == label).sum()) for label in (1, 0)]
    if 0 in counts:
        raise UserError(
            f"{counts[0]} labels are 1 (divergent) and {counts[1]} are 0: a router and its threshold need both kinds."
        )
