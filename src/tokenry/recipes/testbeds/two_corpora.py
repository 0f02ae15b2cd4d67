"""A language model with the text it was pretrained on and another one to go on with: small ones made here, and Pythia with SlimPajama."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import datasets
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.io.progress import Progress
from tokenry.core.text.docstrings import read_docstrings
from tokenry.models import load_model, load_tokenizer, preferred_device
from tokenry.pretraining import ContinualConfig, TokenBlocks, packed_blocks
from tokenry.recipes.testbeds.docstring_model import bpe_tokenizer, small_model


@dataclass(frozen=True)
class TwoCorpora:
    """What a continued pretraining starts from, and its size.

    Attributes:
        fresh: makes the untrained model of a seed.
        pretrained: makes the pretrained model; None where each seed pretrains its own.
        old: text of the pretraining.
        new: text to go on with.
        seeds: random seeds of models and of the order of the text.
        max_lr: highest learning rate of the pretraining, and of the reference among the schedules.
        config: all else of the training.
        name: description of model and texts.
    """

    fresh: Callable[[int], PreTrainedModel]
    pretrained: Callable[[], PreTrainedModel] | None
    old: TokenBlocks
    new: TokenBlocks
    seeds: Sequence[int]
    base_steps: int
    steps: int
    max_lr: float
    config: ContinualConfig = field(default_factory=ContinualConfig)
    name: str = ""


def two_packages(progress: Progress, seeds: Sequence[int] = (0, 1)) -> TwoCorpora:
    """Docstrings of scikit-learn, then of sympy, in lower case, and a model of three layers."""
    progress("reading docstrings", 0.0)
    texts = [read_docstrings((package,), held_out_share=0.1) for package in ("sklearn", "sympy")]
    tokenizer = bpe_tokenizer([text.lower() for text in texts[0].train], 420)
    old, new = (
        TokenBlocks(_blocks(found.train, tokenizer, 64), _some(_blocks(found.held_out, tokenizer, 64), 192))
        for found in texts
    )
    return TwoCorpora(
        lambda seed: small_model(len(tokenizer), seed=seed),
        None,
        old,
        new,
        seeds,
        base_steps=700,
        steps=200,
        max_lr=1.5e-3,
        config=ContinualConfig(batch_size=16, evaluate_every=50),
        name="Llama, 3 layers, width 64, BPE 420, docstrings of scikit-learn, then of sympy",
    )


def pythia(progress: Progress, tokens: int = 2**28) -> TwoCorpora:
    """Pythia-410M, the Pile, and SlimPajama on a GPU; a thousandth of the paper's tokens, for each of its schedules."""
    name, length, config = (
        "EleutherAI/pythia-410m",
        2048,
        ContinualConfig(batch_size=16, batches_per_step=4, bfloat16=True),
    )
    progress("reading the Pile and SlimPajama", 0.0)
    tokenizer, device = load_tokenizer(name), preferred_device()
    old, new = (
        _streamed(source, tokenizer, length, tokens)
        for source in ("monology/pile-uncopyrighted", "cerebras/SlimPajama-627B")
    )

    def fresh(seed: int) -> PreTrainedModel:
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(load_model(name).config).to(device)

    return TwoCorpora(
        fresh,
        lambda: load_model(name, "float32").to(device),
        old,
        new,
        (0,),
        base_steps=0,
        steps=len(new.train) // (config.batch_size * config.batches_per_step),
        max_lr=3e-4,
        config=config,
        name=f"{name}, the Pile, then SlimPajama, {tokens:,} tokens of each",
    )


def _streamed(source: str, tokenizer: PreTrainedTokenizerBase, length: int, tokens: int) -> TokenBlocks:
    """The beginning of a data set on the hub; its validation split, too, holds no text of the other."""

    def read(split: str, blocks: int) -> Int[Tensor, "blocks length"]:
        rows = datasets.load_dataset(source, split=split, streaming=True)
        texts = (row["text"] for row in islice(rows, blocks * length // 512))
        return packed_blocks(
            (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts), length, tokenizer
        )[:blocks]

    return TokenBlocks(read("train", tokens // length), read("validation", 256))


def _blocks(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int
) -> Int[Tensor, "blocks length"]:
    lowered = [text.lower() for text in texts]
    return packed_blocks(tokenizer(lowered, add_special_tokens=False)["input_ids"], length, tokenizer)


def _some(blocks: Int[Tensor, "blocks length"], number: int) -> Int[Tensor, "some length"]:
    """So many blocks, from the whole of the text."""
    return blocks[torch.linspace(0, len(blocks) - 1, min(number, len(blocks))).long()]
