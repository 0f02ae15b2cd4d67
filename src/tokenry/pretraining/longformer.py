"""BudgetLongformer: a Longformer pretrained from nothing by replaced-token detection, on blocks of long documents.

BudgetLongformer (arXiv 2211.17135); no code was released. Replaced-token detection is `ReplacedTokenPretrainer`, the attention
`SlidingWindow`; here are its sizes, and a position table for longer texts:

    small   12 layers, width 256, 4 heads      29.28 million parameters with 64,000 tokens
    base    12 layers, width 768, 12 heads    158.6 million
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    LongformerConfig,
    LongformerModel,
    PreTrainedTokenizerBase,
)

from tokenry.core.errors import UserError, require_one_of
from tokenry.pretraining.replaced_tokens import ReplacedTokenConfig, ReplacedTokenPretrainer
from tokenry.pretraining.shared_embeddings import generator_config
from tokenry.pretraining.sliding_window import require_window

SIZES: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
    "base": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}
GENERATOR_SHARES = {"small": 1 / 4, "base": 1 / 3}
"""Width of the generator, as a share of the encoder's."""
RESERVED = 2
"""Rows at the beginning of the position table that no token has."""


def longformer_config(
    size: str = "small",
    vocab_size: int = 64_000,
    window: int | Sequence[int] = 256,
    positions: int = 4096,
    **settings: Any,
) -> LongformerConfig:
    """The configuration of a BudgetLongformer.

    Args:
        size: `small` or `base`.
        vocab_size: size of the vocabulary.
        window: tokens that each token sees, half of them on either side; of all layers, or of each.
        positions: maximum number of tokens of a text.
        **settings: any other setting of `LongformerConfig`.
    """
    require_one_of(size, tuple(SIZES), "size")
    layers = settings.get("num_hidden_layers", 12)
    windows = [window] * layers if isinstance(window, int) else list(window)
    for one in windows:
        require_window(one)
    if len(windows) != layers:
        raise UserError(f"window must be one number or {layers}, one for each layer, got {len(windows)}.")
    sizes = {"num_hidden_layers": 12, **SIZES[size], **settings}
    return LongformerConfig(
        vocab_size=vocab_size,
        attention_window=windows,
        max_position_embeddings=positions + RESERVED,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        **sizes,
    )


def longformer_rtd(
    size: str,
    tokenizer: PreTrainedTokenizerBase,
    config: ReplacedTokenConfig = ReplacedTokenConfig(),
    generator_share: float | None = None,
    **settings: Any,
) -> ReplacedTokenPretrainer:
    """A Longformer of random weights and its generator, for replaced-token detection.

    Args:
        size: `small` or `base`.
        tokenizer: of the domain, with a mask token; its tokens are the vocabulary.
        config: replaced-token detection.
        generator_share: width of the generator, as a share of the encoder's; by default a quarter of a small one, a third of a base.
        **settings: as for `longformer_config`.
    """
    encoder = longformer_config(size, len(tokenizer), **settings)
    share = GENERATOR_SHARES[size] if generator_share is None else generator_share
    generator = AutoModelForMaskedLM.from_config(generator_config(encoder, share))
    discriminator = LongformerModel(encoder, add_pooling_layer=False)
    return ReplacedTokenPretrainer(generator, discriminator, tokenizer, config=config)


def extend_positions(
    weight: Float[Tensor, "rows width"], new_length: int, reserved: int = RESERVED
) -> Float[Tensor, "longer width"]:
    """Lengthen a position table to `new_length` rows by repeating the learned ones; the reserved rows stay once at its beginning."""
    if new_length < len(weight):
        raise UserError(
            f"new_length must be at least the {len(weight)} rows that the table has, got {new_length}."
        )
    if not 0 <= reserved < len(weight):
        raise UserError(
            f"reserved must be in [0, {len(weight)}), got {reserved}: the other rows are repeated."
        )
    learned = weight[reserved:]
    times = -(-(new_length - reserved) // len(learned))
    return torch.cat([weight[:reserved], learned.repeat(times, 1)])[:new_length]
