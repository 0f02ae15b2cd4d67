"""pFID: the Fréchet distance of reconstructions from perturbed codes, which tells better than rFID how a tokenizer will generate.

    cell (alpha, delta)   tokens of every image become, at rate alpha, one of the delta codes nearest to their own; decoded; features
    pFID                  mean over the cells of the Fréchet distance to the features of the originals            rFID: at alpha = 0

The authors' grid was never published. Ours is alpha 0.5, 0.7, 0.9 × delta 1, 3, 5 % of the codebook, and it is written with every figure.
Images are encoded once, and neighbours of codes are searched once: a cell costs its decodes and its features. All cells perturb with
the same random numbers per image, and an interval draws an image with all its reconstructions.

Sources: Robust Latent Matters, arXiv 2503.08354; RobusTok, arXiv 2509.12474. Its code for pFID was not released.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.core.errors import UserError, require_at_least, require_fraction
from tokenry.core.io.progress import Progress
from tokenry.core.stats import Estimate, FrechetDistance, FrechetStats, frechet_draws
from tokenry.core.stats.frechet import around, feature_rows
from tokenry.core.train.numbered import step_generator
from tokenry.generation.image_tokenizer.drawn_pairs import ImagesByNumber
from tokenry.generation.image_tokenizer.perturbation import neighbour_table, perturb_tokens
from tokenry.generation.image_tokenizer.vq_tokenizers import Codes, Samples, VQTokenizer

Features = Callable[[Samples], Float[Tensor, "batch features"]]
"""One vector for each sample: the features of any network."""


@dataclass(frozen=True)
class PerturbationGrid:
    """The cells of a pFID: every rate with every strength.

    Attributes:
        rates: shares of the tokens.
        strengths: numbers of neighbours as shares of the codebook, each at least one.
    """

    rates: tuple[float, ...] = (0.5, 0.7, 0.9)
    strengths: tuple[float, ...] = (0.01, 0.03, 0.05)

    def __post_init__(self) -> None:
        if not (self.rates and self.strengths):
            raise UserError("a grid needs at least one rate and one strength.")
        for rate in self.rates:
            require_fraction(rate, "rates")
        for strength in self.strengths:
            if not 0 < strength <= 1:
                raise UserError(f"strengths must be in (0, 1], shares of the codebook, got {strength}.")

    def cells(self, codes: int) -> list[tuple[float, int]]:
        """Rate and number of neighbours of each cell, for a codebook of that size."""
        counts = [max(1, round(share * codes)) for share in self.strengths]
        return [(rate, count) for rate in self.rates for count in dict.fromkeys(counts)]

    def __str__(self) -> str:
        rates = ", ".join(f"{rate:g}" for rate in self.rates)
        return f"alpha {rates} × delta {', '.join(f'{100 * share:g}' for share in self.strengths)} % of the codebook"


@dataclass(frozen=True)
class PFIDCell:
    """One cell of the grid.

    Attributes:
        rate: share of the tokens that may change.
        strength: number of codes drawn from.
        distance: of the reconstructions to the originals.
    """

    rate: float
    strength: int
    distance: Estimate


@dataclass(frozen=True)
class PFID:
    """The figures of a tokenizer.

    Attributes:
        cells: one distance for each cell.
        mean: pFID.
        rfid: distance of the reconstructions of the codes as they are.
        grid: the cells in words.
        drawn: pFID of each resample; tokenizers that are measured on the same images with the same seed share their resamples.
    """

    cells: tuple[PFIDCell, ...]
    mean: FrechetDistance
    rfid: FrechetDistance
    grid: str
    drawn: Float[np.ndarray, "draws"] = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"pFID {self.mean} ({self.grid}), rFID {self.rfid.estimate.with_interval()}"

    def minus(self, other: "PFID") -> Estimate:
        """The difference of two pFIDs with its interval: an image is drawn for both.

        Raises:
            UserError: they were measured under other conditions, on another grid or with other resamples.
        """
        value = self.mean - other.mean
        if self.grid != other.grid or len(self.drawn) != len(other.drawn):
            raise UserError(
                f"pFIDs compare on one grid and the same resamples, got {self.grid} with {len(self.drawn)} and {other.grid} with "
                f"{len(other.drawn)}."
            )
        return around(value, self.drawn - other.drawn, self.mean.samples)


@dataclass(frozen=True)
class PFIDConfig:
    """How pFID is measured.

    Attributes:
        grid: the cells.
        draws: resamples of the interval; without any, features are streamed and none is kept.
        seed: random seed of the perturbation and of the resamples.
    """

    grid: PerturbationGrid = PerturbationGrid()
    batch_size: int = 64
    draws: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(1, batch_size=self.batch_size)
        require_at_least(0, draws=self.draws, seed=self.seed)


@torch.no_grad()
def pfid(
    tokenizer: VQTokenizer,
    images: ImagesByNumber,
    features: Features,
    config: PFIDConfig = PFIDConfig(),
    reference: str = "the images themselves",
    preparation: str = "as given",
    feature_name: str = "a function",
    progress: Progress = lambda what, share: None,
) -> PFID:
    """Measure pFID and rFID of a tokenizer.

    Args:
        tokenizer: of images, or of audio: each level has neighbours of its own.
        images: evaluation images, which are reconstructed and are the reference.
        features: of a batch of samples.
        reference: name of the image set, written with the figures.
        preparation: crop and size of the images, written with the figures.
        feature_name: name of the feature network, written with the figures.
        progress: called before each batch.

    Raises:
        UserError: fewer than two images, or features that are not finite.
    """
    cells = config.grid.cells(min(len(codebook) for codebook in tokenizer.codebooks))
    widest = max(strength for _, strength in cells)
    tables = [neighbour_table(codebook.detach(), widest) for codebook in tokenizer.codebooks]
    kept = [_Kept(config.draws > 0) for _ in range(2 + len(cells))]  # originals, reconstructions, cells
    device = next(tokenizer.decoder.parameters()).device
    for batch, start in enumerate(range(0, len(images), config.batch_size)):
        progress("measuring the tokenizer", start / len(images))
        numbers = list(range(start, min(start + config.batch_size, len(images))))
        real = images[numbers].to(device)
        codes = tokenizer.encode(real)
        kept[0].add(features(real))
        kept[1].add(features(tokenizer.decode(codes)))
        for place, perturbed in enumerate(_perturbed(codes, tables, cells, config.seed, batch), start=2):
            kept[place].add(features(tokenizer.decode(perturbed)))
    distances = [found.stats.distance(kept[0].stats) for found in kept[1:]]
    drawn = np.stack([found.draws(kept[0], config) for found in kept[1:]])

    def told(value: float, draws: Float[np.ndarray, "draws"]) -> FrechetDistance:
        estimate = around(value, draws, len(images))
        return FrechetDistance(estimate, reference, len(images), preparation, feature_name)

    return PFID(
        tuple(
            PFIDCell(rate, strength, around(value, draws, len(images)))
            for (rate, strength), value, draws in zip(cells, distances[1:], drawn[1:], strict=True)
        ),
        mean=told(float(np.mean(distances[1:])), drawn[1:].mean(0)),
        rfid=told(distances[0], drawn[0]),
        grid=str(config.grid),
        drawn=drawn[1:].mean(0),
    )


def _perturbed(
    codes: Codes,
    tables: list[Int[Tensor, "codes strength"]],
    cells: list[tuple[float, int]],
    seed: int,
    batch: int,
) -> list[Codes]:
    """The codes of a batch as each cell perturbs them; all cells draw the same numbers."""
    perturbed = []
    for rate, strength in cells:
        draw = step_generator(seed, batch, "pfid")
        levels = [
            perturb_tokens(codes[:, level], table[:, :strength], rate, draw)
            for level, table in enumerate(tables)
        ]
        perturbed.append(torch.stack(levels, dim=1))
    return perturbed


class _Kept:
    """Statistics of features, and the features themselves where resamples need them."""

    def __init__(self, rows: bool) -> None:
        self.stats, self._rows, self._keeps = FrechetStats(), list[Any](), rows

    def add(self, features: Tensor) -> None:
        self.stats.update(features)
        if self._keeps:
            self._rows.append(feature_rows(features))

    def draws(self, originals: "_Kept", config: PFIDConfig) -> Float[np.ndarray, "draws"]:
        if not self._keeps:
            return np.zeros(0)
        rows, others = np.concatenate(self._rows), np.concatenate(originals._rows)
        return frechet_draws(rows, others, config.draws, config.seed, paired=True)
