"""A `NextXModel` trained by a stock Trainer in one process or in two, under DDP or FSDP2, which must end alike."""

import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainingArguments

from tests.generation.xar.tiny_next_x import next_x, rows
from tokenry.core.tensors.ema import WeightAverage
from tokenry.generation import NextXModel

STRATEGIES = {
    "ddp": {},
    "fsdp2": {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["NextXBlock"]}},
}


class Given(Trainer):
    """Times and noise come with the row, so that they do not depend on the process."""

    def compute_loss(self, model, inputs, return_outputs=False, **_):
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def trained(folder, ranks=1, strategy="ddp"):
    """The weights and their averages after three steps of four images."""
    generator = torch.Generator().manual_seed(1)
    data = [
        {**row, "times": torch.rand(4, generator=generator), "noise": torch.randn(16, 3, generator=generator)}
        for row in rows(12)
    ]
    arguments = TrainingArguments(
        str(folder), max_steps=3, per_device_train_batch_size=2 // ranks, gradient_accumulation_steps=2, learning_rate=1e-3,
        lr_scheduler_type="constant", train_sampling_strategy="sequential", report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no",
        **({"ddp_backend": "gloo", "ddp_timeout": 60} if ranks > 1 else {}), **STRATEGIES[strategy],
    )  # fmt: skip
    if strategy == "fsdp2":
        # accelerate shards on accelerators only; what it does there is run here on two CPU processes.
        _ = arguments.device
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    average = WeightAverage(0.5)
    trainer = Given(next_x(label_dropout=0.0), arguments, train_dataset=data, callbacks=[average])
    trainer.train()
    assert isinstance(trainer.model, NextXModel)
    weights = {name: whole(weight) for name, weight in trainer.model.named_parameters()}
    return weights | {f"average {name}": whole(weight) for name, weight in average.averages.items()}


def whole(weight):
    return (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach().clone()


if __name__ == "__main__":
    place, name = Path(sys.argv[1]), sys.argv[2]
    found = trained(place, 2, name)
    save_file(found, place / f"{name}-{torch.distributed.get_rank()}.safetensors")
