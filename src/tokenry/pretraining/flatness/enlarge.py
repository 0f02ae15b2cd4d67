"""A small transformer as a point in the space of a larger one: wider by a whole number, with the same function.

    embedding      tiled along its features                        output    tiled along its input, divided by `times`
    norm, bias     tiled                                           matrix    tiled along both, divided by `times`

Every hidden state is then `times` copies of the small one and every head is there `times` times, so that logits are the same and traces are
of one space. Embeddings and output are untied: only one of them is divided.

Source: Same Pre-training Loss, Better Downstream (arXiv 2210.14199). The released script divides the embeddings too, which only a norm
behind them forgives.
"""

import copy
import re
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PretrainedConfig

from tokenry.core.errors import UserError, require_at_least, require_one_of

Config = TypeVar("Config", bound=PretrainedConfig)

ROLES = ("embedding", "vector", "matrix", "output", "fixed")

# What a model computes at once, by name of its module: three maps of attention, two of a gated layer, and the axis of their outputs, which
# is the last one in a Conv1D. Others have none.
_FUSED: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "bert": {},
    "roberta": {},
    "electra": {},
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "opt": {},
    "gpt2": {"c_attn": (3, -1)},
    "modernbert": {"Wqkv": (3, 0), "Wi": (2, 0)},
}
_WIDTHS = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "embedding_size"),
    *("n_embd", "n_head", "n_inner", "ffn_dim", "word_embed_proj_dim"),
)
_EMBEDDING = re.compile(r"(embeddings?|embed_tokens|embed_positions|wte|wpe)\.weight$")
_OUTPUT = re.compile(r"(lm_head|decoder|generator_lm_head)\.weight$")
_OUTPUT_BIAS = re.compile(r"(lm_head|predictions|decoder|generator_lm_head)\.bias$")


def enlarge_transformer(
    state_dict: Mapping[str, Tensor], config: Config, times: int
) -> tuple[dict[str, Tensor], Config]:
    """The weights and the configuration of a transformer that is `times` as wide and computes the same.

        large, config = enlarge_transformer(small.state_dict(), small.config, 2)
        model = type(small)(config)
        model.load_state_dict(large)

    Args:
        state_dict: of the small model; left as it is.
        config: of the small model; left as it is.
        times: how many copies of each hidden state.

    Raises:
        UserError: an architecture whose weights are not known by name, or tied embeddings without an output in the state dict.
    """
    require_at_least(1, times=times)
    require_one_of(config.model_type, [*_FUSED], "the model type")
    outputs = [name for name in state_dict if _OUTPUT.search(name)]
    if not outputs and getattr(config, "tie_word_embeddings", False):
        raise UserError(
            "the state dict lacks the output that is tied to the embeddings: give model.state_dict() of the whole model."
        )
    fused = _FUSED[config.model_type]
    large = {}
    for name, weight in state_dict.items():
        blocks, axis = next((found for module, found in fused.items() if f"{module}." in name), (1, 0))
        parts = weight.chunk(blocks, axis)
        large[name] = torch.cat([enlarged(part, role_of(name, part), times) for part in parts], axis)
    wider = copy.deepcopy(config)
    for field in _WIDTHS:
        width = getattr(config, field, None)
        if isinstance(width, int):
            setattr(wider, field, width * times)
    wider.tie_word_embeddings = False
    return large, wider


def role_of(name: str, weight: Tensor) -> str:
    """What a weight is in its transformer, by its name: one of `ROLES`."""
    if not weight.is_floating_point() or _OUTPUT_BIAS.search(name):
        return "fixed"
    if weight.ndim == 1:
        return "vector"
    if _OUTPUT.search(name):
        return "output"
    return "embedding" if _EMBEDDING.search(name) else "matrix"


def enlarged(weight: Tensor, role: str, times: int) -> Tensor:
    """The weight in the model that is `times` as wide.

    Raises:
        UserError: an unknown role.
    """
    require_one_of(role, ROLES, "role")
    if role == "fixed":
        return weight.clone()
    if role == "vector":
        return weight.repeat(times)
    if role == "matrix":
        return weight.repeat(times, times) / times
    tiled = weight.repeat(1, times)
    return tiled / times if role == "output" else tiled
