"""The shape of an xAR model, and the paper's sizes.

Source: Beyond Next-Token: Next-X Prediction for Autoregressive Visual Generation (arXiv 2502.20388).
"""

from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

from tokenry.core.errors import UserError, require_at_least, require_fraction, require_one_of
from tokenry.generation.xar.partitions import Partition

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 48, "num_encoder_layers": 1, "num_decoder_layers": 2, "num_attention_heads": 4},
    "B": {"hidden_size": 768, "num_encoder_layers": 8, "num_decoder_layers": 8, "num_attention_heads": 12},
    "L": {"hidden_size": 1024, "num_encoder_layers": 16, "num_decoder_layers": 16, "num_attention_heads": 16},
    "H": {"hidden_size": 1280, "num_encoder_layers": 20, "num_decoder_layers": 20, "num_attention_heads": 16},
}
"""The paper's sizes (172.6 M, 608.4 M, 1186 M parameters), and one for small grids."""


class NextXConfig(PretrainedConfig):
    """The shape of a `NextXModel`.

    Args:
        channels: channels of the latents.
        height: rows of the grid.
        width: columns of the grid.
        partitions: what is predicted at once; of several, each training batch draws one, and sampling may take any.
        classes: number of classes; one more, the last, stands for no class.
        hidden_size: width.
        num_encoder_layers: blocks before the projection in the middle.
        num_decoder_layers: blocks behind it.
        num_attention_heads: heads.
        dropout: dropout of attention and behind its and the MLP's projection.
        label_dropout: share of the training images whose class is withheld.
        continuous_time: whether the embedding of the time is not cut to thousandths; released weights need it cut.
        clean_context: whether training shows the clean entities before each noisy one, in 2 N tokens: teacher forcing, the control.
        rope_theta: base of the rotary frequencies.
    """

    model_type = "next_x"

    def __init__(
        self,
        channels: int = 16,
        height: int = 16,
        width: int = 16,
        partitions: Sequence[str] = ("cell:8",),
        classes: int = 1000,
        hidden_size: int = 768,
        num_encoder_layers: int = 8,
        num_decoder_layers: int = 8,
        num_attention_heads: int = 12,
        dropout: float = 0.1,
        label_dropout: float = 0.1,
        continuous_time: bool = False,
        clean_context: bool = False,
        rope_theta: float = 10_000.0,
        **options: Any,
    ) -> None:
        require_at_least(
            1, channels=channels, height=height, width=width, classes=classes, num_attention_heads=num_attention_heads
        )  # fmt: skip
        require_at_least(0, num_encoder_layers=num_encoder_layers, num_decoder_layers=num_decoder_layers)
        require_fraction(label_dropout, "label_dropout")
        require_fraction(dropout, "dropout")
        if hidden_size % (4 * num_attention_heads):
            raise UserError(
                f"hidden_size must be a multiple of 4 · num_attention_heads = {4 * num_attention_heads}: heads are turned by row and by "
                f"column in pairs; got {hidden_size}."
            )
        if not partitions:
            raise UserError("give at least one partition, such as cell:8.")
        for name in partitions:
            Partition.named(name, height, width)
        self.channels, self.height, self.width, self.classes = channels, height, width, classes
        self.partitions = list(partitions)
        self.hidden_size, self.num_attention_heads = hidden_size, num_attention_heads
        self.num_encoder_layers, self.num_decoder_layers = num_encoder_layers, num_decoder_layers
        self.num_hidden_layers = num_encoder_layers + num_decoder_layers
        self.dropout, self.label_dropout = dropout, label_dropout
        self.continuous_time, self.clean_context, self.rope_theta = continuous_time, clean_context, rope_theta
        super().__init__(**options)

    @classmethod
    def of_size(cls, size: str, **options: Any) -> "NextXConfig":
        """The configuration of one of the `SIZES`; options overwrite it."""
        require_one_of(size, tuple(SIZES), "size")
        return cls(**(SIZES[size] | options))
