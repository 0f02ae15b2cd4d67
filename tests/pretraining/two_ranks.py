"""Trainings that one process and two ranks must end alike; run by test_replaced_token_trainer.py, on two CPU processes."""

import os
import sys
import tempfile
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from datasets import Dataset
from torch.distributed.tensor import DTensor
from torch.utils.data import SequentialSampler
from transformers import TrainingArguments

from tests.tiny.pretraining import mask_tokenizer, pretrainer, text_rows
from tokenry.pretraining import ReplacedTokenTrainer

STRATEGIES = {
    "ddp": {},
    "fsdp2": {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["ElectraLayer"]}},
}
LENGTHS = (14, 9, 5, 12, 3, 2, 11, 7, 13, 6, 10, 4)


def data() -> Dataset:
    """Texts of different lengths, without padding; one has nothing to mask."""
    rows = text_rows(LENGTHS)
    ids = [row[mask.bool()].tolist() for row, mask in zip(*rows.values(), strict=True)]
    return Dataset.from_dict({"input_ids": ids})


def trainer(folder: Path, ranks: int = 1, **options: object) -> ReplacedTokenTrainer:
    """Four rows a step in two micro-batches, in order."""
    default = {
        "output_dir": str(folder),
        "max_steps": 3,
        "per_device_train_batch_size": 2 // ranks,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        **({"ddp_backend": "gloo", "ddp_timeout": 60} if ranks > 1 else {}),
    }
    arguments = TrainingArguments(**(default | options))
    if "fsdp" in options:
        # accelerate shards on accelerators only; what it does there is run here on two CPU processes.
        _ = arguments.device
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    made = ReplacedTokenTrainer(
        pretrainer(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        arguments,
        train_dataset=data(),
        processing_class=mask_tokenizer(),
    )
    made._get_train_sampler = lambda *_: SequentialSampler(made.train_dataset)
    return made


def run(folder: Path, ranks: int = 1, strategy: str = "ddp") -> dict[str, torch.Tensor]:
    """The weights, and what was logged."""
    made = trainer(folder, ranks, **STRATEGIES[strategy])
    made.train()
    logs = [entry for entry in made.state.log_history if "loss" in entry]
    names = (
        "loss",
        "generator_loss",
        "discriminator_loss",
        "replaced",
        "auc",
        "sampled_accuracy",
        "grad_norm",
    )
    logged = torch.tensor([[float(entry[name]) for name in names if name in entry] for entry in logs])
    weights = {
        name: (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach().clone()
        for name, weight in made.model.named_parameters()
    }
    return {"logged": logged, **weights}


def _main(output: Path) -> None:
    torch.set_num_threads(1)
    for strategy in STRATEGIES:
        torch.save(run(output, 2, strategy), output / f"{strategy}-{os.environ['RANK']}.pt")


if __name__ == "__main__":
    tempfile.tempdir = sys.argv[1]
    _main(Path(sys.argv[1]))
