"""Signals that are known before training: passes of fixed models over the training set, or what the cache holds of them."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from tokenry.core.errors import UserError
from tokenry.core.tensors.fingerprints import model_fingerprint
from tokenry.core.tensors.gate import has_whole_weights
from tokenry.finetuning.dataset_pass import dataset_nll, flat_signals, samples_of, weight_holders
from tokenry.finetuning.fold_training import out_of_fold_nll
from tokenry.finetuning.nll_cache import IndexedSample, NllCache
from tokenry.finetuning.refusals import refuse_reference
from tokenry.models import load_model

if TYPE_CHECKING:
    from tokenry.finetuning.trainer import TokenWeighingTrainer


def add_static_signals(
    trainer: "TokenWeighingTrainer", reference_model: nn.Module | None, base_model: nn.Module | None
) -> None:
    """Add the columns to the trainer's store that its weighing reads and a fixed model tells, and the choice over the data set.

    Args:
        trainer: before training.
        reference_model: the model behind `reference_nll`, where the weighing names none.
        base_model: the model behind `base_nll`, where it is not the model before this training.
    """
    weighing, store = trainer.weighing, trainer.store
    if weighing.share >= 1.0:
        return
    passes: dict[str, tuple[str | None, nn.Module | None]] = {}
    if "base_nll" in weighing.needs:
        passes["base_nll"] = ("base", None) if base_model is None else (None, base_model)
    if "history_nll" in weighing.needs and trainer.history.static_model:
        passes["history_nll"] = (trainer.history.static_model, None)
    if "reference_nll" in weighing.needs:
        passes["reference_nll"] = (weighing.reference_model, reference_model)
    if passes or weighing.scope == "dataset":
        samples = list(samples_of(trainer.train_dataset))
        for signal, (name, model) in passes.items():
            store.add(signal, _nll_under(trainer, signal, name, model, samples))
        if "out_of_fold_nll" in weighing.needs:
            store.add("out_of_fold_nll", out_of_fold_nll(trainer, samples, weighing.cross_fit))
        if weighing.scope == "dataset":
            store.add("kept", weighing.choose(flat_signals(samples, store))[0])


def _nll_under(
    trainer: "TokenWeighingTrainer",
    signal: str,
    name: str | None,
    model: nn.Module | None,
    samples: Sequence[IndexedSample],
) -> Tensor:
    """The NLL of all targets under a model, given or by its name; `base` is the trainer's own before training."""
    base: Any = nullcontext()
    if name == "base":
        model = trainer.model
        base = getattr(model, "disable_adapter", nullcontext)()
    elif name is not None:
        model = load_model(name, dtype=next(trainer.model.parameters()).dtype)
    if model is None:
        raise UserError(
            f"{type(trainer.weighing).__name__} compares with a reference model: name one (reference='path or name') or "
            "pass reference_model= to the trainer."
        )
    fingerprint = model_fingerprint(model) if has_whole_weights(model) else None
    holders = weight_holders(fingerprint)
    if not holders:
        raise UserError(
            f"{signal} needs a pass before training, but the model's weights are split between ranks: use "
            "history='adapter_off' or 'previous_epoch', or train without ZeRO-3."
        )
    home = next(model.parameters()).device
    if fingerprint:
        model.to(trainer.args.device)
    if name != "base":
        refuse_reference(model, trainer.processing_class, samples, f"the model of {signal}")
    with base:
        column = dataset_nll(
            model,
            samples,
            trainer.store.size,
            cache=NllCache(trainer.history_cache, fingerprint)
            if fingerprint and trainer.is_world_process_zero()
            else None,
            holders=holders,
            device=trainer.args.device,
            title=signal,
            progress=not trainer.args.disable_tqdm,
        )
    if fingerprint:
        model.to(home)
    return column
