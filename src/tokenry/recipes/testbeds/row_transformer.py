"""A standard transformer over rows of features, with MLPs, layer norms and several heads: what the disentangled one leaves out."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class RowTransformerSizes:
    """Width, layers and heads."""

    width: int = 64
    layers: int = 3
    heads: int = 4


class RowTransformer(nn.Module):
    """Causal, pre-norm, with learned positions; it predicts the features of some rows."""

    def __init__(self, seq_len: int, n_features: int, sizes: RowTransformerSizes, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.features = nn.Linear(n_features, sizes.width)
        self.positions = nn.Embedding(seq_len, sizes.width)
        layer = nn.TransformerEncoderLayer(
            sizes.width, sizes.heads, 4 * sizes.width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, sizes.layers, enable_nested_tensor=False)
        self.readout = nn.Linear(sizes.width, n_features)

    def forward(self, x: Float[Tensor, "batch seq features"], rows: list[int]) -> Tensor:
        """Predict the features of some rows."""
        states = self.features(x) + self.positions.weight
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        found: Tensor = self.readout(self.layers(states, mask=later)[:, rows])
        return found
