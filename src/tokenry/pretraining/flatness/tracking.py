"""`FlatnessCallback`: the Fisher trace of held-out sequences while any `transformers.Trainer` trains, and a stop when it falls no more.

    trainer = Trainer(..., callbacks=[FlatnessCallback(batches, every=500)])

Pre-training loss ends to fall long before a model stops to become flatter, and better downstream with it. A record costs one backward
pass per sequence. Training is left as it is: no gradient, no mode and no random state is changed. Every record draws its labels from the
same seed, and each process of several reads its own part of the batches.

Source: the proxy of Same Pre-training Loss, Better Downstream (arXiv 2210.14199); stopping on it is ours.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import TrainerCallback

from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.core.io.ranks import processes, rank
from tokenry.core.stats import Estimate
from tokenry.pretraining.flatness.draws import DrawConfig
from tokenry.pretraining.flatness.fisher import PER, fisher_trace
from tokenry.pretraining.flatness.objective import EXCLUDED, Batch


@dataclass(frozen=True)
class FlatnessRecord:
    """What was measured after some steps.

    Attributes:
        step: optimisation steps made before.
        fisher: the Fisher trace, with its error over the sequences.
        loss: the loss on the same sequences, in nats.
    """

    step: int
    fisher: Estimate
    loss: Estimate


class FlatnessCallback(TrainerCallback):
    """Records the Fisher trace and the loss of the same sequences, adds them to the log, and may stop the training.

    Args:
        batches: held-out batches as the model takes them, with labels.
        every: optimisation steps from one record to the next.
        per: as of `fisher_trace`.
        patience: records without a fall of the trace by more than `fall` after which training stops; None never stops it.
        fall: share of the lowest trace so far by which a record must be lower to count as a fall.
        exclude: as of `hessian_trace`.
        seed: of the labels.

    Attributes:
        records: one `FlatnessRecord` for every time.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        every: int = 500,
        per: str = "sequence",
        patience: int | None = None,
        fall: float = 0.02,
        exclude: Sequence[str] = EXCLUDED,
        seed: int = 0,
    ) -> None:
        require_at_least(1, every=every, patience=patience)
        require_at_least(0, fall=fall)
        require_one_of(per, PER, "per")
        if len(batches) < processes():
            raise UserError(
                f"{len(batches)} batches are too few: give at least one for each process ({processes()})."
            )
        self.batches, self.every, self.per = batches, every, per
        self.patience, self.fall, self.exclude, self.seed = patience, fall, exclude, seed
        self.records: list[FlatnessRecord] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin with no record, and the one before the first step."""
        self.records = []
        self._record(state, **kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record where it is time, and stop where the trace has fallen no more."""
        if state.global_step % self.every:
            return
        self._record(state, **kwargs)
        if self.patience is not None and self.records_since_fall() >= self.patience:
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the finished model."""
        if self.records[-1].step < state.global_step:
            self._record(state, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add the newest record to the log."""
        if not self.records:
            return
        newest = self.records[-1]
        figures = {
            "flatness/fisher_trace": float(newest.fisher.value),
            "flatness/fisher_trace_error": float(newest.fisher.standard_error),
            "flatness/loss": float(newest.loss.value),
        }
        if state.log_history:
            state.log_history[-1].update(figures)
        (logs if logs is not None else {}).update(figures)

    def records_since_fall(self) -> int:
        """Records since the trace was lower than ever before, by the share that counts."""
        traces = [float(record.fisher.value) for record in self.records]
        lowest, since = traces[0], 0
        for trace in traces[1:]:
            fell = trace < (1 - self.fall) * lowest
            lowest, since = (trace, 0) if fell else (lowest, since + 1)
        return since

    def _record(self, state: Any, model: nn.Module, **_: Any) -> None:
        mine = self.batches[rank() :: processes()]
        config = DrawConfig(seed=self.seed, every=sys.maxsize)
        found = fisher_trace(model, mine, per=self.per, exclude=self.exclude, config=config)
        assert found.loss is not None
        self.records.append(FlatnessRecord(state.global_step, found.estimate, found.loss))
