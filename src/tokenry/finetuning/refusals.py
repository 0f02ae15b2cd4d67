"""What token weighing cannot do, refused in one sentence before any work starts."""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
import trl
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from transformers.utils import is_liger_kernel_available
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from tokenry.core.errors import UserError
from tokenry.core.tensors.alignment import IGNORED
from tokenry.core.tensors.attention import attention_layers, resolve_layers
from tokenry.core.tensors.gate import can_run, require_causal_lm, require_readable
from tokenry.core.tensors.losses import backbone, causal_lm, output_head
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.signals import Signals
from tokenry.finetuning.nll_cache import IndexedSample
from tokenry.finetuning.token_index import flat, parts_of
from tokenry.finetuning.token_store import TokenStore
from tokenry.finetuning.weighing import TokenWeighing
from tokenry.models import require_reference

_FUSED_LOSS = (
    "Liger's fused loss replaces the model's forward, so no token could be weighed: set "
    "liger_kernel_config={'fused_linear_cross_entropy': False}, which keeps its layer kernels."
)
_PROMPT_TUNING = (
    "prompt tuning puts virtual tokens before the text, so tokens cannot be told apart: use LoRA."
)


def require_weighing(weighing: Any) -> None:
    """Refuse an object that is not a weighing."""
    if not isinstance(weighing, TokenWeighing):
        raise UserError(
            f"weighing must be a TokenWeighing such as SSToken(share=0.6), got {type(weighing).__name__}."
        )


def refuse_arguments(weighing: TokenWeighing, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of `SFTTrainer` under which tokens cannot be weighed."""
    require_weighing(weighing)
    overrides_weigh = type(weighing).weigh is not TokenWeighing.weigh
    if overrides_weigh and type(weighing).weight_sum is TokenWeighing.weight_sum:
        raise UserError(
            f"{type(weighing).__name__} defines `weigh` but not `weight_sum`: say what its weights sum to, so that the loss "
            "can be divided by it under gradient accumulation, or define `score` instead of `weigh`."
        )
    if "packing" not in inspect.signature(SFTTrainer._prepare_dataset).parameters:
        raise UserError(
            f"trl {trl.__version__} prepares data in a way that tokenry does not know: install a tested version."
        )
    if arguments.get("compute_loss_func") is not None:
        raise UserError("compute_loss_func replaces the loss that tokens are weighed in: leave it out.")
    if isinstance(arguments.get("train_dataset"), Dataset) and not len(arguments["train_dataset"]):
        raise UserError("the training data has no samples: give at least one.")
    looked_up = _looks_up(weighing)
    if isinstance(arguments.get("train_dataset"), IterableDataset) and looked_up:
        raise UserError(
            f"{type(weighing).__name__} looks up numbers by token, which a streamed data set does not allow: load it whole, "
            "or use a weighing that needs the current loss only."
        )
    config = arguments.get("args")
    if looked_up and (getattr(config, "dataset_kwargs", None) or {}).get("skip_prepare_dataset"):
        raise UserError(
            f"{type(weighing).__name__} looks up numbers by token, and tokens get their numbers while the data is prepared: "
            "leave skip_prepare_dataset out (data with input_ids and labels is not tokenised again)."
        )
    if config is not None:
        _refuse_config(weighing, config)
    peft_config = arguments.get("peft_config")
    if peft_config is not None and getattr(peft_config, "is_prompt_learning", False):
        raise UserError(_PROMPT_TUNING)


def _looks_up(weighing: TokenWeighing) -> bool:
    """Whether the weighing looks numbers up by token, so that tokens need an index."""
    history = "history_nll" in weighing.needs and not weighing.history_source.live
    ranks_once = weighing.scope == "dataset" and weighing.share < 1.0
    return bool(weighing.static_needs) or ranks_once or (history and weighing.share < 1.0)


def _refuse_config(weighing: TokenWeighing, config: Any) -> None:
    if _asks_for_fused_loss(config, unless_said=False):
        raise UserError(_FUSED_LOSS)
    if getattr(config, "use_liger_kernel", False) and not is_liger_kernel_available():
        raise UserError("use_liger_kernel=True needs the package liger-kernel: pip install liger-kernel.")
    if getattr(config, "loss_type", "nll") not in ("nll", "chunked_nll"):
        raise UserError(
            f"loss_type={config.loss_type!r} weighs tokens itself: use loss_type='nll' with a weighing."
        )
    if getattr(config, "label_smoothing_factor", 0.0):
        raise UserError("label_smoothing_factor cannot be combined with token weighing: set it to 0.")
    if not getattr(config, "packing", False):
        return
    if config.max_length is None:
        raise UserError("packing=True needs to know how long a row may be: set max_length.")
    if config.packing_strategy == "wrapped":
        _refuse_wrapped_rows(weighing)


def _refuse_wrapped_rows(weighing: TokenWeighing) -> None:
    """A wrapped row does not show where a sample begins, so nothing can be computed within samples."""
    ranks = weighing.scope == "sample" and weighing.share < 1.0
    reasons = {
        "tokens cannot be ranked within them": ranks,
        "they have no mean loss of their own": weighing.reduction != "token",
        "a response cannot be told to look at its prompt": "prompt_attention" in weighing.needs,
    }
    for reason, holds in reasons.items():
        if holds:
            raise UserError(
                f"packing_strategy='wrapped' cuts samples apart, so {reason}, as {weighing.describe()} does: use 'bfd'."
            )


def _asks_for_fused_loss(config: Any, unless_said: bool) -> bool:
    liger = getattr(config, "liger_kernel_config", None) or {}
    return bool(
        getattr(config, "use_liger_kernel", False) and liger.get("fused_linear_cross_entropy", unless_said)
    )


def refuse_model(weighing: TokenWeighing, trainer: SFTTrainer) -> None:
    """Refuse what only shows in the built trainer: parallelism, auxiliary losses, unknown models, a warm-up without end."""
    parallelism = getattr(trainer.accelerator, "parallelism_config", None)
    for name in ("cp_enabled", "sp_enabled", "tp_enabled"):
        if getattr(parallelism, name, False):
            raise UserError(
                "token weighing needs whole samples on each rank, which context, sequence and tensor parallelism split: "
                "use DDP, FSDP or DeepSpeed ZeRO."
            )
    if _asks_for_fused_loss(trainer.args, unless_said=True):  # TRL before 1.16 leaves it on
        raise UserError(_FUSED_LOSS)
    adapters = getattr(trainer.model, "peft_config", {}).values()
    if any(getattr(adapter, "is_prompt_learning", False) for adapter in adapters):
        raise UserError(_PROMPT_TUNING)
    if getattr(trainer, "aux_loss_enabled", False):
        raise UserError(
            "the load-balancing loss of this mixture-of-experts model is not supported under token weighing: set "
            "router_aux_loss_coef=0.0."
        )
    if getattr(trainer, "_is_vision_dataset", False):
        raise UserError("token weighing is for text: the training data has images.")
    require_causal_lm(trainer.model)
    refuse_split_head(trainer.model, trainer.accelerator.distributed_type)
    if trainer.padding_free and can_run(trainer.model):
        refuse_packing(trainer.model)
    if "prompt_attention" in weighing.needs and weighing.share < 1.0:
        resolve_layers(weighing.attention_probe.layers, len(attention_layers(trainer.model)))
    epochs = _epochs(trainer)
    if weighing.share < 1.0 and not weighing.selects(epochs - 1e-6):
        raise UserError(
            f"{type(weighing).__name__} learns from all tokens for longer than the {epochs:g} epochs of this training, so "
            "nothing would ever be selected: raise num_train_epochs (or max_steps), or lower warmup_epochs."
        )


def _epochs(trainer: SFTTrainer) -> float:
    """Length of the training in epochs; infinite for streamed data, of which only the steps are known."""
    args = trainer.args
    if args.max_steps <= 0:
        return float(args.num_train_epochs)
    if not hasattr(trainer.train_dataset, "__len__"):
        return float("inf")
    samples = args.max_steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return samples / max(1, len(trainer.train_dataset))


def refuse_data(dataset: Any, vocabulary: int) -> None:
    """Refuse training data without anything to learn, or with labels outside the vocabulary."""
    if not isinstance(dataset, Dataset) or "labels" not in dataset.column_names:
        return
    packed = ["seq_lengths"] if "seq_lengths" in dataset.column_names else []
    labelled, learnable = 0, 0
    for part in parts_of(dataset, "labels", *packed):
        labels = flat(part["labels"])
        is_label = labels != IGNORED
        learned = labels[is_label]
        for label in (int(learned.min()), int(learned.max())) if len(learned) else ():
            if not 0 <= label < vocabulary:
                raise UserError(
                    f"label {label} is not in the vocabulary of {vocabulary} tokens: were the data made with another tokenizer?"
                )
        labelled += len(learned)
        lengths = flat(part["seq_lengths"]) if packed else pc.list_value_length(part["labels"]).to_numpy()
        is_label[(np.cumsum(lengths) - lengths)[lengths > 0]] = False
        learnable += int(is_label.sum())
    if not labelled:
        raise UserError(
            f"the training data has no token to learn from: every label is {IGNORED} (a response may have been cut off by "
            "max_length)."
        )
    if not learnable:
        raise UserError(
            "the training data has no token to learn from: its only labels are on first tokens of samples, which nothing "
            "predicts: put the prompt before the response."
        )


def refuse_weights(weighing: TokenWeighing, samples: Iterable[IndexedSample], store: TokenStore) -> None:
    """Refuse weights that leave nothing to learn from."""
    for sample in samples:
        labels = torch.from_numpy(np.where(sample.targets, sample.input_ids, IGNORED))[None]
        known = store.look_up(store.columns, sample.index[None])
        signals = Signals(labels, torch.zeros_like(labels), known, progress=1.0, epoch=math.inf)
        if float(weighing.weight_sum(signals)) > 0:
            return
    raise UserError(
        f"{weighing.describe()} gives every token of the training data the weight 0, so nothing would be learned: check the weights "
        "in the data, or raise the share."
    )


def refuse_unreadable(model: nn.Module, dataset: Any, what: str = "the training data", step: int = 1) -> None:
    """Refuse data whose ids or lengths the model cannot read; packed samples each begin at position 0.

    Args:
        model: the model in training.
        dataset: prepared rows with `input_ids` and perhaps `seq_lengths`, or several data sets by name; streamed data passes.
        what: name of the data in an error.
        step: multiple to which rows are padded.
    """
    if isinstance(dataset, Mapping):
        for name, part in dataset.items():
            refuse_unreadable(model, part, f"{what} {name}", step)
    if not isinstance(dataset, Dataset) or "input_ids" not in dataset.column_names:
        return
    packed = ["seq_lengths"] if "seq_lengths" in dataset.column_names else []
    extremes, longest = [], 0
    for part in parts_of(dataset, "input_ids", *packed):
        ids = flat(part["input_ids"])
        lengths = flat(part["seq_lengths"]) if packed else pc.list_value_length(part["input_ids"]).to_numpy()
        if len(ids):
            extremes += [int(ids.min()), int(ids.max())]
            longest = max(longest, int(lengths.max()))
    require_readable(model, extremes, [-(-longest // step) * step], what)


def refuse_reference(model: nn.Module, tokenizer: Any, samples: Sequence[IndexedSample], what: str) -> None:
    """Refuse a second model (reference, base, history) that is no causal language model or cannot read the samples."""
    require_reference(model, tokenizer, what)
    if samples:
        lengths = [len(sample.input_ids) for sample in samples]
        extremes = [
            int(end(sample.input_ids))
            for sample in samples
            if len(sample.input_ids)
            for end in (np.min, np.max)
        ]
        require_readable(model, extremes, lengths, "the training data", what)


def refuse_split_head(model: nn.Module, distributed_type: str) -> None:
    """Refuse a head behind further layers under FSDP: ranks without weights could not detect these layers."""
    if distributed_type == "FSDP" and not output_head(model).is_plain:
        raise UserError(
            f"{type(causal_lm(model)).__name__} has further layers before its output head, which token weighing does not follow "
            "under FSDP: train on one device, or with DDP."
        )


def refuse_packing(model: nn.Module) -> None:
    """Refuse packed rows where samples of a row would see each other: no gradient may lead from one into another."""
    inner = causal_lm(model)
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    packed = collate([{"input_ids": [1, 2, 3, 4]}, {"input_ids": [1, 2, 3, 4]}])
    del packed["labels"]
    device = next(inner.parameters()).device
    inputs = {
        name: value.to(device) if isinstance(value, Tensor) else value for name, value in packed.items()
    }
    embedded: list[Tensor] = []

    def keep_embeddings(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    hook = inner.get_input_embeddings().register_forward_hook(keep_embeddings)
    try:
        with evaluation_mode(inner), torch.enable_grad():
            hidden_states = backbone(inner)(**inputs, use_cache=False).last_hidden_state
            (gradient,) = torch.autograd.grad(hidden_states[:, 4:].float().square().sum(), embedded)
    finally:
        hook.remove()
    if bool(gradient[:, :4].any()):
        raise UserError(
            f"in {type(inner).__name__} samples that are packed into one row would see each other, as its attention mask does "
            "not know where a sample begins: set packing=False and padding_free=False."
        )
