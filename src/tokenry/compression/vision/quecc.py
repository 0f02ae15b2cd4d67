"""QueCC and TokenPacker: trainable compressors of an image's tokens to a few, each gathered from its own window of the image.

    features  = features + LayerNorm(Linear(text))                      QueCC only: every token knows the question
    query     = depthwise_conv(MLP_q(features))                         QueCC;  TokenPacker: MLP_q(bilinear(features))
    out[cell] = attention(query[cell], MLP_k(multi)[window], MLP_v(multi)[window])

24 x 24 tokens and a kernel and stride of 4, 6, 12 or 24 leave 36, 16, 4 or 1 tokens. No residual around the attention.

Source: QueCC, from Inference Optimal VLMs Need Only One Visual Token but Larger Models (arXiv 2411.03312). TokenPacker (arXiv
2407.02392) is built here as QueCC without text and with interpolation instead of a convolution, so that the question is all that differs.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from tokenry.core.errors import UserError


@dataclass(frozen=True)
class CompressorConfig:
    """The shape of a compressor; the defaults are CLIP ViT-L/14-336 with Vicuna-7B, compressed to one token.

    Attributes:
        hidden_size: width of the vision tower.
        text_hidden_size: width of the question's embedding (QueCC).
        grid_size: tokens along one side of the image, class token not counted.
        kernel_size: kernel of the convolution that makes the queries.
        stride: stride of this convolution; `kernel_size` if None.
        num_levels: number of the tower's layers whose concatenated features are keys and values.
        num_attention_heads: heads of the attention within a window.
        layer_norm_eps: epsilon of every layer norm.

    Raises:
        UserError: the heads do not divide the width, or the windows would not tile the grid.
    """

    hidden_size: int = 1024
    text_hidden_size: int = 4096
    grid_size: int = 24
    kernel_size: int = 24
    stride: int | None = None
    num_levels: int = 4
    num_attention_heads: int = 8
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        sizes = (self.hidden_size, self.text_hidden_size, self.grid_size, self.kernel_size, self.step)
        if min(*sizes, self.num_levels, self.num_attention_heads) < 1:
            raise UserError(f"all sizes of a compressor must be at least 1, got {self}.")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}: "
                "choose a number of heads that divides it."
            )
        if self.kernel_size > self.grid_size:
            raise UserError(
                f"kernel_size {self.kernel_size} is larger than the grid of {self.grid_size}: choose one up to {self.grid_size}."
            )
        ragged = self.kernel_size == self.step and self.grid_size % self.kernel_size
        if ragged or self.grid_size % self.output_size:
            raise UserError(
                f"the windows of kernel_size {self.kernel_size} and stride {self.step} do not tile a grid of {self.grid_size}: "
                f"choose both equal to a divisor of {self.grid_size}."
            )

    @property
    def step(self) -> int:
        """The stride in use."""
        return self.kernel_size if self.stride is None else self.stride

    @property
    def output_size(self) -> int:
        """Tokens along one side after compression."""
        return (self.grid_size - self.kernel_size) // self.step + 1

    @property
    def num_tokens(self) -> int:
        """Tokens of an image after compression."""
        return self.output_size**2


class WindowCompressor(nn.Module):
    """The common part of both compressors: each query attends to its own window of the image.

    The parameters have the names of the released QueCC, so that its weights load as they are.
    """

    def __init__(self, config: CompressorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.q_proj = _mlp(width, config)
        self.k_proj = _mlp(config.num_levels * width, config)
        self.v_proj = _mlp(config.num_levels * width, config)
        self.clip_attn = nn.MultiheadAttention(width, config.num_attention_heads, batch_first=True)

    @property
    def takes_text(self) -> bool:
        """Whether the compressor reads the question."""
        return False

    def queries(
        self,
        features: Float[Tensor, "batch tokens hidden"],
        text: Float[Tensor, "batch 1 text_hidden"] | None,
    ) -> Float[Tensor, "batch kept hidden"]:
        """Make one query per output token, row by row."""
        raise NotImplementedError

    def forward(
        self,
        features: Float[Tensor, "batch tokens hidden"],
        features_multi: Float[Tensor, "batch tokens levels_hidden"],
        text: Float[Tensor, "batch 1 text_hidden"] | None = None,
    ) -> Float[Tensor, "batch kept hidden"]:
        """Compress the tokens of each image to `config.num_tokens`, row by row.

        Args:
            features: features of one layer of the tower, without class token, row by row.
            features_multi: concatenated features of `config.num_levels` layers.
            text: the question's embedding (QueCC).

        Raises:
            UserError: the tokens are not the configured grid, a width does not fit, or the question is missing.
        """
        self._require(features, features_multi)
        query = self.queries(features, text)
        batch, kept, width = query.shape
        keys, values = (
            self._windows(projection(features_multi)) for projection in (self.k_proj, self.v_proj)
        )
        output, _ = self.clip_attn(query.reshape(batch * kept, 1, width), keys, values, need_weights=False)
        return output.reshape(batch, kept, width)

    def _as_grid(
        self, tokens: Float[Tensor, "batch tokens hidden"]
    ) -> Float[Tensor, "batch hidden grid grid"]:
        grid = self.config.grid_size
        return tokens.transpose(1, 2).unflatten(2, (grid, grid))

    def _windows(
        self, tokens: Float[Tensor, "batch tokens hidden"]
    ) -> Float[Tensor, "batch_kept window hidden"]:
        side = self.config.output_size
        window = self.config.grid_size // side
        # batch, row of cells, row in the window, column of cells, column in the window
        cells = tokens.unflatten(1, (side, window, side, window)).transpose(2, 3)
        return cells.reshape(-1, window * window, tokens.shape[-1])

    def _require(self, features: Tensor, features_multi: Tensor) -> None:
        grid, width = self.config.grid_size, self.config.hidden_size
        tokens = features.shape[1]
        if math.isqrt(tokens) ** 2 != tokens:
            raise UserError(
                f"{tokens} visual tokens are not a square grid: drop the class token, and give one image (or tile) per row."
            )
        if tokens != grid**2:
            raise UserError(
                f"{tokens} visual tokens are a grid of {math.isqrt(tokens)}, but the compressor is made for {grid}: "
                f"set grid_size={math.isqrt(tokens)}."
            )
        expected = ((width, "features"), (self.config.num_levels * width, "features_multi"))
        for (size, name), given in zip(expected, (features, features_multi), strict=True):
            if given.shape[-1] != size:
                raise UserError(
                    f"{name} must have the width {size}, got {given.shape[-1]}: "
                    "hidden_size is the tower's width, and num_levels the number of its layers that are read."
                )


class QueCC(WindowCompressor):
    """The query-conditioned compressor: the question decides what the few tokens carry."""

    def __init__(self, config: CompressorConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.q_downsample = nn.Conv2d(width, width, config.kernel_size, config.step, groups=width)
        self.text_projection = nn.Sequential(
            nn.Linear(config.text_hidden_size, width), nn.LayerNorm(width, eps=config.layer_norm_eps)
        )

    @property
    def takes_text(self) -> bool:
        """Whether the compressor reads the question."""
        return True

    def queries(
        self,
        features: Float[Tensor, "batch tokens hidden"],
        text: Float[Tensor, "batch 1 text_hidden"] | None,
    ) -> Float[Tensor, "batch kept hidden"]:
        """Make one query per output token, row by row, from features that know the question."""
        if text is None:
            raise UserError(
                "QueCC needs the embedding of the question (text), got none: give it, or use TokenPackerCompressor."
            )
        known = self.q_proj(features + self.text_projection(text))
        return self.q_downsample(self._as_grid(known)).flatten(2).transpose(1, 2)


class TokenPackerCompressor(WindowCompressor):
    """The query-blind peer: a token carries what its window shows, whatever is asked."""

    def queries(
        self,
        features: Float[Tensor, "batch tokens hidden"],
        text: Float[Tensor, "batch 1 text_hidden"] | None = None,
    ) -> Float[Tensor, "batch kept hidden"]:
        """Make one query per output token, row by row, from the image made smaller; `text` is not read."""
        side = self.config.output_size
        smaller = nn.functional.interpolate(self._as_grid(features), size=(side, side), mode="bilinear")
        return self.q_proj(smaller.flatten(2).transpose(1, 2))


def _mlp(inputs: int, config: CompressorConfig) -> nn.Sequential:
    width = config.hidden_size
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.GELU(),
        nn.Linear(width, width),
        nn.LayerNorm(width, eps=config.layer_norm_eps),
    )
