"""How a model is pretrained: its objective, its schedule, its size, and how flat its minimum is."""

from tokenry.pretraining.documents import split_documents
from tokenry.pretraining.long_summaries import attach_decoder, summarise
from tokenry.pretraining.longformer import extend_positions, longformer_config
from tokenry.pretraining.masking import (
    MaskedBatch,
    mask_tokens,
    rtd_labels,
    rtd_loss,
    sample_replacements,
)
from tokenry.pretraining.released_optimizer import ElectraAdamW, official_lr
from tokenry.pretraining.replaced_token_trainer import ReplacedTokenTrainer
from tokenry.pretraining.replaced_tokens import (
    ReplacedTokenConfig,
    ReplacedTokenOutput,
    ReplacedTokenPretrainer,
)
from tokenry.pretraining.shared_embeddings import generator_config
from tokenry.pretraining.sliding_window import SlidingWindow, sliding_window_attention, sliding_window_mask

__all__ = [
    "ElectraAdamW",
    "MaskedBatch",
    "ReplacedTokenConfig",
    "ReplacedTokenOutput",
    "ReplacedTokenPretrainer",
    "ReplacedTokenTrainer",
    "SlidingWindow",
    "attach_decoder",
    "extend_positions",
    "generator_config",
    "longformer_config",
    "mask_tokens",
    "official_lr",
    "rtd_labels",
    "rtd_loss",
    "sample_replacements",
    "sliding_window_attention",
    "sliding_window_mask",
    "split_documents",
    "summarise",
]
