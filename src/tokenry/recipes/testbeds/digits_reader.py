"""A vision-language model in miniature: a projector and one layer that read the visual tokens of the digits ViT.

The 36 patch tokens after block 2 (class token removed) go through a two-layer projector (48 → 96 → 96, GELU) and are read by a
learned query in one transformer layer: all that comes after the projector depends on the tokens it is given, so tokens can be left out
of a trained model as in LLaVA. Trained on all tokens only.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import ViTForImageClassification

from tokenry.core.io.progress import Progress, named
from tokenry.recipes.kit import batches_of_epochs, fit, one_cycle

BLOCK = 2
WIDTH = 96


@dataclass(frozen=True)
class ReaderSetting:
    """How the reader is trained: AdamW, one cycle up to the learning rate."""

    images: int = 4200
    epochs: int = 3
    batch_size: int = 64
    learning_rate: float = 3e-3
    seed: int = 0


class DigitsReader(nn.Module):
    """The projector, and a layer in which a query reads however many tokens it is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projector = nn.Sequential(nn.Linear(width, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.query = nn.Parameter(0.02 * torch.randn(WIDTH))
        self.layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 2 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10))

    def read(self, projected: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch classes"]:
        """Classify from projected tokens."""
        query = self.query.expand(len(projected), 1, -1)
        return self.head(self.layer(torch.cat((query, projected), dim=1))[:, 0])

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch classes"]:
        """Classify from visual tokens."""
        return self.read(self.projector(tokens))


@torch.inference_mode()
def visual_tokens(
    model: ViTForImageClassification, images: Float[Tensor, "n 1 height width"]
) -> Float[Tensor, "n tokens dim"]:
    """The patch tokens after block 2."""
    made = [
        model(pixel_values=batch, output_hidden_states=True).hidden_states[BLOCK][:, 1:]
        for batch in images.split(256)
    ]
    return torch.cat(made)


def train_reader(
    tokens: Float[Tensor, "n tokens dim"],
    labels: Int[Tensor, "n"],
    setting: ReaderSetting,
    progress: Progress = lambda what, share: None,
) -> DigitsReader:
    """Train a reader from nothing; it comes back frozen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.seed)
        reader = DigitsReader(tokens.shape[-1])
    per_epoch = len(tokens) // setting.batch_size
    generator = Generator().manual_seed(setting.seed)
    fit(
        reader,
        batches_of_epochs(len(tokens), setting.batch_size, setting.epochs, generator),
        lambda batch: cross_entropy(reader(tokens[batch]), labels[batch]),
        setting.epochs * per_epoch,
        setting.learning_rate,
        one_cycle,
        weight_decay=0.05,
        progress=named(progress, "training the projector and its reader"),
    )
    return reader.eval().requires_grad_(False)
