"""Out-of-fold losses: every fold is scored by the base model after a brief training on samples of the other folds.

    out_of_fold_nll = −log p of the token under a model that has not seen its sample, in nats

Afterwards the model in training has its own weights back. The losses are kept in the cache of static losses, under a
fingerprint of model, data, folds and training arguments.
"""

import copy
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from torch import Tensor, nn
from transformers import PrinterCallback
from trl import SFTConfig

from tokenry.core.errors import UserError
from tokenry.core.tensors.alignment import IGNORED
from tokenry.core.tensors.fingerprints import model_fingerprint
from tokenry.finetuning.collation import lays_out_as_trl
from tokenry.finetuning.dataset_pass import as_the_first_rank_says, dataset_nll, weight_holders
from tokenry.finetuning.folds import Folds, scored_out_of_fold
from tokenry.finetuning.nll_cache import IndexedSample, NllCache

if TYPE_CHECKING:
    from tokenry.finetuning.trainer import TokenWeighingTrainer

# The training arguments that a fold's model depends on.
_TRAINING = (
    "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "optim", "optim_args", "weight_decay",
    "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "lr_scheduler_type", "lr_scheduler_kwargs", "bf16", "fp16",
    "seed", "packing", "packing_strategy", "max_length", "padding_free", "neftune_noise_alpha",
)  # fmt: skip


def out_of_fold_nll(
    trainer: "TokenWeighingTrainer", samples: Sequence[IndexedSample], folds: Folds
) -> Tensor:
    """The out-of-fold NLL of all targets of a trainer's data, as one flat column; nan where there is no target.

    Args:
        trainer: before training; its model is trained on each fold in turn, and has its own weights back in the end.
        samples: what `samples_of` gives.
    """
    model, size, device = trainer.model, trainer.store.size, trainer.args.device
    steps = _steps(trainer, folds)
    fingerprint = _fingerprint(trainer, samples, folds, steps)
    known = NllCache(trainer.history_cache, fingerprint) if trainer.is_world_process_zero() else None
    if as_the_first_rank_says(known is not None and all(known.get(s) is not None for s in samples)):
        return dataset_nll(model, samples, size, cache=known, device=device)
    _refuse_split_weights(trainer)

    def nll(inside: Sequence[IndexedSample]) -> Tensor:
        return dataset_nll(
            model,
            inside,
            size,
            holders=weight_holders(model_fingerprint(model, adapters=True)),
            device=device,
            title="out of fold",
            progress=not trainer.args.disable_tqdm,
        )

    column = scored_out_of_fold(samples, folds, lambda outside: _trained(trainer, outside, steps), nll)
    if known:
        known.add(samples, [column[sample.target_index].clone() for sample in samples])
    return column


def _refuse_split_weights(trainer: "TokenWeighingTrainer") -> None:
    if (
        trainer.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        or trainer.args.fsdp
    ):
        raise UserError(
            "cross-fitting trains the model on each fold and takes it back, which FSDP and DeepSpeed do not allow: start the same "
            "run once in one process or under DDP; its scores are then found in the cache."
        )


def _steps(trainer: "TokenWeighingTrainer", folds: Folds) -> int:
    """Optimisation steps of one fold's model."""
    args, rows = trainer.args, len(trainer.train_dataset)
    per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return max(1, round(folds.epochs * rows / folds.count / per_step))


def _fingerprint(
    trainer: "TokenWeighingTrainer", samples: Sequence[IndexedSample], folds: Folds, steps: int
) -> str:
    args = trainer.args
    settings: dict[str, Any] = {name: str(getattr(args, name, None)) for name in _TRAINING}
    settings |= {"folds": folds.count, "split": folds.seed, "steps": steps, "ranks": args.world_size}
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=12)
    digest.update(model_fingerprint(trainer.model, adapters=True).encode())
    digest.update(b"".join(sorted(sample.key for sample in samples)))
    return f"crossfit-{digest.hexdigest()}"


@contextmanager
def _trained(trainer: "TokenWeighingTrainer", samples: Sequence[IndexedSample], steps: int) -> Iterator[None]:
    """Train the trainer's model on other samples; afterwards it has its own weights again, and randomness goes on as before."""
    model = trainer.model
    with _kept_randomness(trainer.args.device), _kept_model(model):
        fold = type(trainer)(
            model,
            args=_arguments(trainer.args, steps),
            data_collator=None
            if lays_out_as_trl(trainer.data_collator)
            else copy.copy(trainer.data_collator),
            train_dataset=_rows(samples),
            processing_class=trainer.processing_class,
            record_signals=True,  # the step that holds no logits of the prompt
        )
        fold.remove_callback(PrinterCallback)
        with _kept_attributes(model):
            fold.train()
        yield


def _arguments(args: SFTConfig, steps: int) -> SFTConfig:
    brief = copy.copy(args)
    changed: dict[str, Any] = {
        "max_steps": steps,
        "warmup_steps": 0,
        "max_length": args.max_length if args.packing else None,
        "assistant_only_loss": False,
        "completion_only_loss": False,
        "model_init_kwargs": None,
        "chat_template_path": None,
        "eval_strategy": "no",
        "save_strategy": "no",
        "logging_strategy": "no",
        "load_best_model_at_end": False,
        "push_to_hub": False,
        "report_to": [],
    }
    for name, value in changed.items():
        setattr(brief, name, value)
    return brief


def _rows(samples: Sequence[IndexedSample]) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [np.array(sample.input_ids) for sample in samples],
            "labels": [np.where(sample.targets, sample.input_ids, IGNORED) for sample in samples],
        }
    )


@contextmanager
def _kept_model(model: nn.Module) -> Iterator[None]:
    """Give the trained parameters their values back."""
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in before:
                    parameter.copy_(before[name])
                    parameter.grad = None


@contextmanager
def _kept_attributes(model: nn.Module) -> Iterator[None]:
    """Remove what accelerate sets on a prepared model (a forward under autocast): the base is scored without it."""
    before = dict(vars(model))
    try:
        yield
    finally:
        vars(model).clear()
        vars(model).update(before)


@contextmanager
def _kept_randomness(device: torch.device) -> Iterator[None]:
    """Whether the scores were computed or found, the training that follows is the same."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
