"""An untrained GPT-2 of a few thousand weights, which testbeds train from nothing; its weights depend on the seed alone."""

from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def small_gpt2(
    vocabulary: int, width: int, layers: int, positions: int, seed: int, heads: int = 4, **options: Any
) -> GPT2LMHeadModel:
    """Make a GPT-2 without dropout and without a token that begins texts; `options` are further ones of its config."""
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        n_positions=positions,
        initializer_range=width**-0.5,  # the default is for wide models
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **{"bos_token_id": None, "eos_token_id": None, **options},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)
