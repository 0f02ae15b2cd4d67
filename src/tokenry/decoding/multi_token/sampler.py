"""The sampler: from the hidden state of a mask and the token before, to the next drafted token; and what a drafter learns by.

    u       = [E(previous token) ; z]                             z: hidden state of the mask, as it would meet the head
    hidden  = LayerNorm(SiLU(W₂ LayerNorm(SiLU(W₁ u))))           read by the frozen head of the base model

A mask does not know which token was chosen before its own; the sampler does, and so keeps a draft coherent.

    latent consistency = mean over tokens of the mean over masks that predict the same token of |z_mask − z_token|²

Source: Your LLM Knows the Future (arXiv 2507.11851), sections 3.2 and 3.3.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from tokenry.core.tensors.output_head import accumulation_dtype


class SamplerHead(nn.Module):
    """Two blocks of a linear layer, SiLU and LayerNorm.

    Args:
        hidden: width of the hidden states.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.w1, self.n1 = nn.Linear(2 * hidden, hidden), nn.LayerNorm(hidden)
        self.w2, self.n2 = nn.Linear(hidden, hidden), nn.LayerNorm(hidden)

    def forward(
        self, previous: Float[Tensor, "*rows hidden"], z: Float[Tensor, "*rows hidden"]
    ) -> Float[Tensor, "*rows hidden"]:
        """Hidden states for the head, in the dtype of `z`.

        Args:
            previous: embeddings of the tokens that the masks stand for.
            z: hidden states of the masks.
        """
        u = torch.cat([previous, z], -1).to(self.w1.weight.dtype)
        hidden: Tensor = self.n2(silu(self.w2(self.n1(silu(self.w1(u))))))
        return hidden.to(z.dtype)


def latent_consistency(
    hidden: Float[Tensor, "batch rows hidden"], anchor_row: Int[Tensor, "batch rows"]
) -> Float[Tensor, ""]:
    """Squared distance of masks from the token row that predicts the same token, without a gradient for that row.

    Args:
        hidden: hidden states of all rows.
        anchor_row: row of that token; −1 for rows that are left out. 0 with a graph if all are.
    """
    rows = hidden.shape[1]
    masks = (anchor_row >= 0).flatten().nonzero()[:, 0]
    text = torch.arange(len(hidden), device=hidden.device)[:, None]
    anchors = (anchor_row + text * rows).flatten()[masks]
    flat = hidden.flatten(0, 1)
    distances = (flat[masks] - flat[anchors].detach()).to(accumulation_dtype(hidden.dtype)).square().sum(-1)
    counts = torch.bincount(anchors, minlength=len(flat)).to(distances.dtype)
    return (distances / counts[anchors]).sum() / counts.count_nonzero().clamp(min=1)
