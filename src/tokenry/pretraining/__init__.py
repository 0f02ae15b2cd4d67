"""How a model is pretrained: its objective, its schedule, its size, and how flat its minimum is."""

from tokenry.pretraining.masking import (
    MaskedBatch,
    mask_tokens,
    rtd_labels,
    rtd_loss,
    sample_replacements,
)
from tokenry.pretraining.replaced_tokens import (
    ReplacedTokenConfig,
    ReplacedTokenOutput,
    ReplacedTokenPretrainer,
)
from tokenry.pretraining.shared_embeddings import generator_config

__all__ = [
    "MaskedBatch",
    "ReplacedTokenConfig",
    "ReplacedTokenOutput",
    "ReplacedTokenPretrainer",
    "generator_config",
    "mask_tokens",
    "rtd_labels",
    "rtd_loss",
    "sample_replacements",
]
