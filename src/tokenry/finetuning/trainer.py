"""`TokenWeighingTrainer`: TRL's `SFTTrainer`, learning from the tokens a weighing chooses.

    trainer = TokenWeighingTrainer(model, args=SFTConfig(...), train_dataset=..., weighing=SSToken(share=0.6))

Everything else is TRL: same arguments, same data formats. Without a weighing, with `AllTokens` or with a share of 1.0 it *is*
`SFTTrainer`: `weighs` is False, and every method here calls TRL's. Otherwise the loss of an optimisation step is
Σ weights · nll / Σ weights over all its micro-batches and ranks. Evaluation is always TRL's: the plain NLL of all response tokens.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments
from trl import SFTConfig, SFTTrainer

from tokenry.core.chat.template import content_mask, template_pieces
from tokenry.core.errors import UserError
from tokenry.core.io.cache import cache_folder
from tokenry.core.tensors.alignment import segment_ids
from tokenry.core.tensors.losses import output_head
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.signals import Signals
from tokenry.core.train.signatures import with_parameters_of
from tokenry.finetuning.all_tokens import AllTokens
from tokenry.finetuning.checkpoints import STATE_FILE, Memory, last_whole_checkpoint
from tokenry.finetuning.collation import IndexingCollator, lays_out_as_trl, model_inputs
from tokenry.finetuning.dataset_pass import samples_of
from tokenry.finetuning.forward import ReadSignals, WeighedLoss, add_token_loss
from tokenry.finetuning.monitor import TokenMonitor
from tokenry.finetuning.refusals import (
    refuse_arguments,
    refuse_data,
    refuse_model,
    refuse_unreadable,
    refuse_weights,
    require_weighing,
)
from tokenry.finetuning.static_signals import add_static_signals
from tokenry.finetuning.token_columns import without_padding
from tokenry.finetuning.token_index import RUNS
from tokenry.finetuning.token_store import TokenStore
from tokenry.finetuning.training_data import prepare_indexed
from tokenry.finetuning.weighing import TokenWeighing

__all__ = ["STATE_FILE", "TokenWeighingTrainer", "last_whole_checkpoint"]


class TokenWeighingTrainer(SFTTrainer):
    """`SFTTrainer` with `weighing=`.

    Args:
        *args: as for `SFTTrainer`.
        weighing: which tokens to learn from; None learns from all of them.
        reference_model: the model behind `reference_nll`, if the weighing names none.
        base_model: the model behind `base_nll`, if it is not the model before this training.
        history_cache: folder of the losses computed before training; None is tokenry's cache folder.
        record_signals: keep the last value of every signal of every token in `store`, for reports; also without a weighing.
        **kwargs: as for `SFTTrainer`.

    Attributes:
        weighs: whether tokens are weighed (or recorded); if not, this class is `SFTTrainer`.
        store: numbers about the tokens of the training set; empty if none are weighed.
    """

    data_collator: Any
    _signature_columns: list[str] | None

    if (
        TYPE_CHECKING
    ):  # what editors complete and type checkers check: TRL's parameters, which a test compares, and ours

        def __init__(
            self,
            model: str | nn.Module,
            args: SFTConfig | TrainingArguments | None = None,
            data_collator: Callable[..., Any] | None = None,
            train_dataset: Any | None = None,
            eval_dataset: Any | None = None,
            processing_class: Any | None = None,
            compute_loss_func: Callable[..., Any] | None = None,
            compute_metrics: Callable[..., Any] | None = None,
            callbacks: list[TrainerCallback] | None = None,
            optimizers: tuple[Any | None, Any | None] = (None, None),
            optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
            preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
            quantization_config: Any | None = None,
            peft_config: Any | None = None,
            formatting_func: Callable[..., Any] | None = None,
            *,
            weighing: TokenWeighing | None = None,
            reference_model: nn.Module | None = None,
            base_model: nn.Module | None = None,
            history_cache: str | Path | None = None,
            record_signals: bool = False,
        ) -> None: ...

    @with_parameters_of(SFTTrainer.__init__)  # type: ignore[no-redef]
    def __init__(
        self,
        *args: Any,
        weighing: TokenWeighing | None = None,
        reference_model: nn.Module | None = None,
        base_model: nn.Module | None = None,
        history_cache: str | Path | None = None,
        record_signals: bool = False,
        **kwargs: Any,
    ) -> None:
        self.weighing = AllTokens() if weighing is None else weighing
        require_weighing(self.weighing)
        self.weighs = record_signals or not self.weighing.is_plain
        self.record_signals = record_signals
        self.store = TokenStore(0)
        if not self.weighs:
            super().__init__(*args, **kwargs)
            return
        refuse_arguments(
            self.weighing,
            inspect.signature(SFTTrainer.__init__).bind_partial(self, *args, **kwargs).arguments,
        )
        self.monitor = TokenMonitor()
        self._has_training_data = False
        self.loss_is_scaled_for_ga = True
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True
        refuse_model(self.weighing, self)
        step = 1 if self.padding_free else self.args.pad_to_multiple_of or 1
        refuse_unreadable(self.model, self.train_dataset, step=step)
        refuse_unreadable(self.model, self.eval_dataset, "the evaluation data", step)
        refuse_data(self.train_dataset, output_head(self.model).vocabulary)
        add_token_loss(self.model)
        self.data_collator = IndexingCollator(self.data_collator)
        self.history = self.weighing.history_source
        self._needs_history = "history_nll" in self.weighing.needs and self.weighing.share < 1.0
        self._follows_epochs = self._needs_history and self.history.from_last_epoch
        if self._needs_history:
            self._check_history()
        reads_content = (
            "prompt_attention" in self.weighing.needs and self.weighing.attention_probe.columns == "content"
        )
        self._template = template_pieces(self.processing_class) if reads_content else ()
        self._try_collator()
        self.history_cache = Path(history_cache) if history_cache else cache_folder() / "nll"
        add_static_signals(self, reference_model, base_model)
        if self.store.size:
            refuse_weights(self.weighing, samples_of(self.train_dataset), self.store)
        self.add_callback(_FollowTraining(self))

    # Before training: every token gets an index.

    def _prepare_dataset(
        self,
        dataset: Any,
        processing_class: Any,
        args: SFTConfig,
        packing: bool,
        formatting_func: Any,
        dataset_name: str,
    ) -> Any:
        """Prepare as TRL does, and index the training tokens before samples are packed."""
        prepare = super()._prepare_dataset
        if not self.weighs:
            return prepare(dataset, processing_class, args, packing, formatting_func, dataset_name)
        dataset = without_padding(dataset)
        for_training = dataset_name == "train" and not self._has_training_data
        self._has_training_data |= for_training  # what is called train after that is for evaluation
        if not for_training or not isinstance(dataset, Dataset):
            return prepare(dataset, processing_class, args, packing, formatting_func, dataset_name)

        def prepare_unpacked(rows: Dataset, args: SFTConfig) -> Dataset:
            formatting = None if "input_ids" in rows.column_names else formatting_func
            return prepare(rows, processing_class, args, False, formatting, dataset_name)

        dataset, self.store = prepare_indexed(
            dataset,
            prepare_unpacked,
            args,
            self.weighing,
            packing=packing,
            padding_free=self.padding_free,
            record_signals=self.record_signals,
        )
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if self.weighs:
            self._signature_columns = list(dict.fromkeys([*(self._signature_columns or []), RUNS]))

    def _try_collator(self) -> None:
        """Lay out one batch: a collator that cannot be followed is refused before any work."""
        if self._is_indexed and not lays_out_as_trl(self.data_collator):
            size = min(len(self.train_dataset), self.args.train_batch_size)
            kept = self._remove_unused_columns(self.train_dataset)
            self.data_collator.try_out([kept[row] for row in range(size)])

    @property
    def _is_indexed(self) -> bool:
        return isinstance(self.train_dataset, Dataset) and RUNS in self.train_dataset.column_names

    def _check_history(self) -> None:
        self.history.check(self.model)
        sharded = self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        if sharded and self.history.live and self.history.state():
            raise UserError(
                "history='ema' keeps whole weights, which FSDP and DeepSpeed split: use 'previous_epoch'."
            )

    # During training: signals, weights, loss.

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> Any:
        """Collect the micro-batches of a step, and the sum of their weights over all ranks instead of a token count."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not self.weighs:
            return batches, items
        sums = torch.zeros(1, 2, device=device)
        for batch in batches:
            known = self._known_signals(batch, batch.get("token_index"))
            sums[0, 0] += self.weighing.weight_sum(known).to(device)
            sums[0, 1] += _token_count(batch)
        weight, tokens = self.accelerator.gather(sums).sum(dim=0)
        self._total_train_tokens += int(tokens)
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        return batches, weight

    def compute_loss(
        self,
        model: nn.Module,
        inputs: MutableMapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Weigh the tokens of a micro-batch and return its part of the step's loss; plain TRL in evaluation."""
        if not (self.weighs and self.model.training):
            if self.weighs:
                inputs.pop("token_index", None)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        token_index = inputs.get("token_index")
        read = model_inputs(inputs)
        known = self._with_live_history(model, read, self._known_signals(inputs, token_index))
        content = content_mask(inputs["input_ids"], self._template) if self._template else None
        recorded = self.weighing.needs & {"nll", "prompt_attention"} if self.record_signals else frozenset()
        weighed = WeighedLoss(self.weighing, known, content, extra=recorded)
        loss = model(**read, token_loss=weighed).loss
        if num_items_in_batch is None:
            loss = loss / self.weighing.weight_sum(known).to(loss.device).clamp(min=1e-8)
        else:  # the weight over all ranks, whose gradients are averaged
            loss = loss / num_items_in_batch.to(loss.device).clamp(min=1e-8) * self.accelerator.num_processes
        self._observe(weighed, token_index)
        if not return_outputs:
            return loss
        given = {name: value for name, value in inputs.items() if name not in ("labels", "token_index")}
        with torch.no_grad():
            return loss, model(**given, use_cache=False)

    def _known_signals(self, inputs: MutableMapping[str, Any], token_index: Tensor | None) -> Signals:
        real, positions = inputs.get("attention_mask"), inputs.get("position_ids")
        if token_index is None:
            self._require_no_look_up()
        elif real is None:
            real = token_index >= 0
        segments = segment_ids(inputs["input_ids"], real, positions)
        known = {} if token_index is None else self.store.look_up(self._looked_up, token_index)
        progress = self.state.global_step / max(1, self.state.max_steps)
        return Signals(inputs["labels"], segments, known, progress, float(self.state.epoch or 0.0))

    @property
    def _looked_up(self) -> set[str]:
        """The columns of the store that the weighing reads."""
        return {*self.weighing.static_needs, "history_nll", "kept"} & self.store.columns.keys()

    def _require_no_look_up(self) -> None:
        if self._looked_up or self._follows_epochs:
            raise UserError(
                f"{type(self.weighing).__name__} looks up numbers by token, and this data has none: train_dataset was replaced after the "
                "trainer was built; build a new trainer for other data (a selection of trainer.train_dataset keeps its numbers)."
            )

    def _with_live_history(self, model: nn.Module, read: MutableMapping[str, Any], known: Signals) -> Signals:
        """Add the history from one more forward, under earlier weights."""
        if not (self._needs_history and self.history.live and self.weighing.selects(known.epoch)):
            return known
        scored = ReadSignals(known)
        whole = self.accelerator.unwrap_model(model)
        with torch.no_grad(), evaluation_mode(model), self.history.earlier_weights(whole):
            model(**read, token_loss=scored)
        return known.with_values(history_nll=scored.values["nll"])

    def _observe(self, weighed: WeighedLoss, token_index: Tensor | None) -> None:
        learnable = weighed.signals.learnable
        last = None
        if token_index is not None:
            last = self.store.look_up(["weight"], token_index).get("weight")
            self.store.record("weight", token_index, weighed.weights, learnable)
            if self._follows_epochs:
                self.store.record("history_nll", token_index, weighed.nll, learnable)
            if self.record_signals:
                for name, values in {"nll": weighed.nll, **weighed.signals.values}.items():
                    if name not in self.weighing.static_needs and name not in ("kept", "history_nll"):
                        self.store.record(name, token_index, values, learnable)
        learned = {"entropy": weighed.entropy, "mean_token_accuracy": weighed.accuracy}
        self.monitor.observe(weighed.weights, weighed.nll, weighed.signals, last, learned)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the statistics of the weighing beside TRL's.

        `num_tokens` counts as TRL does; `entropy` and `mean_token_accuracy` are means over the tokens that are learned from.
        """
        if self.weighs and self.model.training:
            logs.update(self.monitor.read())
        super().log(logs, *args, **kwargs)

    # Checkpoints hold what the weighing remembers.

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train as TRL does; a resumed run restores what the weighing remembered."""
        if not self.weighs:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        if not self._is_indexed:
            self._require_no_look_up()
        if resume_from_checkpoint is True:
            resume_from_checkpoint = str(
                last_whole_checkpoint(Path(self.args.output_dir), trl_too=not self.memory.decides)
            )
        if resume_from_checkpoint:
            self.memory.restore(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    @property
    def memory(self) -> Memory:
        """State of the weighing that a checkpoint holds beside the model."""
        return Memory(self.weighing.describe(), self.store, self.history, self._follows_epochs)


def _token_count(batch: Mapping[str, Any]) -> Tensor | int:
    """Count the tokens of a batch as TRL does: those of its mask, or the length of a flattened one."""
    if "attention_mask" in batch:
        return batch["attention_mask"].sum()
    if "position_ids" in batch:
        return batch["position_ids"].shape[1]
    return (batch["token_index"] >= 0).sum() if "token_index" in batch else batch["input_ids"].numel()


@dataclass
class _FollowTraining(TrainerCallback):
    """Updates the history, shares the store between ranks and saves what the weighing remembers."""

    trainer: TokenWeighingTrainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.history.after_step(self.trainer.model)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.store.share_between_ranks(args.device)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.store.share_between_ranks(args.device)
        if state.is_world_process_zero:
            self.trainer.memory.save(Path(args.output_dir) / f"checkpoint-{state.global_step}")
