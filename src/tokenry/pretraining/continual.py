"""Continued pretraining by a schedule, measured on both sides: what the model learns of the new text, and what it forgets of the old.

    forgetting      final upstream loss − upstream loss before            upstream: the text it was pretrained on
    adaptation      downstream loss before − final downstream loss        downstream: the text it goes on with
    final           mean over the last points of a curve

Source: Gupta et al., Continual Pre-Training of Large Language Models: How to (re)warm your model? (arXiv 2308.04014).
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback

from tokenry.core.errors import UserError, require_at_least, require_fraction
from tokenry.core.io.progress import Progress, in_turn, one_stage
from tokenry.core.io.ranks import processes
from tokenry.core.io.workspace import fingerprint
from tokenry.core.stats import Estimate, Values, estimate_of_mean
from tokenry.core.tensors.fingerprints import model_fingerprint
from tokenry.core.tensors.gate import require_causal_lm, require_readable
from tokenry.core.tensors.losses import backbone, causal_lm, output_head, token_nll, weighted_cross_entropy
from tokenry.core.tensors.modes import evaluation_mode, gathered
from tokenry.core.train.adamw import AdamWSettings
from tokenry.core.train.training import LoopConfig, Training
from tokenry.pretraining.replay import ReplayMixer
from tokenry.pretraining.schedules import RateSchedule

UPSTREAM, DOWNSTREAM = "upstream", "downstream"
_EVALUATIONS = 20


@dataclass(frozen=True)
class TokenBlocks:
    """One side of a continued pretraining, as blocks of tokens (`packed_blocks`).

    Attributes:
        train: blocks to learn from.
        held_out: blocks to evaluate on, always the same.
    """

    train: Int[Tensor, "blocks length"]
    held_out: Int[Tensor, "held_out length"]


@dataclass(frozen=True)
class ContinualConfig:
    """A continued pretraining but for its schedule.

    Attributes:
        batch_size: blocks per forward pass.
        batches_per_step: batches whose mean loss is one step: their gradients are accumulated.
        replay: share of every batch that is old text, in the place of new text.
        steps: steps of the optimiser; None for those of one pass over the new text.
        evaluate_every: steps between evaluations of both sides; None for a twentieth of all.
        save_every: steps between checkpoints.
        bfloat16: compute in mixed precision; the weights stay as they are.
        seed: random seed of the order of the text, and of dropout.
        adamw: the optimiser; its defaults are those of Pythia.
    """

    batch_size: int = 8
    batches_per_step: int = 1
    replay: float | int = 0.0
    steps: int | None = None
    evaluate_every: int | None = None
    save_every: int = 500
    bfloat16: bool = False
    seed: int = 0
    adamw: AdamWSettings = field(
        default_factory=lambda: AdamWSettings(weight_decay=0.1, max_gradient_norm=1.0)
    )

    def __post_init__(self) -> None:
        require_fraction(self.replay, "replay")
        require_at_least(
            1, batch_size=self.batch_size, batches_per_step=self.batches_per_step, steps=self.steps
        )
        require_at_least(1, evaluate_every=self.evaluate_every, save_every=self.save_every)
        require_at_least(0, seed=self.seed)

    @property
    def step_blocks(self) -> int:
        """Blocks per step, of all processes together."""
        return self.batch_size * self.batches_per_step * processes()

    def steps_on(self, new: TokenBlocks) -> int:
        """The steps that were asked for, or those of one pass over the new text.

        Raises:
            UserError: the text is too short for one.
        """
        steps = len(new.train) // self.step_blocks if self.steps is None else self.steps
        if not steps:
            raise UserError(
                f"the text is too short for one step of {self.step_blocks} blocks: give more text, or a smaller batch."
            )
        return steps


@dataclass(frozen=True)
class ContinualReport:
    """Both losses before and during a continued pretraining, and what they come to.

    Attributes:
        before: loss of each side (`upstream`, `downstream`) before, in nats per token, or that of each held-out block.
        curves: losses of each side at the points of the training, or those of each block at each point.
        final_window: points at the end of a curve whose mean is the final loss.
        steps: steps of the points.
    """

    before: Mapping[str, float | Values]
    curves: Mapping[str, Values]
    final_window: int = 100
    steps: Sequence[int] = ()

    def __post_init__(self) -> None:
        require_at_least(1, final_window=self.final_window)
        if set(self.before) != set(self.curves) or not set(self.curves) <= {UPSTREAM, DOWNSTREAM}:
            raise UserError(
                f"a report is about upstream and downstream, before and during, got {sorted(self.before)} and {sorted(self.curves)}."
            )
        if not all(np.size(curve) for curve in self.curves.values()):
            raise UserError("a curve has no points: evaluate at least once after a step.")

    def curve(self, side: str) -> Float[ndarray, "points"]:
        """The losses of one side, the means over its blocks; nan where it was not measured."""
        return self._by_block(side).mean(axis=1) if side in self.curves else np.array([math.nan])

    def final_by_block(self, side: str) -> Float[ndarray, "blocks"]:
        """The final loss of each block of one side, to be paired with that of another training."""
        return self._by_block(side)[-self.final_window :].mean(axis=0)

    def before_by_block(self, side: str) -> Float[ndarray, "blocks"]:
        """The loss of each block of one side before."""
        return np.atleast_1d(np.asarray(self.before[side], dtype=np.float64))

    def change(self, side: str) -> Estimate:
        """Final loss − loss before, paired by block; nan where the side was not measured, and its error without blocks."""
        if side not in self.curves:
            return Estimate(math.nan, math.nan, 0)
        return estimate_of_mean(self.final_by_block(side) - self.before_by_block(side))

    @property
    def upstream_final(self) -> float:
        """Final loss on the old text."""
        return float(self.curve(UPSTREAM)[-self.final_window :].mean())

    @property
    def downstream_final(self) -> float:
        """Final loss on the new text."""
        return float(self.curve(DOWNSTREAM)[-self.final_window :].mean())

    @property
    def forgetting(self) -> float:
        """How much the loss on the old text has risen."""
        return float(self.change(UPSTREAM).value)

    @property
    def adaptation(self) -> float:
        """How much the loss on the new text has fallen."""
        return -float(self.change(DOWNSTREAM).value)

    @property
    def average_final(self) -> float:
        """Mean of both final losses."""
        return (self.upstream_final + self.downstream_final) / 2

    @property
    def max_forgetting(self) -> float:
        """The highest loss on the old text during the training − the loss before: the stability gap."""
        return float(self.curve(UPSTREAM).max() - np.mean(self.before.get(UPSTREAM, math.nan)))

    @property
    def max_forgetting_step(self) -> int:
        """The number of the point at which it is highest."""
        return int(self.curve(UPSTREAM).argmax())

    @property
    def upstream_perplexity_final(self) -> float:
        """Exp of the final loss on the old text."""
        return math.exp(self.upstream_final)

    def _by_block(self, side: str) -> Float[ndarray, "points blocks"]:
        losses = np.asarray(self.curves[side], dtype=np.float64)
        return losses.reshape(len(losses), -1)


@torch.no_grad()
def block_losses(
    model: nn.Module, blocks: Int[Tensor, "blocks length"], batch_size: int = 8, bfloat16: bool = False
) -> Float[ndarray, "blocks"]:
    """The mean NLL of each block in nats per token, in evaluation mode; its first token is not predicted."""
    inner = causal_lm(model)
    device, losses = next(inner.parameters()).device, []
    with (
        evaluation_mode(inner),
        gathered(inner),
        torch.autocast(device.type, torch.bfloat16, enabled=bfloat16),
    ):
        for rows in blocks.split(batch_size):
            hidden, ids, predicted = _read(inner, rows)
            losses.append(token_nll(hidden, ids, output_head(inner), predicted)[:, 1:].double().mean(1).cpu())
    return torch.cat(losses).numpy()


def _read(model: PreTrainedModel, rows: Int[Tensor, "rows length"]) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, tokens, and which tokens are predicted."""
    ids = rows.to(next(model.parameters()).device)
    predicted = torch.ones_like(ids, dtype=torch.bool)
    predicted[:, 0] = False
    return backbone(model)(input_ids=ids, use_cache=False).last_hidden_state, ids, predicted


class ContinualCallback(TrainerCallback):
    """Evaluates both sides on fixed blocks while any Trainer trains: before, every so many steps, and at the end.

    The losses stand in the log of the Trainer, which its checkpoints hold: a resumed training goes on with its curves.

    Args:
        upstream: held-out blocks of the old text; None where it is not to be had.
        downstream: held-out blocks of the new text.
        every: steps between evaluations.
        batch_size: blocks per forward pass.
        bfloat16: evaluate in mixed precision.
    """

    def __init__(
        self,
        upstream: Int[Tensor, "old length"] | None,
        downstream: Int[Tensor, "new other_length"],
        every: int = 50,
        batch_size: int = 8,
        bfloat16: bool = False,
    ) -> None:
        require_at_least(1, every=every, batch_size=batch_size, blocks=len(downstream))
        self.every, self.batch_size, self.bfloat16 = every, batch_size, bfloat16
        self._sides = {DOWNSTREAM: downstream} | ({} if upstream is None else {UPSTREAM: upstream})
        self._history: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Evaluate the model as it comes, unless the training is resumed."""
        self._history = state.log_history
        if not self._points:
            self._evaluate(state, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Evaluate, where it is time."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._evaluate(state, model)

    def report(self, final_window: int = 1) -> ContinualReport:
        """What has been measured so far."""
        before, *during = self._points
        return ContinualReport(
            {side: np.array(before[_logged(side)]) for side in self._sides},
            {side: np.array([point[_logged(side)] for point in during]) for side in self._sides},
            final_window,
            [point["step"] for point in during],
        )

    @property
    def _points(self) -> list[dict[str, Any]]:
        return [entry for entry in self._history if _logged(DOWNSTREAM) in entry]

    def _evaluate(self, state: Any, model: nn.Module) -> None:
        measured = {
            _logged(side): block_losses(model, blocks, self.batch_size, self.bfloat16).tolist()
            for side, blocks in self._sides.items()
        }
        state.log_history.append({"step": state.global_step, **measured})


def _logged(side: str) -> str:
    return f"{side}_losses"


def continue_pretraining(
    model: PreTrainedModel,
    old: TokenBlocks | None,
    new: TokenBlocks,
    schedule: RateSchedule,
    config: ContinualConfig | None = None,
    folder: str | os.PathLike | None = None,
    resume: bool = False,
    progress: Progress = lambda what, share: None,
) -> ContinualReport:
    """Go on pretraining a causal language model, in place, and report both losses.

    Args:
        model: the model, on its device.
        old: the text that it was pretrained on, or some of the same kind; None where there is none: forgetting is then not measured.
        new: the text to go on with.
        schedule: learning rate of each step.
        config: the rest of the training.
        folder: folder of the checkpoints; None to keep none.
        resume: resume from the last checkpoint in the folder, if there is one; its optimiser's state may be missing.
        progress: called before each step.

    Raises:
        UserError: replay without old text, too little text for a step, a schedule that ends beyond the data, or blocks that the model
            cannot read.
    """
    config = config or ContinualConfig()
    require_causal_lm(model)
    sides = [side for side in (old, new) if side is not None]
    for blocks in (blocks for side in sides for blocks in (side.train, side.held_out)):
        require_readable(model, blocks.flatten(), [blocks.shape[1]], "the text")
    steps = config.steps_on(new)
    if math.isfinite(schedule.last) and schedule.last > steps:
        raise UserError(
            f"the schedule ends at step {schedule.last:g}, but the data last for {steps} steps: end it earlier, or give more text or steps."
        )
    mixer = ReplayMixer(
        [] if old is None else old.train,
        new.train,
        config.replay,
        config.batch_size,
        steps * config.step_blocks,
        config.seed,
    )
    every = config.evaluate_every or max(1, steps // _EVALUATIONS)
    callback = ContinualCallback(
        old.held_out if old else None, new.held_out, every, config.batch_size, config.bfloat16
    )

    def loss(blocks: list[Tensor]) -> dict[str, Tensor]:
        hidden, ids, predicted = _read(model, torch.stack(blocks))
        weights = predicted / predicted.sum()
        return {"loss": weighted_cross_entropy(hidden, ids, weights, output_head(model))[0]}

    loop = LoopConfig(
        steps,
        lambda step: float(schedule(step)),
        config.adamw,
        config.batches_per_step,
        config.bfloat16,
        config.seed,
        config.save_every,
    )
    made_of = fingerprint(
        asdict(config), repr(schedule), *(side.train for side in sides), model_fingerprint(model), length=24
    )
    training = Training(model.train(), loss, mixer, loop, made_of, [callback])
    training.run(folder, resume, progress)
    model.eval()
    return callback.report(final_window=max(1, steps // every // 10))


def compare_schedules(
    model_fn: Callable[[], PreTrainedModel],
    old: TokenBlocks | None,
    new: TokenBlocks,
    grid: Mapping[str, RateSchedule],
    config: ContinualConfig | None = None,
    folder: str | os.PathLike | None = None,
    resume: bool = False,
    progress: Progress = lambda what, share: None,
) -> dict[str, ContinualReport]:
    """Go on pretraining the same model by each of several schedules, on the same batches.

    Args:
        model_fn: makes the model anew.
        old: as in `continue_pretraining`, and so are all others.
        new: the text to go on with.
        grid: the schedules by name.
        config: the rest of the training.
        folder: folder of the checkpoints, which gets one folder per schedule.
        resume: go on where the comparison was stopped.
        progress: called with the name of the schedule.
    """
    reports = {}
    for (name, schedule), told in in_turn(grid.items(), progress):
        reports[name] = continue_pretraining(
            model_fn(), old, new, schedule, config,
            None if folder is None else Path(folder) / name, resume,
            one_stage(told, name),
        )  # fmt: skip
    return reports
