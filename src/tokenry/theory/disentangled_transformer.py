"""The disentangled attention-only transformer: heads read and write apart, so that what it can and cannot do can be read off its matrices.

    h_0 = [X, I]                                       features, and the position as a one-hot beside them
    a   = softmax(h A hᵀ), −∞ above the diagonal where it is causal         one matrix per head: no scale, no bias, no values
    h'  = [h, a_1 h, …, a_H h]                         what heads find is put beside the state, never added
    out = h_L[rows] W

The identity is never formed. h is made of blocks like h_0, features and places beside one another, since a h is: it is held as F, the features
of all blocks, and their places apart, without the first ones:

    h A  = F A_F + A_I + P_1 A_1 + …        rows of A by what they meet: features, the identity, places
    a h  = [a F; a, a P_1, …]               a stands where a times the identity would

Of the last layer only what W reads is computed.

Source: The Impossibility of Inverse Permutation Learning in Transformer Models (arXiv 2509.24125), section 2; after Nichani et al. 2024.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokenry.core.errors import UserError, require_at_least

Rows = slice | Sequence[int] | Int[Tensor, "rows"]


class DisentangledTransformer(nn.Module):
    """A stack of attention layers whose outputs are concatenated.

    Args:
        seq_len: tokens of a sequence.
        n_features: features of a token, and of an output.
        causal: whether a token attends to earlier ones and itself alone.
        init_scale: standard deviation of the matrices; 0 as in the released code.

    Attributes:
        attention: the matrices of each layer, (heads, width, width).
        readout: the last matrix, (width, n_features).
    """

    def __init__(
        self,
        seq_len: int,
        n_features: int,
        heads: Sequence[int] = (1, 1),
        causal: bool = True,
        init_scale: float | int = 0.0,
    ) -> None:
        super().__init__()
        require_at_least(1, seq_len=seq_len, n_features=n_features)
        if not heads or min(heads) < 1:
            raise UserError(
                f"heads lists the heads of each layer, at least one of one head, got {tuple(heads)}."
            )
        self.seq_len, self.n_features, self.causal = seq_len, n_features, causal
        width, matrices = n_features + seq_len, []
        for number in heads:
            matrices.append(nn.Parameter(init_scale * torch.randn(number, width, width)))
            width *= 1 + number
        self.attention = nn.ParameterList(matrices)
        self.readout = nn.Parameter(init_scale * torch.randn(width, n_features))

    def forward(
        self, x: Float[Tensor, "batch seq features"], rows: Rows
    ) -> Float[Tensor, "batch rows features"]:
        """Predict the features of some rows.

        Raises:
            UserError: sequences or features of another length, or rows outside the sequence.
        """
        self._require_input(x)
        chosen = self._require_rows(rows)
        parts = [x]
        for matrices in self.attention[:-1]:
            parts = self._layer(parts, matrices)
        last = self.attention[-1]
        readouts = self.readout.split(last.shape[1])
        read = [part[:, chosen] for part in parts]
        found = self._times(read, readouts[0], chosen)
        for matrix, readout in zip(last, readouts[1:], strict=True):
            attention = self._weights(parts, matrix, read, chosen)
            found = torch.baddbmm(found, attention, self._times(parts, readout))
        return found

    def residual(self, x: Float[Tensor, "batch seq features"]) -> list[Float[Tensor, "batch seq width"]]:
        """The state before the first layer and after each, written out."""
        self._require_input(x)
        identity = torch.eye(self.seq_len, dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
        parts, states = [x], []
        for matrices in (*self.attention, None):
            features = parts[0].split(self.n_features, dim=-1)
            blocks = zip(features, [identity, *parts[1:]], strict=True)
            states.append(torch.cat([part for block in blocks for part in block], dim=-1))
            if matrices is not None:
                parts = self._layer(parts, matrices)
        return states

    def _layer(self, parts: list[Tensor], matrices: Tensor) -> list[Tensor]:
        """The parts of the state, the features of all blocks and the places of all but the first, with what each head finds."""
        features, places = [parts[0]], parts[1:]
        for matrix in matrices:
            attention = self._weights(parts, matrix)
            features.append(attention @ parts[0])
            places += [attention, *(attention @ part for part in parts[1:])]
        return [torch.cat(features, dim=-1), *places]

    def _weights(
        self,
        parts: list[Tensor],
        matrix: Tensor,
        read: list[Tensor] | None = None,
        rows: Tensor | slice = slice(None),
    ) -> Tensor:
        """The attention of some rows, whose state is `read`; of all by default."""
        queries = self._times(parts if read is None else read, matrix, rows)
        blocks = queries.unflatten(-1, (-1, self.n_features + self.seq_len))
        features, places = blocks.split([self.n_features, self.seq_len], dim=-1)
        scores = places[..., 0, :]
        if self.causal:
            scores = scores.masked_fill(~causal_mask(self.seq_len).to(scores.device)[rows], -torch.inf)
        scores = torch.baddbmm(scores, features.flatten(-2), parts[0].mT)
        for number, part in enumerate(parts[1:], start=1):
            scores = torch.baddbmm(scores, places[..., number, :], part.mT)
        return scores.softmax(dim=-1)

    def _times(
        self,
        parts: list[Tensor],
        matrix: Float[Tensor, "width out"],
        rows: Tensor | slice = slice(None),
    ) -> Float[Tensor, "batch rows out"]:
        """The state of some rows times a matrix: the identity takes the rows of its block as they are."""
        blocks = matrix.unflatten(0, (-1, self.n_features + self.seq_len))
        of_features, of_places = blocks.split([self.n_features, self.seq_len], dim=1)
        found = parts[0] @ of_features.flatten(0, 1) + of_places[0][rows]
        for part, block in zip(parts[1:], of_places[1:], strict=True):
            found = found + part @ block
        return found

    def _require_input(self, x: Tensor) -> None:
        if x.shape[1:] != (self.seq_len, self.n_features):
            raise UserError(
                f"the model reads {self.seq_len} tokens of {self.n_features} features, got {tuple(x.shape[1:])}: make the input for it."
            )

    def _require_rows(self, rows: Rows) -> Tensor:
        chosen = torch.arange(self.seq_len)[rows] if isinstance(rows, slice) else torch.as_tensor(rows)
        if not len(chosen) or int(chosen.min()) < 0 or int(chosen.max()) >= self.seq_len:
            raise UserError(
                f"rows must be among the {self.seq_len} tokens of a sequence, got {chosen.tolist()}."
            )
        return chosen


def causal_mask(seq_len: int) -> Bool[Tensor, "seq seq"]:
    """Which rows (second) each row (first) may read."""
    return torch.ones(seq_len, seq_len, dtype=torch.bool).tril()
