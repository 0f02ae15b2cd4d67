"""What one visual token can carry: an image of four digits, a question about one of them, and a compressor in between.

A 16 x 16 image holds 2 x 2 handwritten digits; the question names a quadrant, the answer is its digit. 16 patches get a fixed random
embedding and go through one encoder layer; a compressor leaves one token; a read-out is given the token and the question, in the
place of a language model. A compressor that does not know the question has to carry four digits, one that does only the one asked for.

Two things decide whether that matters. A linear read-out adds what the token says to what the question says, so it cannot look up one
digit of four by the question, however well the token carries them; one with a hidden layer can. And a token that is wide enough
carries all four.

Training images are made of the digits of three quarters of the data set, test images of the others.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from torch import Generator, Tensor, nn

from tokenry.compression.vision.quecc import CompressorConfig, WindowCompressor
from tokenry.recipes.kit import fit, one_cycle

DIGITS = 10
QUADRANTS = 4
GRID = 4
PATCH = 4


@dataclass(frozen=True)
class QuadrantSetting:
    """Sizes and training of the models.

    Attributes:
        read_out: `linear`, or `mlp` with one hidden layer, which can use the question.
        token_size: width of the token that the read-out gets.
        hidden_size: width of the encoder and of the compressor.
        text_hidden_size: width of the question's embedding.
        steps: steps of AdamW, on fresh images.
        batch_size: images per step.
        learning_rate: peak of a one-cycle schedule.
        held_out: number of test images.
    """

    read_out: Literal["linear", "mlp"] = "mlp"
    token_size: int = 64
    hidden_size: int = 64
    text_hidden_size: int = 16
    steps: int = 1500
    batch_size: int = 64
    learning_rate: float = 3e-3
    held_out: int = 4000


class QuadrantReader(nn.Module):
    """Encoder, compressor to one token, projector and read-out."""

    def __init__(self, kind: type[WindowCompressor], setting: QuadrantSetting) -> None:
        super().__init__()
        width, text = setting.hidden_size, setting.text_hidden_size
        self.register_buffer("patches", torch.randn(PATCH**2, width) / PATCH)
        self.register_buffer("positions", torch.randn(GRID**2, width))
        self.encoder = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.question = nn.Embedding(QUADRANTS, text)
        self.compressor = kind(
            CompressorConfig(
                hidden_size=width,
                text_hidden_size=text,
                grid_size=GRID,
                kernel_size=GRID,
                num_levels=2,
            )
        )
        self.projector = nn.Linear(width, setting.token_size)
        inputs = setting.token_size + text
        hidden = 2 * width
        self.read_out = (
            nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, DIGITS))
            if setting.read_out == "mlp"
            else nn.Linear(inputs, DIGITS)
        )

    def forward(
        self, images: Float[Tensor, "batch side side"], quadrants: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch digits"]:
        """Logits of the digit in the quadrant that is asked for."""
        cells = images.unflatten(1, (GRID, PATCH)).unflatten(3, (GRID, PATCH)).transpose(2, 3)
        embedded = cells.flatten(3).flatten(1, 2) @ self.patches + self.positions
        features = self.encoder(embedded)
        text = self.question(quadrants)[:, None]
        token = self.projector(self.compressor(features, torch.cat([embedded, features], dim=-1), text))
        return self.read_out(torch.cat([token, text], dim=2)[:, 0])


@cache
def _digits(held_out: bool) -> tuple[Float[Tensor, "images 8 8"], Int[Tensor, "images"]]:
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32) / 16
    labels = torch.tensor(data.target, dtype=torch.long)
    ours = (torch.arange(len(labels)) % 4 == 0) == held_out
    return images[ours], labels[ours]


def quadrant_batch(
    size: int, held_out: bool, generator: Generator
) -> tuple[Float[Tensor, "batch side side"], Int[Tensor, "batch"], Int[Tensor, "batch"]]:
    """Draw (images, quadrants asked for, digits there); quadrants are numbered row by row."""
    digits, labels = _digits(held_out)
    chosen = torch.randint(len(labels), (size, QUADRANTS), generator=generator)
    quadrants = torch.randint(QUADRANTS, (size,), generator=generator)
    side = digits.shape[-1]
    # batch, row of quadrants, row in the digit, column of quadrants, column in the digit
    images = digits[chosen].unflatten(1, (2, 2)).transpose(2, 3).reshape(size, 2 * side, 2 * side)
    return images, quadrants, labels[chosen].gather(1, quadrants[:, None])[:, 0]


def train_reader(
    kind: type[WindowCompressor], seed: int, setting: QuadrantSetting | None = None
) -> QuadrantReader:
    """Train one reader from its seed; the images depend on the seed alone, so that compressors can be compared in pairs."""
    setting = setting or QuadrantSetting()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = QuadrantReader(kind, setting)
    generator = Generator().manual_seed(seed)
    fit(
        reader,
        (quadrant_batch(setting.batch_size, False, generator) for _ in range(setting.steps)),
        lambda batch: nn.functional.cross_entropy(reader(*batch[:2]), batch[2]),
        setting.steps,
        setting.learning_rate,
        one_cycle,
        fused=True,
    )
    return reader


@torch.no_grad()
def reading_accuracy(reader: QuadrantReader, seed: int, setting: QuadrantSetting | None = None) -> float:
    """Share of right answers on images of unseen digits, in [0, 1]."""
    setting = setting or QuadrantSetting()
    images, quadrants, digits = quadrant_batch(
        setting.held_out, True, Generator().manual_seed(seed + 1_000_000)
    )
    return float((reader(images, quadrants).argmax(-1) == digits).float().mean())
