"""How a model is pretrained: its objective, its schedule, its size, and how flat its minimum is."""

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

__all__ = [
    "ElectraAdamW",
    "MaskedBatch",
    "ReplacedTokenConfig",
    "ReplacedTokenOutput",
    "ReplacedTokenPretrainer",
    "ReplacedTokenTrainer",
    "generator_config",
    "mask_tokens",
    "official_lr",
    "rtd_labels",
    "rtd_loss",
    "sample_replacements",
]
