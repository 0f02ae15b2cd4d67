"""`TokenWeighingTrainer`: TRL's `SFTTrainer`, learning from the tokens a weighing chooses.

    trainer = TokenWeighingTrainer(model, args=SFTConfig(...), train_dataset=..., weighing=SSToken(share=0.6))

Everything else is TRL: same arguments, same data formats. The loss of an optimisation step is Σ weights · nll / Σ weights over
all its micro-batches and ranks; with `AllTokens`, or any share of 1.0, that is plain supervised fine-tuning. Evaluation is the
plain NLL of all response tokens.
"""

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from torch import Tensor, nn
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer, pack_dataset

from tokenry.core.alignment import IGNORED, segment_ids
from tokenry.core.cache import cache_folder
from tokenry.core.errors import UserError
from tokenry.core.gate import has_whole_weights
from tokenry.core.losses import output_head
from tokenry.finetuning.all_tokens import AllTokens
from tokenry.finetuning.dataset_pass import (
    dataset_nll,
    evaluating,
    flat_signals,
    samples_of,
    weight_holders,
)
from tokenry.finetuning.forward import ReadSignals, WeighedLoss, add_token_loss
from tokenry.finetuning.monitor import TokenMonitor
from tokenry.finetuning.nll_cache import NllCache, Sample, model_fingerprint
from tokenry.finetuning.refusals import (
    refuse_arguments,
    refuse_data,
    refuse_model,
    refuse_reference,
    refuse_unreadable,
)
from tokenry.finetuning.signals import Signals
from tokenry.finetuning.template import content_mask, template_pieces
from tokenry.finetuning.token_store import TokenStore
from tokenry.finetuning.weighing import TokenWeighing
from tokenry.models import load_model

STATE_FILE = "tokenry_state.safetensors"


class TokenWeighingTrainer(SFTTrainer):
    """`SFTTrainer` with `weighing=`.

    Args:
        *args: as for `SFTTrainer`.
        weighing: which tokens to learn from; None learns from all of them.
        reference_model: the model behind `reference_nll`, where the weighing names none.
        base_model: the model behind `base_nll`, where it is not the model before this training.
        history_cache: folder of the losses computed before training; None is tokenry's cache folder.
        record_signals: keep the last value of every signal of every token in `store`, for reports.
        **kwargs: as for `SFTTrainer`.

    Raises:
        UserError: the weighing cannot work with these arguments.
    """

    loss_is_scaled_for_ga = True
    data_collator: Any
    _signature_columns: list[str] | None

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
        refuse_arguments(
            self.weighing,
            inspect.signature(SFTTrainer.__init__).bind_partial(self, *args, **kwargs).arguments,
        )
        self.record_signals = record_signals
        self.store = TokenStore(0)
        self.monitor = TokenMonitor()
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True
        refuse_model(self.weighing, self)
        step = 1 if self.padding_free else self.args.pad_to_multiple_of or 1
        refuse_unreadable(self.model, self.train_dataset, step=step)
        refuse_unreadable(self.model, self.eval_dataset, "the evaluation data", step)
        refuse_data(self.train_dataset, output_head(self.model).vocabulary)
        add_token_loss(self.model)
        self.data_collator = _WithTokenIndex(self.data_collator)
        self.history = self.weighing.history_source
        self._needs_history = "history_nll" in self.weighing.needs and self.weighing.share < 1.0
        if self._needs_history:
            self._check_history()
        reads_content = (
            "prompt_attention" in self.weighing.needs and self.weighing.attention_probe.columns == "content"
        )
        self._template = template_pieces(self.processing_class) if reads_content else ()
        folder = Path(history_cache) if history_cache else cache_folder() / "nll"
        self._add_static_signals(reference_model, base_model, folder)
        self.add_callback(_FollowTraining(self))

    # Before training: every token gets its index, and what is known about it beforehand.

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
        indexed = self.store.size > 0  # what is called train after the training data is for evaluation
        if dataset_name != "train" or indexed or not isinstance(dataset, Dataset):
            return prepare(dataset, processing_class, args, packing, formatting_func, dataset_name)
        whole = copy.copy(args)
        whole.shuffle_dataset = False  # tokens are numbered in the order of the data
        if packing:
            whole.max_length = None  # packing cuts the samples itself
        dataset = self._index_tokens(
            prepare(dataset, processing_class, whole, False, formatting_func, dataset_name),
            whole,
        )
        if args.shuffle_dataset:
            dataset = dataset.shuffle(seed=args.seed)
        if packing:
            dataset = dataset.select_columns(["input_ids", "labels", "token_index"])
            dataset = pack_dataset(dataset, args.max_length, args.packing_strategy)
            if args.shuffle_dataset:
                dataset = dataset.shuffle(seed=args.seed)
        return dataset

    def _index_tokens(self, dataset: Dataset, args: SFTConfig) -> Dataset:
        lengths = [list(map(len, dataset[name])) for name in ("labels", "input_ids")]
        for number, (labels, ids) in enumerate(zip(*lengths, strict=True)):
            if labels != ids:
                raise UserError(
                    f"sample {number} has {ids} input_ids but {labels} labels: give one label per token, {IGNORED} where "
                    "nothing is to be learned."
                )
        ends = np.cumsum([0, *lengths[0]])
        self.store = TokenStore(int(ends[-1]))
        needs = self.weighing.needs
        if "dataset_weight" in needs:
            self.store.add("dataset_weight", _weights_in_data(dataset, args))
        if "token_class" in dataset.column_names:
            self.store.add("token_class", torch.cat(_per_token(dataset, "token_class", args)))
        if "uniform" in needs:
            generator = torch.Generator().manual_seed(getattr(self.weighing, "seed", 0))
            self.store.add("uniform", torch.rand(self.store.size, generator=generator))
        if self.weighing.learns_from_prompt:
            self.store.add(
                "response", torch.cat([torch.tensor(labels) != -100 for labels in dataset["labels"]])
            )
            dataset = dataset.map(lambda row: {"labels": row["input_ids"]})
        if "token_index" in dataset.column_names:
            dataset = dataset.remove_columns("token_index")
        index = pa.ListArray.from_arrays(
            pa.array(ends, pa.int32()), pa.array(np.arange(ends[-1], dtype=np.int64))
        )
        return dataset.add_column("token_index", index)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = list(dict.fromkeys([*(self._signature_columns or []), "token_index"]))

    def _check_history(self) -> None:
        self.history.check(self.model)
        sharded = self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        if sharded and self.history.live and self.history.state():
            raise UserError(
                "history='ema' keeps whole weights, which FSDP and DeepSpeed split: use 'previous_epoch'."
            )

    def _add_static_signals(
        self, reference_model: nn.Module | None, base_model: nn.Module | None, cache: Path
    ) -> None:
        weighing = self.weighing
        if weighing.share >= 1.0:
            return
        passes: dict[str, tuple[str | None, nn.Module | None]] = {}
        if "base_nll" in weighing.needs:
            passes["base_nll"] = ("base", None) if base_model is None else (None, base_model)
        if self._needs_history and self.history.static_model:
            passes["history_nll"] = (self.history.static_model, None)
        if "reference_nll" in weighing.needs:
            passes["reference_nll"] = (weighing.reference_model, reference_model)
        if passes or weighing.scope == "dataset":
            samples = list(samples_of(self.train_dataset))
            for signal, (name, model) in passes.items():
                self.store.add(signal, self._static_nll(signal, name, model, samples, cache))
            if weighing.scope == "dataset":
                choice = weighing.choose(flat_signals(samples, self.store))
                self.store.add("kept", choice[0])

    def _static_nll(
        self, signal: str, name: str | None, model: nn.Module | None, samples: Sequence[Sample], folder: Path
    ) -> Tensor:
        """One pass of a fixed model over the training set, or what the cache knows of it."""
        base: Any = nullcontext()
        if name == "base":
            model = self.model
            base = getattr(model, "disable_adapter", nullcontext)()
        elif name is not None:
            model = load_model(name, dtype=next(self.model.parameters()).dtype)
        if model is None:
            raise UserError(
                f"{type(self.weighing).__name__} compares with a reference model: name one (reference='path or name') or "
                "pass reference_model= to the trainer."
            )
        fingerprint = model_fingerprint(model) if has_whole_weights(model) else None
        holders = weight_holders(fingerprint)
        if not holders:
            raise UserError(
                f"{signal} needs a pass before training, but the model's weights are split between ranks: use "
                "history='adapter_off' or 'previous_epoch', or train without ZeRO-3."
            )
        main = self.accelerator.is_main_process
        home = next(model.parameters()).device
        if fingerprint:
            model.to(self.args.device)
        if name != "base":
            refuse_reference(model, self.processing_class, samples, f"the model of {signal}")
        with base:
            column = dataset_nll(
                model,
                samples,
                self.store.size,
                cache=NllCache(folder, fingerprint) if fingerprint and main else None,
                holders=holders,
                device=self.args.device,
                title=signal,
                progress=not self.args.disable_tqdm,
            )
        if fingerprint:
            model.to(home)
        return column

    # During training: signals, weights, loss.

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> Any:
        """Collect the micro-batches of a step, and the sum of their weights over all ranks in place of a token count."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        total = torch.zeros(1, device=device)
        for batch in batches:
            total += self.weighing.weight_sum(self._known_signals(batch, batch.get("token_index"))).to(device)
        return batches, self.accelerator.gather(total).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Weigh the tokens of a micro-batch and return its part of the step's loss; plain TRL in evaluation."""
        if not self.model.training:
            inputs.pop("token_index", None)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        token_index = inputs.get("token_index")
        model_inputs = {
            name: value for name, value in inputs.items() if name not in ("labels", "token_index")
        }
        known = self._known_signals(inputs, token_index)
        known = self._with_live_history(model, model_inputs, known)
        content = content_mask(inputs["input_ids"], self._template) if self._template else None
        recorded = self.weighing.needs & {"nll", "prompt_attention"} if self.record_signals else frozenset()
        weighed = WeighedLoss(self.weighing, known, content, extra=recorded)
        loss = model(**model_inputs, token_loss=weighed).loss
        total = self.weighing.weight_sum(known) if num_items_in_batch is None else num_items_in_batch
        loss = loss / total.to(loss.device).clamp(min=1e-8) * self.accelerator.num_processes
        self._observe(weighed, token_index)
        return (loss, {"loss": loss.detach()}) if return_outputs else loss

    def _known_signals(self, inputs: dict[str, Any], token_index: Tensor | None) -> Signals:
        segments = segment_ids(inputs["input_ids"], inputs.get("attention_mask"), inputs.get("position_ids"))
        names = {*self.weighing.static_needs, "history_nll", "kept"} & self.store.columns.keys()
        known = {} if token_index is None else self.store.look_up(names, token_index)
        progress = self.state.global_step / max(1, self.state.max_steps)
        return Signals(inputs["labels"], segments, known, progress, float(self.state.epoch or 0.0))

    def _with_live_history(self, model: nn.Module, model_inputs: dict[str, Any], known: Signals) -> Signals:
        """Add the history that one more forward under earlier weights tells."""
        if not (self._needs_history and self.history.live and self.weighing.selects(known.epoch)):
            return known
        scored = ReadSignals(known)
        whole = self.accelerator.unwrap_model(model)
        with torch.no_grad(), evaluating(model), self.history.earlier_weights(whole):
            model(**model_inputs, token_loss=scored)
        return known.with_values(history_nll=scored.values["nll"])

    def _observe(self, weighed: WeighedLoss, token_index: Tensor | None) -> None:
        learnable = weighed.signals.learnable
        last = None
        if token_index is not None:
            last = self.store.look_up(["weight"], token_index).get("weight")
            self.store.record("weight", token_index, weighed.weights, learnable)
            if self._needs_history and self.history.from_last_epoch:
                self.store.record("history_nll", token_index, weighed.nll, learnable)
            if self.record_signals:
                for name, values in {"nll": weighed.nll, **weighed.signals.values}.items():
                    if name not in self.weighing.static_needs and name not in ("kept", "history_nll"):
                        self.store.record(name, token_index, values, learnable)
        self.monitor.observe(weighed.weights, weighed.nll, weighed.signals, last)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log what the weighing did beside TRL's figures."""
        super().log({**logs, **(self.monitor.read() if self.model.training else {})}, *args, **kwargs)

    # Checkpoints: what a weighing remembers is saved last, so its file also says that a checkpoint is whole.

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train as TRL does; a resumed run takes up what the weighing remembered.

        Raises:
            UserError: the checkpoint was not written to its end.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = str(last_whole_checkpoint(Path(self.args.output_dir)))
        if resume_from_checkpoint:
            self._restore(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _restore(self, checkpoint: Path) -> None:
        path = checkpoint / STATE_FILE
        if not path.exists():
            raise UserError(
                f"{checkpoint} was not written to its end by tokenry: resume from an earlier checkpoint."
            )
        averages = self.store.load(path, others=set(self.history.state()))
        forgotten = self._remembered() - {"weight"} - self.store.columns.keys()
        if forgotten or averages.keys() != self.history.state().keys():
            raise UserError(
                f"{checkpoint} was written under a weighing with another history than {self.weighing.describe()}: resume with "
                "the weighing that it was trained with."
            )
        self.history.restore(averages)

    def _keep(self, checkpoint: Path) -> None:
        self.store.save(checkpoint / STATE_FILE, self.store.recorded, others=self.history.state())

    def _remembered(self) -> set[str]:
        from_last_epoch = self._needs_history and self.history.from_last_epoch
        return {"weight", "history_nll"} if from_last_epoch else {"weight"}


def last_whole_checkpoint(folder: Path) -> Path:
    """Find the newest checkpoint in `folder` that was written to its end.

    Raises:
        UserError: there is none.
    """
    checkpoints = sorted(
        folder.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-"))
    )
    whole = [path for path in checkpoints if (path / STATE_FILE).exists()]
    if not whole:
        raise UserError(f"{folder} holds no whole checkpoint to resume from: start without resuming.")
    return whole[-1]


def _per_token(dataset: Dataset, name: str, args: SFTConfig) -> list[Tensor]:
    """Read a column of numbers per token, cut as TRL has cut the samples: to their beginnings, or to their ends.

    Raises:
        UserError: a sample has not one number per token.
    """
    rows = []
    for number, (row, labels) in enumerate(zip(dataset[name], dataset["labels"], strict=True)):
        length = len(labels)
        if len(row) < length or (len(row) > length and length != args.max_length):
            raise UserError(f"sample {number} has {length} tokens but {len(row)} {name}: give one per token.")
        start = len(row) - length if args.truncation_mode == "keep_end" else 0
        rows.append(torch.tensor(row[start : start + length], dtype=torch.float32))
    return rows


def _weights_in_data(dataset: Dataset, args: SFTConfig) -> Tensor:
    """Read `token_weights` (one per token) or `weight` (one per sample) as one flat column.

    Raises:
        UserError: neither is there, a list has another length than its sample, or a weight is negative or not finite.
    """
    if "token_weights" in dataset.column_names:
        weights = torch.cat(_per_token(dataset, "token_weights", args))
    elif "weight" in dataset.column_names:
        weights = torch.repeat_interleave(
            torch.tensor(dataset["weight"], dtype=torch.float32),
            torch.tensor([len(labels) for labels in dataset["labels"]]),
        )
    else:
        raise UserError(
            f"DatasetWeights needs a column `weight` or `token_weights`; the data has {', '.join(dataset.column_names)}."
        )
    if not bool((torch.isfinite(weights) & (weights >= 0)).all()):
        raise UserError("weights in the data must be finite and 0 or more.")
    return weights


@dataclass
class _WithTokenIndex:
    """Lays the token indices of a batch out as `collate` lays out the tokens: padded on either side, or flattened."""

    collate: Any

    def __call__(self, examples: list[dict[str, Any]], *args: Any, **kwargs: Any) -> dict[str, Any]:
        indices = [
            torch.as_tensor(example.pop("token_index")) for example in examples if "token_index" in example
        ]
        batch = self.collate(examples, *args, **kwargs)
        if indices:
            flat = torch.cat(indices)
            index = torch.full_like(batch["input_ids"], -1)
            if "attention_mask" in batch:
                index[batch["attention_mask"].bool()] = flat
            else:
                index.view(-1)[: flat.numel()] = flat
            batch["token_index"] = index
        return batch


@dataclass
class _FollowTraining(TrainerCallback):
    """Lets the history follow the model, ranks share what they saw, and checkpoints hold what is remembered."""

    trainer: TokenWeighingTrainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.history.after_step(self.trainer.model)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.store.share_between_ranks(args.device)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.store.share_between_ranks(args.device)
        if state.is_world_process_zero:
            self.trainer._keep(Path(args.output_dir) / f"checkpoint-{state.global_step}")
