"""The fate of the patches of a few images, ready to be drawn."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from tokenry.compression.apply import TokenReduction
from tokenry.models.image_encoders import ImageEncoder
from tokenry.verbs.compress._vision.records import Panel, Picture

Reduce = Callable[[], AbstractContextManager[TokenReduction]]
"""Patches the model while it is entered, and yields the reduction."""


def follow_patches(
    encoder: ImageEncoder,
    pixels: Float[Tensor, "batch 3 height width"],
    titles: Sequence[str],
    reductions: Mapping[str, Reduce],
    every_layer: bool,
) -> list[Picture]:
    """Follow the patches of images through the layers.

    Args:
        pixels: the images, as the model takes them.
        reductions: by name of the setting; each patches the model while it is entered.
        every_layer: follow them after each layer that changed the tokens, not only after the last.

    Returns:
        A picture per image; none at all where the tokens of the model are not a grid of patches.
    """
    height, width = _patch_size(encoder)
    rows, columns = pixels.shape[2] // height, pixels.shape[3] // width
    panels: list[list[Panel]] = [[] for _ in titles]
    for setting, reduce in reductions.items():
        with reduce() as reduction, torch.no_grad():
            encoder(pixels)
            if reduction.token_counts[0] - encoder.encoder.special_tokens != rows * columns:
                return []
            followed = _followed(reduction, every_layer, len(titles), encoder.encoder.special_tokens)
        for layer, places in followed.items():
            for image, row in zip(panels, places.tolist(), strict=True):
                image.append(Panel(setting=setting, layer=layer, places=row))
    seen = encoder.visible(pixels)[:, : rows * height, : columns * width]
    return [
        Picture(title=title, image=_jpeg(image), rows=rows, columns=columns, panels=image_panels)
        for title, image, image_panels in zip(titles, seen, panels, strict=True)
    ]


def _patch_size(encoder: ImageEncoder) -> tuple[int, int]:
    size = encoder.encoder.model.config.patch_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return height, width


def _followed(
    reduction: TokenReduction, every_layer: bool, images: int, special: int
) -> dict[int, Int[Tensor, "batch patches"]]:
    plans = reduction.plans
    if not any(plans):
        standing = torch.arange(reduction.token_counts[0]).expand(images, -1)
        return {len(plans): standing[:, special:]}
    changed = [layer for layer, plan in enumerate(plans, start=1) if plan is not None]
    layers = changed if every_layer else [len(plans)]
    return {layer: reduction.places(layer)[:, special:].cpu() for layer in layers}


def _jpeg(image: UInt8[Tensor, "height width 3"]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, "JPEG", quality=90, subsampling=0)
    return base64.b64encode(buffer.getvalue()).decode()
