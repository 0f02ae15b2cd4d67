"""What the verbs on image tokenizers share: images of a folder by number, and features of images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from tokenry.core.errors import UserError
from tokenry.core.io.images import ImageFile, find_images, pick, read_square
from tokenry.verbs.images._pictures import visible

PIXELS = "pixels"
_POOLED = 8

Pixels = Float[Tensor, "batch channels height width"]


@dataclass(frozen=True)
class SquareImages:
    """Images of a folder in [−1, 1], their middle square at one size; each is read when it is asked for.

    Attributes:
        files: the images.
        side: of the square, in pixels.
    """

    files: Sequence[ImageFile]
    side: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, numbers: list[int]) -> Pixels:
        return torch.stack([self._read(self.files[number]) for number in numbers])

    def _read(self, file: ImageFile) -> Float[Tensor, "channels height width"]:
        square = read_square(file.path, self.side)
        return torch.from_numpy(np.asarray(square, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)

    @property
    def preparation(self) -> str:
        """Crop and size in words."""
        return f"middle square, {self.side} × {self.side} px"

    @property
    def classes(self) -> list[str]:
        """The folder of each image, which is its class."""
        return [str(Path(file.name).parent) for file in self.files]

    def only(self, numbers: Sequence[int]) -> "SquareImages":
        """The images with these numbers."""
        return SquareImages([self.files[number] for number in numbers], self.side)


def read_images(folder: Path, side: int, limit: int | None) -> SquareImages:
    """The images of a folder, at most `limit` of them at equal distances.

    Raises:
        UserError: fewer than two images.
    """
    files = pick(find_images(folder), limit)
    if len(files) < 2:
        raise UserError(f"{folder} holds one image: a distance between sets needs at least two.")
    return SquareImages(files, side)


def feature_function(name: str, device: torch.device) -> Callable[[Pixels], Float[Tensor, "batch features"]]:
    """Features of images in [−1, 1]: of an image encoder, or `pixels`, averaged to 8 × 8."""
    if name == PIXELS:
        return lambda pixels: adaptive_avg_pool2d(pixels, _POOLED).flatten(1)
    from tokenry.models.image_encoders import load_image_encoder

    encoder = load_image_encoder(name, "float32")
    encoder.model.to(device)
    return lambda pixels: encoder(encoder.pixels([Image.fromarray(made.numpy()) for made in visible(pixels)]))


def feature_title(name: str) -> str:
    """What the features are called beside a distance."""
    return f"pixels averaged to {_POOLED} × {_POOLED}" if name == PIXELS else name
