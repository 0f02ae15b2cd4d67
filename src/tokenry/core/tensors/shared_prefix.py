"""Keys and values of the tokens that all prompts begin with: read once, then copied into the cache of every batch.

    padding_r tokens of padding before row r:     column c holds the token c - padding_r of the prompt
    cache[r, c] = prefix[c - padding_r]           for the columns c < len(prefix); the mask hides c < padding_r

In a padded row the last tokens of the prefix lie beyond these columns; they are read again with the rest of the row. So rows stay padded on
the left, and positions, windows and what is written are as without a shared prefix.
"""

from collections.abc import Sequence
from itertools import takewhile

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import DynamicCache

from tokenry.core.tensors.output_head import backbone, causal_lm

SHORTEST = 16
"""Tokens below which a prefix is not worth a forward of its own."""
_KEPT_BY_TOKENS = {"full_attention", "sliding_attention", "chunked_attention"}


class SharedPrefix:
    """The beginning of several prompts, read by a model.

    Args:
        model: causal language model whose layers all attend (`keeps_tokens`), in evaluation mode.
        tokens: what the prompts have in common.
    """

    def __init__(self, model: nn.Module, tokens: Sequence[int]) -> None:
        inner = causal_lm(model)
        self.tokens = tokens
        # Without the config: a cache made from it forgets what leaves the window.
        self._cache = DynamicCache()
        ids = torch.tensor([list(tokens)], device=next(inner.parameters()).device)
        backbone(inner)(input_ids=ids, past_key_values=self._cache, use_cache=True)

    def cache(self, padding: Int[Tensor, "batch"]) -> DynamicCache:
        """The cache of a batch up to the length of the prefix.

        Args:
            padding: number of tokens of padding before each row.
        """
        places = torch.arange(len(self.tokens), device=padding.device) - padding[:, None]
        cache = DynamicCache()
        for number, layer in enumerate(self._cache.layers):
            here = places.clamp(min=0).to(layer.keys.device)
            keys, values = (states[0][:, here].transpose(0, 1) for states in (layer.keys, layer.values))
            cache.update(keys, values, number)
        return cache


def shared_prefix(model: nn.Module, prompts: Sequence[Sequence[int]]) -> SharedPrefix | None:
    """Read what several prompts begin with; None where that is hardly anything, or where the model keeps no keys and values by tokens."""
    if len(prompts) < 2 or not keeps_tokens(model):
        return None
    rows = [list(prompt) for prompt in prompts]
    # What the first and the last in the order of the alphabet begin with, all begin with.
    same = takewhile(lambda pair: pair[0] == pair[1], zip(min(rows), max(rows), strict=False))
    # Each prompt has a token of its own left, whose logits begin the answer.
    shared = [token for token, _ in same][: min(map(len, rows)) - 1]
    return SharedPrefix(model, shared) if len(shared) >= SHORTEST else None


def keeps_tokens(model: nn.Module) -> bool:
    """Whether the cache of a model holds keys and values of single tokens, no recurrent states."""
    inner = causal_lm(model)
    if inner.config.is_encoder_decoder:
        return False
    kinds = getattr(inner.config.get_text_config(), "layer_types", None) or ()
    return not getattr(inner, "_is_stateful", False) and _KEPT_BY_TOKENS.issuperset(kinds)
