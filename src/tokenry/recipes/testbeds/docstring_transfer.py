"""A model that gets a tokenizer it has never seen: a small one trained here on docstrings, and TinyLlama with GPT-2's."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.io.progress import Progress, named, part
from tokenry.core.text.docstrings import read_docstrings
from tokenry.core.text.passages import passages
from tokenry.models import load_model, load_tokenizer, preferred_device
from tokenry.recipes.testbeds.docstring_model import bpe_tokenizer, small_model, train_language_model
from tokenry.tokenization.transfer.zett.settings import DrawingConfig, HyperNetworkTrainingConfig


@dataclass(frozen=True)
class TokenizerTransfer:
    """A model with its old and its new tokenizer, and texts.

    Attributes:
        model: the frozen model.
        variant: a copy of the model, fine-tuned on other texts.
        old: tokenizer of both models.
        new: tokenizer that replaces it.
        texts: texts on which the hypernetwork is trained.
        held_out: held-out texts of the same kind.
        held_out_of_variant: held-out texts of the kind that the variant was fine-tuned on.
        training: training of the plain form; the residual form skips its warm-up stage.
        hypernetwork: settings of the size of the hypernetwork.
        window: number of tokens of context in which texts are measured.
        name: description of model, tokenizers and texts.
    """

    model: PreTrainedModel
    variant: PreTrainedModel
    old: PreTrainedTokenizerBase
    new: PreTrainedTokenizerBase
    texts: Sequence[str]
    held_out: Sequence[str]
    held_out_of_variant: Sequence[str]
    training: HyperNetworkTrainingConfig
    hypernetwork: Mapping[str, int]
    window: int
    name: str


def docstring_transfer(progress: Progress) -> TokenizerTransfer:
    """A model trained from scratch, and a copy fine-tuned on other texts."""
    progress("reading docstrings", 0.0)
    (train, held_out), (others, others_held_out) = (_lower_cased(package) for package in ("sklearn", "scipy"))
    old, new = bpe_tokenizer(train, 420), bpe_tokenizer(train, 1400)
    model = small_model(len(old))
    train_language_model(
        model,
        old,
        train,
        670,
        progress=named(part(progress, 0.02, 0.8), "training the language model"),
    )
    variant = copy.deepcopy(model)
    train_language_model(
        variant,
        old,
        others,
        150,
        1e-3,
        seed=1,
        progress=named(part(progress, 0.8, 1.0), "fine-tuning it"),
    )
    drawing = DrawingConfig(
        batch_size=24,
        block_size=64,
        vocabulary_size=1300,
        vocabulary_std=200.0,
        least_vocabulary=1000,
        most_vocabulary=1600,
        most_noise=0.01,
        pool=384,
    )
    return TokenizerTransfer(
        model,
        variant,
        old,
        new,
        passages(train, 260),
        held_out,
        others_held_out,
        HyperNetworkTrainingConfig(
            steps=300,
            identity_steps=150,
            warmup_steps=160,
            identity_learning_rate=2e-3,
            learning_rate=1e-3,
            drawing=drawing,
        ),
        {"layers": 2, "hidden_size": 96, "heads": 4},
        64,
        "Llama, 3 layers, width 64, BPE 420 → 1,400, docstrings of scikit-learn",
    )


def _lower_cased(package: str, texts: int = 32, length: int = 1000) -> tuple[list[str], list[str]]:
    """Docstrings for training, and the beginnings of some held-out ones."""
    found = read_docstrings((package,), held_out_share=0.1)
    return [text.lower() for text in found.train], [text.lower()[:length] for text in found.held_out[:texts]]


def tinyllama_transfer(progress: Progress) -> TokenizerTransfer:
    """TinyLlama with GPT-2's tokenizer on a GPU, and the paper's training."""
    base, chat = "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    progress("loading", 0.0)
    model, variant = (load_model(name, "bfloat16").to(preferred_device()).eval() for name in (base, chat))
    found = read_docstrings(("sklearn", "scipy", "numpy", "torch", "transformers"), 0.02)
    held_out = [text[:2000] for text in found.held_out[:100]]
    return TokenizerTransfer(
        model,
        variant,
        load_tokenizer(base),
        load_tokenizer("openai-community/gpt2"),
        passages(found.train, 500),
        held_out,
        held_out,
        HyperNetworkTrainingConfig(bfloat16=True),
        {},
        512,
        f"{base} and {chat}, GPT-2's tokenizer, docstrings",
    )
