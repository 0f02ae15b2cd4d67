"""Where `history_nll` comes from: an earlier state of the model in training.

base            the model before training: one pass over the data, cached on disk (the paper's choice)
adapter_off     the same for LoRA without a pass or a cache: one more forward per step with the adapters switched off
ema             an exponential moving average of the trained weights (of the adapter for LoRA), one more forward per step
previous_epoch  the loss of each token in the previous epoch: free; the first epoch learns from all tokens
crossfit        no earlier state: progress is that of models trained without the sample (`folds`), known before training
PATH            any checkpoint, one pass over the data, cached on disk
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from tokenry.core.errors import UserError
from tokenry.core.tensors.ema import WeightAverage
from tokenry.finetuning.folds import Folds


@dataclass(frozen=True)
class HistorySource:
    """An earlier state of the model.

    Attributes:
        static_model: name of the model of a pass before training; None without such a pass.
        live: whether every step needs one more forward, under `earlier_weights`.
        from_last_epoch: whether last epoch's losses are the history.
        folds: split of the data whose out-of-fold losses replace those of the model in training; None for a real history.
    """

    static_model: str | None = None
    live: bool = False
    from_last_epoch: bool = False
    folds: Folds | None = None

    @contextmanager
    def earlier_weights(self, model: nn.Module) -> Iterator[None]:
        """Let `model` compute with its earlier weights inside the context."""
        yield

    def check(self, model: nn.Module) -> None:
        """Refuse a model that has no such history, before any work starts."""
        return

    def after_step(self, model: nn.Module) -> None:
        """Follow the model after an optimisation step."""
        return

    def state(self) -> dict[str, Tensor]:
        """Tensors to save with a checkpoint."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore the tensors saved with a checkpoint."""
        return


@dataclass(frozen=True)
class BaseModel(HistorySource):
    """The model before training."""

    static_model: str | None = "base"


@dataclass(frozen=True)
class Checkpoint(HistorySource):
    """Another state of the model, read from `static_model` (a path or a name)."""


@dataclass(frozen=True)
class PreviousEpoch(HistorySource):
    """The loss of each token in the previous epoch."""

    from_last_epoch: bool = True


@dataclass(frozen=True)
class CrossFit(HistorySource):
    """Progress between the base model and models that have not seen the token's sample."""

    folds: Folds | None = field(default_factory=Folds)


@dataclass(frozen=True)
class AdapterOff(HistorySource):
    """The base model of a PEFT run: adapters switched off."""

    live: bool = True

    def check(self, model: nn.Module) -> None:
        """Only a PEFT model has adapters to switch off."""
        if not hasattr(model, "disable_adapter"):
            raise UserError(
                "history='adapter_off' needs a PEFT model: pass peft_config=LoraConfig(...), or use history='base'."
            )

    @contextmanager
    def earlier_weights(self, model: nn.Module) -> Iterator[None]:
        """Switch the adapters off."""
        with model.disable_adapter():  # type: ignore[operator]
            yield


@dataclass(frozen=True)
class MovingAverage(HistorySource):
    """An exponential moving average of the trained parameters: average ← decay · average + (1 − decay) · current.

    Source: ssToken (arXiv 2510.18250), history update.
    """

    live: bool = True
    decay: float = 0.99

    def __post_init__(self) -> None:
        object.__setattr__(self, "_average", WeightAverage(self.decay))

    @property
    def averages(self) -> dict[str, Tensor]:
        """The averaged parameters by name."""
        return self._weights.averages

    @property
    def _weights(self) -> WeightAverage:
        return self._average  # type: ignore[attr-defined]

    def check(self, model: nn.Module) -> None:
        """Start from the model before training."""
        self._weights.start(model)

    @contextmanager
    def earlier_weights(self, model: nn.Module) -> Iterator[None]:
        """Put the averages in place of the parameters."""
        with self._weights.in_place(model):
            yield

    def after_step(self, model: nn.Module) -> None:
        """Move the averages towards the parameters."""
        self._weights.follow(model)

    def state(self) -> dict[str, Tensor]:
        """The averages."""
        return self.averages

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore saved averages."""
        self._weights.restore(state)


_NAMED = {
    "base": BaseModel,
    "adapter_off": AdapterOff,
    "ema": MovingAverage,
    "previous_epoch": PreviousEpoch,
    "crossfit": CrossFit,
}


def parse_history(history: str | HistorySource) -> HistorySource:
    """Turn a name, a checkpoint's path or a source into a source."""
    if isinstance(history, HistorySource):
        return history
    return _NAMED[history]() if history in _NAMED else Checkpoint(static_model=history)
