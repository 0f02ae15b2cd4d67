"""A vector quantiser: every vector of a map becomes the nearest code of a codebook.

    d        = |z|² + |e|² − 2 z · e            with unit z and e where `l2_norm`
    index    = argmin d                          the first on ties
    output   = z + sg(e − z)                     straight through: the gradient of z is that of the output
    loss     = mean (e − sg z)²,  commitment = 0.25 · mean (sg e − z)²

The distances stay with the output, so that latents can be perturbed without a second search.

Sources: van den Oord et al., arXiv 1711.00937; unit codes from arXiv 2110.04627, as in RobusTok, arXiv 2509.12474.
"""

import logging
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from tokenry.core.errors import UserError, require_at_least

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuantizeOutput:
    """Quantised latents, and what they were chosen by.

    Attributes:
        quantized: codes in the place of the latents, with the gradient of the latents.
        indices: number of each code.
        vq_loss: draws codes to latents.
        commitment_loss: draws latents to codes, its weight included.
        latents: the latents that were compared: unit vectors where the quantiser says so.
        distances: squared distance of each latent to each code, in the order batch, row, column; no gradient.
    """

    quantized: Float[Tensor, "batch dim height width"]
    indices: Int[Tensor, "batch height width"]
    vq_loss: Float[Tensor, ""]
    commitment_loss: Float[Tensor, ""]
    latents: Float[Tensor, "batch dim height width"]
    distances: Float[Tensor, "tokens codes"]


class VectorQuantizer(nn.Module):
    """The codebook of a tokenizer.

    Args:
        codes: number of codes, V.
        dim: size of a code, C.
        l2_norm: compare unit vectors.
        commitment: weight of the commitment loss.
    """

    def __init__(
        self, codes: int = 4096, dim: int = 64, l2_norm: bool = True, commitment: float = 0.25
    ) -> None:
        super().__init__()
        require_at_least(1, codes=codes, dim=dim)
        require_at_least(0, commitment=commitment)
        drawn = torch.empty(codes, dim).uniform_(-1 / codes, 1 / codes)
        self.weight = nn.Parameter(normalize(drawn, dim=-1) if l2_norm else drawn)
        self.l2_norm, self.commitment = l2_norm, commitment

    @property
    def codebook(self) -> Float[Tensor, "codes dim"]:
        """The codes as they are compared and put out."""
        return normalize(self.weight, dim=-1) if self.l2_norm else self.weight

    def forward(self, z: Float[Tensor, "batch dim height width"]) -> QuantizeOutput:
        """Quantise the output of an encoder; distances are in float32 at least.

        Raises:
            UserError: the latents have another size than the codes.
        """
        codebook = self.codebook
        if z.shape[1] != codebook.shape[1]:
            raise UserError(
                f"the latents have {z.shape[1]} channels and the codes {codebook.shape[1]}: give latents of the codes' size."
            )
        if self.l2_norm:
            if not z.detach().abs().amax(1).all():
                logger.warning("Some latents are zero and have no direction: they stay zero.")
            z = normalize(z, dim=1)
        distances = squared_distances(z.detach().movedim(1, -1).flatten(0, -2), codebook.detach())
        indices = distances.argmin(1).view(z.shape[0], *z.shape[2:])
        chosen = look_up(codebook, indices)
        return QuantizeOutput(
            quantized=z + (chosen - z).detach(),
            indices=indices,
            vq_loss=(chosen - z.detach()).square().mean(),
            commitment_loss=self.commitment * (chosen.detach() - z).square().mean(),
            latents=z,
            distances=distances,
        )


def look_up(
    codebook: Float[Tensor, "codes dim"], indices: Int[Tensor, "batch height width"]
) -> Float[Tensor, "batch dim height width"]:
    """The codes with these numbers, as a map.

    Raises:
        UserError: a number that no code has.
    """
    require_codes(indices, len(codebook))
    return embedding(indices, codebook).movedim(-1, 1)


def require_codes(indices: Int[Tensor, "*shape"], codes: int) -> None:
    """Raise `UserError` where a token is the number of no code."""
    if indices.numel() and not (int(indices.min()) >= 0 and int(indices.max()) < codes):
        raise UserError(
            f"tokens go from {int(indices.min())} to {int(indices.max())}, but the codebook has {codes} codes: these are tokens of "
            "another tokenizer."
        )


def squared_distances(
    vectors: Float[Tensor, "vectors dim"], codebook: Float[Tensor, "codes dim"]
) -> Float[Tensor, "vectors codes"]:
    """Squared Euclidean distances, in float32 at least."""
    kind = torch.promote_types(vectors.dtype, torch.float32)
    vectors, codebook = vectors.to(kind), codebook.to(kind)
    norms = vectors.square().sum(1, keepdim=True) + codebook.square().sum(1)
    return torch.addmm(norms, vectors, codebook.T, alpha=-2)
