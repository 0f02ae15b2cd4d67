"""A perceptual term for post-training a decoder: how unlike images are to an image encoder."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate

from tokenry.models.image_encoders import load_image_encoder

Pixels = Float[Tensor, "batch channels height width"]


class EncoderDistance(nn.Module):
    """One minus the cosine of the tokens of two images, averaged; it has a gradient.

    Args:
        name: the encoder, a folder or hub name.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        encoder = load_image_encoder(name, "float32")
        self.model = encoder.model
        processor: Any = encoder.processor
        config = getattr(self.model.config, "vision_config", self.model.config)
        size = config.image_size
        self.mean: Tensor
        self.std: Tensor
        self._size = (size, size) if isinstance(size, int) else tuple(size)
        for kind, default in (("mean", 0.5), ("std", 0.5)):
            values = getattr(processor, f"image_{kind}", None) or [default] * 3
            self.register_buffer(kind, torch.tensor(values)[:, None, None])

    def forward(self, made: Pixels, real: Pixels) -> Float[Tensor, ""]:
        """The distance."""
        return 1 - cosine_similarity(self._tokens(made), self._tokens(real), dim=-1).mean()

    def _tokens(self, images: Pixels) -> Float[Tensor, "batch tokens dim"]:
        resized = interpolate(images, size=self._size, mode="bilinear", antialias=True)
        normalised = ((resized + 1) / 2 - self.mean) / self.std
        return self.model(normalised, output_hidden_states=True).hidden_states[-1]
