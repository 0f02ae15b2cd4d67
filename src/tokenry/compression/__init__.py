"""Carry fewer tokens: through a vision transformer, into a vision-language model, in a text.

The parts that all reductions share stand here: the plan of what becomes of each token, the interface of a method to an encoder,
`apply_token_reduction`, and the account of multiply-adds.
"""

from tokenry.compression.apply import TokenReduction, apply_token_reduction
from tokenry.compression.flops import LayerCost, encoder_flops, layer_costs
from tokenry.compression.plan import MergePlan
from tokenry.compression.reducer import Attention, LayerReducer, TokenReducer, Tokens, per_length

__all__ = [
    "Attention",
    "LayerCost",
    "LayerReducer",
    "MergePlan",
    "TokenReducer",
    "TokenReduction",
    "Tokens",
    "apply_token_reduction",
    "encoder_flops",
    "layer_costs",
    "per_length",
]
