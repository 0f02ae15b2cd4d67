"""Pictures of generated images, as a page shows them."""

import base64
import io

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad


def visible(pixels: Float[Tensor, "n colours height width"]) -> UInt8[Tensor, "n height width 3"]:
    """Pixels in [−1, 1] as images."""
    shown = ((pixels.float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    return shown.expand(-1, -1, -1, 3)


def montage(images: UInt8[Tensor, "n height width 3"], columns: int) -> UInt8[Tensor, "rows columns 3"]:
    """Images side by side, row by row, with white between them and for what is missing in the last row."""
    rows = -(-len(images) // columns)
    images = pad(images, (0, 0, 0, 1, 0, 1), value=255)
    height, width = images.shape[1:3]
    canvas = torch.full((rows * columns, height, width, 3), 255, dtype=torch.uint8)
    canvas[: len(images)] = images
    return canvas.unflatten(0, (rows, columns)).transpose(1, 2).reshape(rows * height, columns * width, 3)


def enlarged(image: UInt8[Tensor, "height width 3"], side: int) -> Image.Image:
    """An image with square pixels, whose longer side is at least `side`."""
    factor = max(1, -(-side // max(image.shape[:2])))
    made = Image.fromarray(image.numpy())
    return made.resize((made.width * factor, made.height * factor), Image.Resampling.NEAREST)


def encoded(image: Image.Image) -> str:
    """Base64 of a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, subsampling=0)
    return base64.b64encode(buffer.getvalue()).decode()
