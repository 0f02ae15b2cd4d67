"""Training runs that one process and two ranks must end alike; run by test_distributed.py, on two CPU processes.

`torchrun --nproc_per_node 2 -m tests.finetuning.two_ranks FOLDER` runs every case under DDP and FSDP2 and writes
what each rank has in the end to FOLDER. `run` in a single process gives what it must be.
"""

import gc
import json
import os
import sys
import tempfile
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from peft import LoraConfig
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from trl import SFTTrainer

from tests.capabilities import weighings
from tests.tiny.models import llama as tiny_llama
from tests.tiny.tokenizers import VOCABULARY
from tests.tiny.tokenizers import word_tokenizer as tiny_tokenizer
from tests.tiny.training import sft_config, token_rows
from tokenry.core.tensors import losses
from tokenry.finetuning import (
    AllTokens,
    CrossFitted,
    DatasetWeights,
    PromptResponseWeights,
    RandomTokens,
    Rho1,
    SmallLoss,
    SSToken,
    TokenCleaning,
    TokenWeighing,
    TokenWeighingTrainer,
)

STRATEGIES = ("ddp", "fsdp2")
# What `accelerate launch` sets for `fsdp_cpu_ram_efficient_loading: true`.
SPARING = {"ACCELERATE_USE_FSDP": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}


@dataclass(frozen=True)
class Case:
    """One training run.

    Args:
        weighing: None is TRL's own trainer.
        options: training arguments; `batch` is the number of samples of a micro-batch over all ranks.
        strategies: under which it runs.
        tied: one matrix embeds tokens and makes logits.
        lora: train adapters.
        units: classes that FSDP2 shards as units of their own.
        sparing: load the weights on the first rank only, as FSDP does for large models.
        resume_at: stop after this step, and go on in a new trainer from its checkpoint.
        weights: of the samples, for `DatasetWeights`; repeated over the data.
    """

    weighing: TokenWeighing | None
    options: dict[str, Any] = field(default_factory=dict)
    batch: int = 4
    strategies: tuple[str, ...] = STRATEGIES
    tied: bool = False
    lora: bool = False
    units: tuple[str, ...] = ("LlamaDecoderLayer",)
    sparing: bool = False
    resume_at: int | None = None
    weights: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)


ACCUMULATION = {"gradient_accumulation_steps": 2}
PACKING = {"packing": True, "max_length": 32}
# The first step ranks by attention alone: while history equals the model, progress is rounding noise, which differs with the batch.
SSTOKEN = {"warmup_fraction": 0.3}
CASES = {
    "plain": Case(None, ACCUMULATION, batch=2),
    "AllTokens": Case(AllTokens(), ACCUMULATION, batch=2),
    "AllTokens tied": Case(AllTokens(), strategies=("fsdp2",), tied=True),
    "RandomTokens": Case(RandomTokens(), {"num_train_epochs": 2}),
    "SSToken": Case(SSToken(**SSTOKEN), ACCUMULATION, batch=2),
    "SSToken tied": Case(SSToken(**SSTOKEN, dropped_weight=0.1), PACKING, batch=2, tied=True),
    "SSToken adapter_off": Case(SSToken(**SSTOKEN, history="adapter_off"), lora=True),
    "SSToken ema": Case(SSToken(**SSTOKEN, history="ema"), strategies=("ddp",)),
    "SSToken previous_epoch": Case(SSToken(**SSTOKEN, history="previous_epoch"), {"num_train_epochs": 3}, strategies=("fsdp2",)),
    "SSToken resumed": Case(
        SSToken(**SSTOKEN, history="previous_epoch"), {"num_train_epochs": 3}, strategies=("ddp",), resume_at=5
    ),
    "SSToken head of its own": Case(SSToken(**SSTOKEN), units=("LlamaDecoderLayer", "Linear"), strategies=("fsdp2",)),
    "TokenCleaning loaded sparingly": Case(TokenCleaning(), sparing=True, strategies=("fsdp2",)),
    "Rho1": Case(Rho1(scope="sample"), ACCUMULATION, batch=2),
    "TokenCleaning": Case(TokenCleaning(), ACCUMULATION, batch=2),
    "CrossFitted": Case(CrossFitted(), {"num_train_epochs": 2}, strategies=("ddp",)),
    "SmallLoss": Case(SmallLoss(), {"num_train_epochs": 2}),
    "DatasetWeights": Case(DatasetWeights(), ACCUMULATION, batch=2),
    "DatasetWeights mostly zero": Case(DatasetWeights(), weights=(1.0, *[0.0] * 5)),
    "DatasetWeights mostly zero, head of its own": Case(
        DatasetWeights(), weights=(1.0, *[0.0] * 5), units=("LlamaDecoderLayer", "Linear"), strategies=("fsdp2",)
    ),
    "PromptResponseWeights": Case(PromptResponseWeights(), ACCUMULATION, batch=2),
}  # fmt: skip
CASES |= {
    name: Case(make(), ACCUMULATION, batch=2) for name, make in weighings().items() if name not in CASES
}


def run(name: str, folder: Path, ranks: int = 1, strategy: str = "ddp") -> dict[str, torch.Tensor]:
    """Train a case; return the weights of the model as `model.…` and the columns of the store as `store.…`."""
    case = CASES[name]
    trainer = _trainer(case, folder, ranks, strategy)
    trainer.train()
    if case.resume_at and ranks > 1:
        trainer = _trainer(case, folder, ranks, strategy)
        trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{case.resume_at}"))
    weights = {
        f"model.{name}": (parameter.full_tensor() if isinstance(parameter, DTensor) else parameter)
        .detach()
        .clone()
        for name, parameter in trainer.model.named_parameters()
    }
    columns = trainer.store.columns if case.weighing else {}
    return weights | {f"store.{name}": column.clone() for name, column in columns.items()}


def _trainer(case: Case, folder: Path, ranks: int, strategy: str) -> SFTTrainer:
    options = {"max_length": None, **case.options, "per_device_train_batch_size": case.batch // ranks}
    if ranks > 1:
        options |= {"ddp_backend": "gloo", "ddp_timeout": 60}
    if case.resume_at:
        options |= {"save_strategy": "steps", "save_steps": case.resume_at}
    if ranks > 1 and strategy == "fsdp2":
        units = {"transformer_layer_cls_to_wrap": list(case.units), "cpu_ram_efficient_loading": case.sparing}
        options |= {"fsdp": True, "fsdp_config": {"version": 2, "reshard_after_forward": True, **units}}
    args = sft_config(folder, logging_strategy="epoch", **options)
    if "fsdp" in options:
        # accelerate shards on accelerators only; what it does there is run here on two CPU processes.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    rows = token_rows()
    weighing, models = case.weighing, _models(case)
    if case.sparing and ranks > 1:
        models, weighing = (
            _loaded_sparingly(folder, models),
            replace(weighing, reference=str(folder / "reference")),
        )
    common = {
        "model": models["model"],
        "args": args,
        "train_dataset": rows.add_column("weight", [*case.weights * len(rows)][: len(rows)]),
        "processing_class": tiny_tokenizer(),
        "peft_config": LoraConfig(r=4, target_modules=["q_proj", "up_proj"]) if case.lora else None,
    }
    if weighing is None:
        return SFTTrainer(**common)
    return TokenWeighingTrainer(
        **common, weighing=weighing, reference_model=models.get("reference"), history_cache=folder / "cache"
    )


def _models(case: Case) -> dict[str, PreTrainedModel]:
    models = {"model": tiny_llama(tie_word_embeddings=case.tied)}
    if "reference_nll" in getattr(case.weighing, "needs", ()):
        models["reference"] = tiny_llama(seed=1)
    return models


def _loaded_sparingly(folder: Path, models: dict[str, PreTrainedModel]) -> dict[str, PreTrainedModel]:
    """Give the weights to the first rank only: the others have room for them, which FSDP fills when training begins.

    The reference is left to the trainer, which loads it by its path.
    """
    if torch.distributed.get_rank() == 0:
        models["reference"].save_pretrained(folder / "reference")
    else:
        for parameter in models["model"].parameters():
            parameter.data.zero_()
    torch.distributed.barrier()
    os.environ |= SPARING
    return {"model": models["model"]}


def _main(output: Path) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # every run collects garbage, of which imported modules are none
    for function in (losses.row_nll, losses.weighted_loss):
        # As with a large vocabulary: each rank has its own number of chunks, and must not gather the head for each.
        function.__kwdefaults__["chunk_elements"] = 4 * VOCABULARY
    rank = int(os.environ["RANK"])
    said = {}
    for strategy in STRATEGIES:
        for name in (name for name, case in CASES.items() if strategy in case.strategies):
            folder = output / f"{strategy} {name}"
            folder.mkdir(exist_ok=True)
            try:
                save_file(run(name, folder, ranks=2, strategy=strategy), folder / f"rank-{rank}.safetensors")
                said[f"{strategy} {name}"] = "done"
            except Exception:
                said[f"{strategy} {name}"] = traceback.format_exc()
            for variable in SPARING:
                os.environ.pop(variable, None)
    (output / f"said-{rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    tempfile.tempdir = sys.argv[1]
    _main(Path(sys.argv[1]))
