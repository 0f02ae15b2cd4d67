"""A language model for docstrings, small enough to be trained from scratch in half a minute.

Lower-cased docstrings, a byte-level BPE of a few hundred tokens, three layers; each window begins with the bos token.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import torch
from tokenizers import processors
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from tokenry.recipes.kit import fit
from tokenry.tokenization.training.byte_level_training import train_bpe

BEGIN = "<s>"


def bpe_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with `<s>` as its bos and eos token."""
    made = train_bpe(texts, vocab_size, special_tokens=[BEGIN])
    made.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, made.token_to_id(BEGIN))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=BEGIN, eos_token=BEGIN)


def small_model(vocabulary: int, tied: bool = True, seed: int = 0) -> LlamaForCausalLM:
    """An untrained model of three layers and width 64."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=tied,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def train_language_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    steps: int,
    learning_rate: float = 3e-3,
    batch_size: int = 32,
    window: int = 64,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Train a causal language model on windows of texts laid end to end; the learning rate rises, then falls along a cosine."""
    ids = tokenizer([*texts], add_special_tokens=False)["input_ids"]
    joined = torch.tensor(list(chain.from_iterable(ids)))
    generator = torch.Generator().manual_seed(seed)
    begin = torch.full((batch_size, 1), tokenizer.bos_token_id)

    def windows() -> Iterator[Tensor]:
        while True:
            starts = torch.randint(len(joined) - window, (batch_size, 1), generator=generator)
            yield torch.cat([begin, joined[starts + torch.arange(window - 1)]], dim=1)

    fit(
        model.train(),
        windows(),
        lambda rows: model(input_ids=rows, labels=rows, use_cache=False).loss,
        steps,
        learning_rate,
        _to_a_tenth,
        betas=(0.9, 0.95),
        clip=1.0,
        progress=progress,
    )
    model.eval()


def _to_a_tenth(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Warm-up over a twentieth of the steps, and a cosine that ends at a tenth of the learning rate."""
    return LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / (0.05 * steps)) * (0.55 + 0.45 * math.cos(math.pi * step / steps)),
    )
