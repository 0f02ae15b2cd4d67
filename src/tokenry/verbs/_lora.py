"""The adapter that a verb trains: LoRA on every linear map but the output head."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from tokenry.core.errors import UserError

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Lora:
    """The adapter: rank, scaling and where it sits. `first_layer` leaves the layers below as they are."""

    rank: Annotated[int, Field(gt=0)] = 64
    alpha: Annotated[int, Field(gt=0)] = 16
    dropout: Annotated[float | int, Field(ge=0, lt=1)] = 0.1
    first_layer: Annotated[int, Field(ge=0)] = 0


def lora_config(lora: Lora | None, model: "PreTrainedModel") -> "LoraConfig | None":
    """Adapt every linear map but the output head, from the first layer asked for; None trains all weights."""
    import torch
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    if lora is None:
        return None
    layers = model.config.get_text_config().num_hidden_layers
    if lora.first_layer >= layers:
        raise UserError(
            f"lora.first_layer must be below the model's {layers} layers, got {lora.first_layer}."
        )
    head = model.get_output_embeddings()
    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    }
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=sorted(linear),
        layers_to_transform=list(range(lora.first_layer, layers)) if lora.first_layer else None,
        task_type="CAUSAL_LM",
    )
