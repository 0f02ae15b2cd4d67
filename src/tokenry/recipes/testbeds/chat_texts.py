"""A chat model and the conversations that it was fine-tuned on, for multi-token drafts at the scale of their paper; needs a GPU."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from datasets import load_dataset
from jaxtyping import Int
from torch import Generator, Tensor
from transformers import PreTrainedModel

from tokenry.models import load_model, load_tokenizer, preferred_device


@dataclass(frozen=True)
class ChatTexts:
    """What is drafted for, and from what.

    Attributes:
        model: the base model.
        data: conversations with a column `messages`.
        length: tokens of a text in training.
    """

    model: str = "allenai/Llama-3.1-Tulu-3-8B-SFT"
    data: str = "allenai/tulu-3-sft-mixture"
    length: int = 1024

    def trained(self, seed: int, progress: Callable[[float], None]) -> PreTrainedModel:
        """Load the model; nothing is trained, so the seed and the progress say nothing."""
        return load_model(self.model, torch.bfloat16).to(preferred_device()).eval()

    def texts(self, number: int, length: int, generator: Generator) -> Int[Tensor, "texts tokens"]:
        """The first tokens of conversations that are long enough, in a random order."""
        tokenizer, conversations = load_tokenizer(self.model), load_dataset(self.data, split="train")
        rows: list[list[int]] = []
        for index in torch.randperm(len(conversations), generator=generator).tolist():
            tokens = tokenizer.apply_chat_template(conversations[index]["messages"], return_dict=False)
            if len(tokens) >= length:
                rows.append(tokens[:length])
            if len(rows) == number:
                break
        return torch.tensor(rows)
