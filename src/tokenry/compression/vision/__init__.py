"""Carry fewer visual tokens: inside a vision encoder, and between it and a language model.

`apply_token_reduction` makes any transformers vision encoder carry fewer tokens, by any of the methods; `prune_visual_tokens` does so for
LLaVA, LLaVA-NeXT and Qwen2-VL; `attach_compressor` puts a trainable compressor before the projector; `fit_vlm_scaling` tells how large a
model and how many visual tokens a budget is best spent on.
"""

from tokenry.compression.apply import TokenReduction, apply_token_reduction
from tokenry.compression.flops import LayerCost, encoder_flops, layer_costs
from tokenry.compression.plan import MergePlan
from tokenry.compression.reducer import (
    REDUCERS,
    Attention,
    LayerReducer,
    TokenReducer,
    Tokens,
    make_reducer,
    per_length,
)
from tokenry.compression.vision.compressor import (
    AttachedCompressor,
    attach_compressor,
    load_compressor,
    save_compressor,
)
from tokenry.compression.vision.controls import ClassAttentionDrop, NormDrop, RandomDrop
from tokenry.compression.vision.diffrate import (
    DiffRate,
    Schedule,
    diffrate_merge,
    masked_softmax,
    scale_merged,
    scheduled_flops,
    uniform_schedule,
    vit_flops,
)
from tokenry.compression.vision.diversity import (
    coverage_radius,
    farthest_point_select,
    frame_budget,
    minmax_weight,
    sensitivity_diverse_select,
    token_budget,
    with_newlines,
)
from tokenry.compression.vision.page_rank import aggregate_heads, head_variance, weighted_page_rank
from tokenry.compression.vision.pitome import (
    PiToMe,
    energy_score,
    margin_schedule,
    pitome_matching,
    pitome_text_matching,
    ratio_schedule,
    removed_tokens,
)
from tokenry.compression.vision.published_scaling import grid_search, published_scores
from tokenry.compression.vision.quecc import CompressorConfig, QueCC, TokenPackerCompressor
from tokenry.compression.vision.rate_proxy import RateProxy
from tokenry.compression.vision.rate_search import SearchInterrupted, SearchStep, search_rates
from tokenry.compression.vision.relevance import relevance_correlation
from tokenry.compression.vision.searched_rates import SearchedRates
from tokenry.compression.vision.shares import EncoderShape
from tokenry.compression.vision.tome import (
    ToMe,
    bipartite_soft_matching,
    kth_bipartite_matching,
    parse_r,
)
from tokenry.compression.vision.visual_tokens import VisualTokenPruning, prune_visual_tokens
from tokenry.compression.vision.vlm_scaling import (
    Optimum,
    ScalingFit,
    TaskMixture,
    compute_optimal,
    fit_vlm_scaling,
    inference_flops,
    optimal_tokens_closed_form,
)
from tokenry.compression.vision.zero_tprune import (
    ZeroTPrune,
    ZeroTPruneConfig,
    token_trace,
    zero_tprune_layer,
)
from tokenry.compression.vision.zero_tprune_search import search_config
from tokenry.compression.vision.zero_tprune_stages import (
    best_similarity,
    importance_prune,
    partition_by_importance,
    similarity_prune,
)
from tokenry.compression.vision.zoo_prune import (
    low_rank_projector,
    mlp_sensitivity,
    projector_interaction,
    zeroth_order_sensitivity,
)

__all__ = [
    "REDUCERS",
    "AttachedCompressor",
    "Attention",
    "ClassAttentionDrop",
    "CompressorConfig",
    "DiffRate",
    "EncoderShape",
    "LayerCost",
    "LayerReducer",
    "MergePlan",
    "NormDrop",
    "Optimum",
    "PiToMe",
    "QueCC",
    "RandomDrop",
    "RateProxy",
    "ScalingFit",
    "Schedule",
    "SearchInterrupted",
    "SearchStep",
    "SearchedRates",
    "TaskMixture",
    "ToMe",
    "TokenPackerCompressor",
    "TokenReducer",
    "TokenReduction",
    "Tokens",
    "VisualTokenPruning",
    "ZeroTPrune",
    "ZeroTPruneConfig",
    "aggregate_heads",
    "apply_token_reduction",
    "attach_compressor",
    "best_similarity",
    "bipartite_soft_matching",
    "compute_optimal",
    "coverage_radius",
    "diffrate_merge",
    "encoder_flops",
    "energy_score",
    "farthest_point_select",
    "fit_vlm_scaling",
    "frame_budget",
    "grid_search",
    "head_variance",
    "importance_prune",
    "inference_flops",
    "kth_bipartite_matching",
    "layer_costs",
    "load_compressor",
    "low_rank_projector",
    "make_reducer",
    "margin_schedule",
    "masked_softmax",
    "minmax_weight",
    "mlp_sensitivity",
    "optimal_tokens_closed_form",
    "parse_r",
    "partition_by_importance",
    "per_length",
    "pitome_matching",
    "pitome_text_matching",
    "projector_interaction",
    "prune_visual_tokens",
    "published_scores",
    "ratio_schedule",
    "relevance_correlation",
    "removed_tokens",
    "save_compressor",
    "scale_merged",
    "scheduled_flops",
    "search_config",
    "search_rates",
    "sensitivity_diverse_select",
    "similarity_prune",
    "token_budget",
    "token_trace",
    "uniform_schedule",
    "vit_flops",
    "weighted_page_rank",
    "with_newlines",
    "zero_tprune_layer",
    "zeroth_order_sensitivity",
]
