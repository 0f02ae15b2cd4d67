"""Tiny models, one maker per architecture: every setting is a keyword, weights come from a seed, and a model is in evaluation mode.

tiny.llama()                                    # two layers, 64 tokens, 32 channels
tiny.llama(vocab_size=430, seed=1).double()
tiny.vit_classifier(num_labels=3, image_size=24)
"""

from typing import TypeVar

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from tests.tiny.tokenizers import VOCABULARY

Model = TypeVar("Model", bound=PreTrainedModel)

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
PIXELS = {"image_size": 16, "patch_size": 4, "num_channels": 1}


def made(kind: type[Model], config: object, seed: int = 0) -> Model:
    """A model of a configuration, with the weights of a seed, in evaluation mode."""
    torch.manual_seed(seed)
    return kind(config).eval()


def llama(seed: int = 0, **settings: object) -> LlamaForCausalLM:
    default = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
    }
    return made(LlamaForCausalLM, LlamaConfig(**(default | settings)), seed)


def gpt2(kind: type[Model] = GPT2LMHeadModel, seed: int = 0, **settings: object) -> Model:
    default = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 2}
    return made(kind, GPT2Config(**(default | settings)), seed)


def bert(kind: type[Model] = BertModel, seed: int = 0, **settings: object) -> Model:
    return made(kind, BertConfig(**({**SIZES, "vocab_size": VOCABULARY} | settings)), seed)


def t5(seed: int = 0, **settings: object) -> T5ForConditionalGeneration:
    default = {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "initializer_factor": 8.0,
        "decoder_start_token_id": 0,
    }
    return made(T5ForConditionalGeneration, T5Config(**(default | settings)), seed)


def bart(seed: int = 0, **settings: object) -> BartForConditionalGeneration:
    sides = ("encoder", "decoder")
    default = {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "max_position_embeddings": 40,
        "init_std": 0.5,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "forced_eos_token_id": 1,
        "decoder_start_token_id": 2,
        **{f"{side}_layers": 2 for side in sides},
        **{f"{side}_attention_heads": 4 for side in sides},
        **{f"{side}_ffn_dim": 48 for side in sides},
    }
    return made(BartForConditionalGeneration, BartConfig(**(default | settings)), seed)


def vit(seed: int = 0, **settings: object) -> ViTModel:
    return made(ViTModel, ViTConfig(**({**SIZES, **PIXELS} | settings)), seed)


def vit_classifier(seed: int = 0, **settings: object) -> ViTForImageClassification:
    return made(ViTForImageClassification, ViTConfig(**({**SIZES, **PIXELS} | settings)), seed)


def tiny_model(rows: int, tied: bool = True, **settings: object) -> LlamaForCausalLM:
    """A Llama of as many tokens, whose embeddings differ enough for a transfer to be seen."""
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2}
    own = {"num_key_value_heads": 1, "initializer_range": 0.3, "tie_word_embeddings": tied}
    plain = {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}
    return llama(vocab_size=rows, **(sizes | own | plain | settings))
