"""Learning rates for a model that goes on being pretrained: warmed up again, or never cooled down for good.

    re-warming   s < w        start + (max − start) · s / w
                 w ≤ s < D    min + (max − min) / 2 · (1 + cos π (s − w) / (D − w))
                 s ≥ D        min
    infinite     s < w        max · s / w
                 w ≤ s < c    cool-down from max to const: cosine, inv_sqrt or linear in p = (s − w) / (c − w)
                 c ≤ s < k    const, until it is known when to stop
                 k ≤ s < e    const · (min / const)^((s − k) / (e − k))
                 s ≥ e        min

Sources: Gupta et al. (arXiv 2308.04014) for the first, Ibrahim et al. (arXiv 2403.08763) for the second; phases are absolute ends, so a run
that is branched or resumed at any step has the rate of that step. Steps or tokens: a schedule does not know what it counts.
"""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import SchedulerType, TrainerCallback
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

from tokenry.core.errors import UserError, require_at_least, require_one_of

Steps = int | float | np.number | Sequence[int | float] | ndarray
"""One step or many, from 0; tokens where the phases of a schedule are counted in tokens."""

STYLES = ("cosine", "inv_sqrt", "linear")


class RateSchedule:
    """A learning rate as a function of the step alone; its fields are the phases."""

    def __call__(self, step: Steps) -> float | Float[ndarray, "*steps"]:
        """The learning rate at a step, or at each of many.

        Raises:
            UserError: a step below 0.
        """
        steps = np.asarray(step, dtype=np.float64)
        require_at_least(0, step=steps.min(initial=0.0))
        rates = self._rates(steps)
        return rates if rates.ndim else float(rates)

    @property
    def last(self) -> float | int:
        """The step from which on the rate stays at its minimum; infinite where it never does."""
        raise NotImplementedError

    def _rates(self, steps: Float[ndarray, "*steps"]) -> Float[ndarray, "*steps"]:
        raise NotImplementedError


@dataclass(frozen=True)
class RewarmSchedule(RateSchedule):
    """Linear warm-up, half a cosine, and the minimum.

    Attributes:
        total: steps of the training, N.
        warmup: steps of the warm-up, w; the paper's is 1 % of the total, and 0 begins at the maximum.
        max_lr: highest rate.
        min_lr: rate that the cosine ends at; None for a tenth of the highest.
        decay_end: step at which the cosine ends, D; None for the total.
        start_lr: rate of step 0 where there is a warm-up, such as the one that the earlier training ended with.
    """

    total: float | int
    warmup: float | int
    max_lr: float | int
    min_lr: float | int | None = None
    decay_end: float | int | None = None
    start_lr: float | int = 0.0

    def __post_init__(self) -> None:
        require_at_least(1, total=self.total)
        require_at_least(
            0, warmup=self.warmup, max_lr=self.max_lr, min_lr=self.min_lr, start_lr=self.start_lr
        )
        _require_order(warmup=self.warmup, total=self.total)
        _require_order(warmup=self.warmup, decay_end=self.last)
        _require_order(decay_end=self.last, total=self.total)
        _require_order(min_lr=self.lowest, max_lr=self.max_lr)
        _require_order(start_lr=self.start_lr, max_lr=self.max_lr)

    @property
    def lowest(self) -> float | int:
        """The rate that the cosine ends at."""
        return 0.1 * self.max_lr if self.min_lr is None else self.min_lr

    @property
    def last(self) -> float | int:
        """The end of the cosine."""
        return self.total if self.decay_end is None else self.decay_end

    def _rates(self, steps: Float[ndarray, "*steps"]) -> Float[ndarray, "*steps"]:
        low, high, w, d = self.lowest, self.max_lr, self.warmup, self.last
        return np.piecewise(
            steps,
            [steps < w, (steps >= w) & (steps < d)],
            [
                lambda s: self.start_lr + (high - self.start_lr) * s / w,
                lambda s: low + 0.5 * (high - low) * (1 + np.cos(np.pi * (s - w) / (d - w))),
                low,
            ],
        )


@dataclass(frozen=True)
class InfiniteSchedule(RateSchedule):
    """Warm-up, cool-down, a constant rate for as long as wanted, and an exponential annealing.

    Attributes:
        warmup: end of the warm-up, w.
        cooldown_end: end of the cool-down, c.
        constant_end: end of the constant phase, k; None for never.
        end: end of the annealing, e; None where there is none.
        max_lr: highest rate.
        const_lr: rate of the constant phase.
        min_lr: rate that the annealing ends at.
        style: form of the cool-down: `cosine`, `inv_sqrt` or `linear`.
        alpha: steepness of `inv_sqrt`.
    """

    warmup: float | int
    cooldown_end: float | int
    constant_end: float | int | None
    end: float | int | None
    max_lr: float | int
    const_lr: float | int
    min_lr: float | int
    style: str = "cosine"
    alpha: float | int = 10.0

    def __post_init__(self) -> None:
        require_one_of(self.style, STYLES, "style")
        require_at_least(
            0, warmup=self.warmup, max_lr=self.max_lr, const_lr=self.const_lr, min_lr=self.min_lr
        )
        _require_order(min_lr=self.min_lr, const_lr=self.const_lr)
        _require_order(const_lr=self.const_lr, max_lr=self.max_lr)
        if not self.alpha > 0:
            raise UserError(f"alpha must be above 0, got {self.alpha}.")
        if (self.constant_end is None) != (self.end is None):
            raise UserError(
                "constant_end and end are given together, or both left out for a rate that stays."
            )
        if self.end is not None and not self.min_lr > 0:
            raise UserError(f"min_lr must be above 0 where the rate is annealed, got {self.min_lr}.")
        begins, ends = self._annealed
        if not (self.warmup < self.cooldown_end <= begins and (begins < ends or ends == math.inf)):
            raise UserError(
                f"the phases must end one after the other, got warmup {self.warmup}, cooldown_end {self.cooldown_end}, "
                f"constant_end {self.constant_end}, end {self.end}."
            )

    @classmethod
    def over(
        cls, total: float | int, warmup: float | int, max_lr: float | int, **changed: Any
    ) -> "InfiniteSchedule":
        """The proportions of Ibrahim et al.: 60 % cool-down to 0.55 of the highest rate, 25 % constant, 15 % annealing to a tenth."""
        phases = {"cooldown_end": 0.6 * total, "constant_end": 0.85 * total, "end": total}
        rates = {"max_lr": max_lr, "const_lr": 0.55 * max_lr, "min_lr": 0.1 * max_lr}
        return cls(**{"warmup": warmup, **phases, **rates, **changed})

    def anneal_from(self, step: float | int, length: float | int) -> "InfiniteSchedule":
        """The same schedule with its annealing over [step, step + length].

        Raises:
            UserError: a step before the constant phase, or a length that is no length.
        """
        if step < self.cooldown_end:
            raise UserError(
                f"at step {step} the rate is still cooling down: anneal from a step in the constant phase, {self.cooldown_end} or later."
            )
        if not length > 0:
            raise UserError(f"length must be above 0 steps of annealing, got {length}.")
        return dataclasses.replace(self, constant_end=step, end=step + length)

    @property
    def last(self) -> float | int:
        """The end of the annealing."""
        return self._annealed[1]

    @property
    def _annealed(self) -> tuple[float | int, float | int]:
        """The ends of the constant phase and of the annealing."""
        if self.constant_end is None or self.end is None:
            return math.inf, math.inf
        return self.constant_end, self.end

    def _rates(self, steps: Float[ndarray, "*steps"]) -> Float[ndarray, "*steps"]:
        w, c, high, const, low = self.warmup, self.cooldown_end, self.max_lr, self.const_lr, self.min_lr
        k, e = self._annealed
        return np.piecewise(
            steps,
            [steps < w, (steps >= w) & (steps < c), (steps >= k) & (steps < e), steps >= e],
            [
                lambda s: high * s / w,
                lambda s: high + (const - high) * self._cooled((s - w) / (c - w)),
                lambda s: const * (low / const) ** ((s - k) / (e - k)),
                low,
                const,
            ],
        )

    def _cooled(self, p: Float[ndarray, "*steps"]) -> Float[ndarray, "*steps"]:
        """The share of the way from the highest to the constant rate that is gone after the share p of the cool-down."""
        if self.style == "cosine":
            return 0.5 * (1 - np.cos(np.pi * p))
        if self.style == "linear":
            return p
        return (1 / np.sqrt(1 + self.alpha * p) - 1) / (1 / math.sqrt(1 + self.alpha) - 1)


def rewarm_lr(step: Steps, *phases: Any, **named: Any) -> float | Float[ndarray, "*steps"]:
    """`rewarm_lr(step, total, warmup, max_lr, min_lr=None, decay_end=None, start_lr=0.0)`: see `RewarmSchedule`."""
    return RewarmSchedule(*phases, **named)(step)


def infinite_lr(step: Steps, *phases: Any, **named: Any) -> float | Float[ndarray, "*steps"]:
    """`infinite_lr(step, warmup, cooldown_end, constant_end, end, max_lr, const_lr, min_lr, style="cosine", alpha=10.0)`: see
    `InfiniteSchedule`.
    """
    return InfiniteSchedule(*phases, **named)(step)


def _require_order(**ends: float | int) -> None:
    (lower, low), (higher, high) = ends.items()
    if low > high:
        raise UserError(f"{lower} must be at most {higher}, got {low} and {high}.")


# --- as PyTorch and transformers take them --------------------------------------------------------------------------------------------


class AbsoluteScheduler(LRScheduler):
    """Sets the rate of every step by a schedule, times a parameter group's own factor: its `lr` over the default of the optimiser.

    Args:
        optimizer: the optimiser.
        schedule: the schedule.
        tokens_per_step: what a step counts in the schedule's phases, if they are counted in tokens.
        last_epoch: number of the step before the first; the state of the optimiser may be missing.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: RateSchedule,
        tokens_per_step: float | int = 1,
        last_epoch: int = -1,
    ) -> None:
        if not tokens_per_step > 0:
            raise UserError(f"tokens_per_step must be above 0, got {tokens_per_step}.")
        self.schedule, self.tokens_per_step = schedule, tokens_per_step
        self._factors = group_factors(optimizer)
        self._warn_beyond(last_epoch + 1)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """The rates of all groups at the present step."""
        rate = float(self.schedule(self.last_epoch * self.tokens_per_step))
        return [rate * factor for factor in self._factors]

    def state_dict(self) -> dict[str, Any]:
        """The step; the schedule itself is what the scheduler is made with."""
        return {name: getattr(self, name) for name in ("last_epoch", "_step_count", "_last_lr")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the step of `state_dict`, by the present schedule."""
        self.__dict__.update(state_dict)
        self._warn_beyond(self.last_epoch)
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate

    def _warn_beyond(self, step: int) -> None:
        if step * self.tokens_per_step > self.schedule.last:
            warnings.warn(
                f"step {step} lies beyond the end of the schedule ({self.schedule.last:g}): the rate stays at its minimum.",
                stacklevel=4,
            )


class RewarmScheduler(AbsoluteScheduler):
    """`RewarmScheduler(optimizer, total, warmup, max_lr, …)`: `RewarmSchedule` for an optimiser; further arguments as in the base class."""

    def __init__(
        self,
        optimizer: Optimizer,
        *phases: Any,
        tokens_per_step: float | int = 1,
        last_epoch: int = -1,
        **named: Any,
    ) -> None:
        super().__init__(optimizer, RewarmSchedule(*phases, **named), tokens_per_step, last_epoch)


class InfiniteScheduler(AbsoluteScheduler):
    """`InfiniteScheduler(optimizer, warmup, cooldown_end, …)`: `InfiniteSchedule` for an optimiser, which may be annealed at any time."""

    schedule: InfiniteSchedule

    def __init__(
        self,
        optimizer: Optimizer,
        *phases: Any,
        tokens_per_step: float | int = 1,
        last_epoch: int = -1,
        **named: Any,
    ) -> None:
        super().__init__(optimizer, InfiniteSchedule(*phases, **named), tokens_per_step, last_epoch)
        self._annealing: tuple[float | int, float | int] | None = None

    def anneal_from(self, step: float | int, length: float | int) -> None:
        """Anneal over `length` steps from `step` on, which lies in the constant phase and not behind; both in tokens if phases are.

        Raises:
            UserError: the step lies behind or before the constant phase, or the annealing has begun.
        """
        present = self.last_epoch * self.tokens_per_step
        if self.schedule.constant_end is not None and present > self.schedule.constant_end:
            raise UserError(
                f"the rate is annealed since step {self.schedule.constant_end}: branch off a checkpoint of the constant phase."
            )
        if step < present:
            raise UserError(f"step {step} lies behind: anneal from {present} or later.")
        self.schedule = self.schedule.anneal_from(step, length)
        self._annealing = (step, length)

    def state_dict(self) -> dict[str, Any]:
        """The step, and the annealing that was asked for."""
        return super().state_dict() | {"_annealing": self._annealing}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the step of `state_dict`, with the annealing that was asked for there."""
        if state_dict["_annealing"] is not None:
            self.schedule = self.schedule.anneal_from(*state_dict["_annealing"])
        super().load_state_dict(state_dict)


def group_factors(optimizer: Optimizer) -> list[float]:
    """The rate of each parameter group over the default of the optimiser."""
    base = float(optimizer.defaults["lr"])
    own = [float(group.setdefault("initial_lr", group["lr"])) for group in optimizer.param_groups]
    if base <= 0 and any(rate != base for rate in own):
        raise UserError(
            f"the optimiser's own lr is {base}, so no parameter group has a factor to it: give it a rate above 0."
        )
    return [1.0 if rate == base else rate / base for rate in own]


class ScheduleCallback(TrainerCallback):
    """Sets the rate of every step of any Trainer by the Trainer's own count of steps, whatever scheduler it has.

    A checkpoint without the state of its optimiser makes the Trainer begin its scheduler anew; this goes on where the training was.

    Args:
        schedule: the schedule; it may be replaced between steps, such as by `schedule.anneal_from(step, length)`.
        tokens_per_step: what a step counts in the schedule's phases, if they are counted in tokens.
    """

    def __init__(self, schedule: RateSchedule, tokens_per_step: float | int = 1) -> None:
        self.schedule, self.tokens_per_step = schedule, tokens_per_step
        self._rate = math.nan

    def on_train_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Read the factors of the parameter groups."""
        self._factors = group_factors(optimizer)

    def on_step_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Set the rate of the step."""
        self._rate = float(self.schedule(state.global_step * self.tokens_per_step))
        for group, factor in zip(optimizer.param_groups, self._factors, strict=True):
            group["lr"] = self._rate * factor

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Log the rate that was used, not that of the Trainer's scheduler."""
        for entry in (state.log_history[-1], logs if logs is not None else {}):
            if "learning_rate" in entry:
                entry["learning_rate"] = self._rate


def register_schedules() -> None:
    """Make `lr_scheduler_type="rewarm"` and `"infinite"` known to transformers, with the fields of the schedules as `lr_scheduler_kwargs`.

    What is left out is the Trainer's: `total` its steps, `warmup` its warm-up steps, `max_lr` its learning rate; the phases of `infinite`
    are then those of `InfiniteSchedule.over`. With `tokens_per_step` all phases count tokens.
    """
    for name, function in (("rewarm", _rewarm_of_trainer), ("infinite", _infinite_of_trainer)):
        if name not in SchedulerType._value2member_map_:
            member = str.__new__(SchedulerType, name)
            member._name_, member._value_ = name.upper(), name
            SchedulerType._member_names_.append(member._name_)
            SchedulerType._member_map_[member._name_] = SchedulerType._value2member_map_[name] = member
        TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(name)] = function


def _rewarm_of_trainer(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, **given: Any
) -> RewarmScheduler:
    return RewarmScheduler(
        optimizer, **(_of_trainer(optimizer, num_warmup_steps, num_training_steps, given) | given)
    )


def _infinite_of_trainer(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, **given: Any
) -> InfiniteScheduler:
    placed: dict[str, Any] = {
        name: given.pop(name) for name in ("tokens_per_step", "last_epoch") if name in given
    }
    phases = InfiniteSchedule.over(
        **(_of_trainer(optimizer, num_warmup_steps, num_training_steps, placed) | given)
    )
    return InfiniteScheduler(optimizer, **dataclasses.asdict(phases), **placed)


def _of_trainer(optimizer: Optimizer, warmup: int, total: int, given: dict[str, Any]) -> dict[str, Any]:
    unit = given.get("tokens_per_step", 1)
    return {"total": total * unit, "warmup": warmup * unit, "max_lr": float(optimizer.defaults["lr"])}
