"""Perturbed codes: wrong tokens of the kind that a generator makes, for training a tokenizer and for judging it.

    latents  a token of a perturbed image becomes, if u ≤ rate, the code of rank r ~ U{0 … strength − 1} by distance to the encoder's z
    tokens   a token becomes, if u ≤ rate, the code of rank r by distance to its own code          (only tokens are known: pFID)
    ratio    1 until epoch `start`, then linear to `end_ratio` at epoch `end`:  rate = ratio · rate,  strength = ⌊ratio · strength⌋

Rank 0 is the token itself, so rate · (1 − 1 / strength) of the tokens change. With rate 0, proportion 0 or strength 1 nothing does, to
the bit. Only tokens that do change are sorted, and of the distances that the quantiser has computed already.

Source: Image Tokenizer Needs Post-Training (RobusTok), arXiv 2509.12474, section 3; pFID: Robust Latent Matters, arXiv 2503.08354.
"""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn.functional import embedding

from tokenry.core.errors import UserError, require_at_least, require_fraction
from tokenry.generation.image_tokenizer.vector_quantizer import (
    QuantizeOutput,
    VectorQuantizer,
    require_codes,
    squared_distances,
)

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class LatentPerturbation:
    """How much is perturbed during training.

    Attributes:
        rate: share of the tokens of a perturbed image, alpha.
        proportion: share of the images, beta: the first ones of a batch, which is shuffled.
        strength: number of the nearest codes that are drawn from, delta.
    """

    rate: float | int = 1.0
    proportion: float | int = 0.1
    strength: int = 100

    def __post_init__(self) -> None:
        require_fraction(self.rate, "rate")
        require_fraction(self.proportion, "proportion")
        require_at_least(1, strength=self.strength)


@dataclass(frozen=True)
class PerturbationSchedule:
    """Anneals a perturbation over the epochs of a training.

    Attributes:
        perturbation: what it starts with.
        start: last epoch of the full perturbation.
        end: first epoch of the least.
        end_ratio: what is left at the end.
    """

    perturbation: LatentPerturbation = field(default_factory=LatentPerturbation)
    start: int = 40
    end: int = 120
    end_ratio: float | int = 0.5

    def __post_init__(self) -> None:
        require_fraction(self.end_ratio, "end_ratio")
        require_at_least(0, start=self.start)
        require_at_least(self.start, end=self.end)

    def ratio(self, epoch: float | int) -> float:
        """What is left of rate and strength."""
        if epoch < self.start:
            return 1.0
        if epoch >= self.end:
            return self.end_ratio
        return 1 - (epoch - self.start) / (self.end - self.start) * (1 - self.end_ratio)

    def __call__(self, epoch: float | int) -> LatentPerturbation:
        """The perturbation of an epoch; a strength is 1 at least."""
        ratio, full = self.ratio(epoch), self.perturbation
        return replace(full, rate=ratio * full.rate, strength=max(1, int(ratio * full.strength)))


def perturb_latents(
    output: QuantizeOutput,
    quantizer: VectorQuantizer,
    perturbation: LatentPerturbation,
    generator: Generator | None = None,
    u: Float[Tensor, "batch height width"] | None = None,
    rank: Int[Tensor, "batch height width"] | None = None,
) -> tuple[Float[Tensor, "batch dim height width"], Int[Tensor, "batch height width"]]:
    """Replace tokens of the first images of a batch.

    Args:
        perturbation: how much.
        generator: of the random numbers, on the CPU.
        u: uniform numbers in the place of drawn ones.
        rank: ranks in the place of drawn ones.

    Returns:
        Quantised latents, with the gradient of the latents, and the numbers of their codes.

    Raises:
        UserError: more neighbours than there are codes.
    """
    codes = output.distances.shape[1]
    _require_strength(perturbation.strength, codes)
    images = int(len(output.indices) * perturbation.proportion)
    shape = (images, *output.indices.shape[1:])
    chosen, ranks = _draw(
        shape, perturbation.rate, perturbation.strength, generator, u, rank, output.indices.device
    )
    rows = chosen.flatten().nonzero()[:, 0]
    if not len(rows):
        return output.quantized, output.indices
    wanted = ranks.flatten()[rows, None]
    nearest = output.distances[rows].topk(perturbation.strength, largest=False).indices
    indices = output.indices.flatten().index_copy(0, rows, nearest.gather(1, wanted)[:, 0])
    indices = indices.view_as(output.indices)
    changed, latents = embedding(indices[:images], quantizer.codebook).movedim(-1, 1), output.latents[:images]
    perturbed = latents + (changed - latents).detach()
    return torch.cat([perturbed, output.quantized[images:]]), indices


def neighbour_table(codebook: Float[Tensor, "codes dim"], strength: int) -> Int[Tensor, "codes strength"]:
    """The nearest codes of every code, itself first and those equally far by their number, in blocks of rows.

    Raises:
        UserError: more neighbours than there are codes.
    """
    _require_strength(strength, len(codebook))
    found = []
    for start in range(0, len(codebook), _ROWS_AT_ONCE):
        block = codebook[start : start + _ROWS_AT_ONCE]
        distances = squared_distances(block, codebook)
        # A code is its own neighbour of rank 0, also where rounding or a twin would put another before it.
        distances[torch.arange(len(block)), torch.arange(start, start + len(block))] = -torch.inf
        nearest = distances.topk(strength, largest=False).indices.sort(dim=1).values
        order = distances.gather(1, nearest).argsort(dim=1, stable=True)
        found.append(nearest.gather(1, order))
    return torch.cat(found)


def perturb_tokens(
    indices: Int[Tensor, "*shape"],
    neighbours: Int[Tensor, "codes strength"],
    rate: float | int,
    generator: Generator | None = None,
    u: Float[Tensor, "*shape"] | None = None,
    rank: Int[Tensor, "*shape"] | None = None,
) -> Int[Tensor, "*shape"]:
    """Replace tokens by neighbours of their codes.

    Args:
        indices: tokens.
        neighbours: of each code, the nearest first; as many columns as are drawn from.
        rate: share of the tokens.
        generator: of the random numbers, on the CPU.
        u: uniform numbers in the place of drawn ones.
        rank: ranks in the place of drawn ones.

    Raises:
        UserError: a rate outside [0, 1], or a token of no code.
    """
    require_fraction(rate, "rate")
    require_codes(indices, len(neighbours))
    chosen, ranks = _draw(indices.shape, rate, neighbours.shape[1], generator, u, rank, indices.device)
    return torch.where(chosen, neighbours[indices, ranks], indices)


def _draw(
    shape: tuple[int, ...],
    rate: float | int,
    strength: int,
    generator: Generator | None,
    u: Tensor | None,
    rank: Tensor | None,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Which tokens change, and their ranks; numbers that are given for more images than change are those of the first."""
    u = torch.rand(shape, generator=generator).to(device) if u is None else u[: shape[0]]
    if rank is None:
        rank = torch.randint(strength, shape, generator=generator).to(device)
    rank = rank[: shape[0]]
    # A uniform number can be 0 itself, and a rate of 0 changes nothing.
    return (u <= rate) & (rank > 0) & (rate > 0), rank


def _require_strength(strength: int, codes: int) -> None:
    if not 1 <= strength <= codes:
        raise UserError(f"strength must be from 1 to the {codes} codes of the codebook, got {strength}.")
