"""The disentangled attention-only transformer: heads read and write apart, so that what it can and cannot do can be read off its matrices.

    h_0 = [X, I]                                       features, and the position as a one-hot beside them
    a   = softmax(h A hᵀ), −∞ above the diagonal where it is causal         one matrix per head: no scale, no bias, no values
    h'  = [h, a_1 h, …, a_H h]                         what heads find is put beside the state, never added
    out = h_L[rows] W

The identity is never formed: h is held as S, all its columns but those of the identity, and

    h A hᵀ = S A_ss Sᵀ + S A_sp + A_ps Sᵀ + A_pp         where A is cut at the columns of the identity
    a h    = [a X, a, a S without X]                     a stands where a times the identity would

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
        state = x
        for matrices in self.attention[:-1]:
            state = self._layer(state, matrices)
        last = self.attention[-1]
        readouts = self.readout.split(last.shape[1])
        read = state[:, chosen]
        found = self._times(read, readouts[0], chosen)
        for matrix, readout in zip(last, readouts[1:], strict=True):
            attention = self._weights(state, matrix, read, chosen)
            found = torch.baddbmm(found, attention, self._times(state, readout))
        return found

    def residual(self, x: Float[Tensor, "batch seq features"]) -> list[Float[Tensor, "batch seq width"]]:
        """The state before the first layer and after each, written out."""
        self._require_input(x)
        state, states = x, [x]
        for matrices in self.attention:
            state = self._layer(state, matrices)
            states.append(state)
        identity = torch.eye(self.seq_len, dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
        cut = (state.tensor_split([self.n_features], dim=-1) for state in states)
        return [torch.cat([features, identity, rest], dim=-1) for features, rest in cut]

    def _layer(self, state: Tensor, matrices: Tensor) -> Tensor:
        """The state with what each head finds beside it."""
        added = []
        for matrix in matrices:
            attention = self._weights(state, matrix)
            of_features, *of_rest = (attention @ state).split(self._widths(state), dim=-1)
            added += [of_features, attention, *of_rest]
        return torch.cat([state, *added], dim=-1)

    def _weights(
        self,
        state: Tensor,
        matrix: Tensor,
        read: Tensor | None = None,
        rows: Tensor | slice = slice(None),
    ) -> Tensor:
        """The attention of some rows, whose state is `read`; of all by default."""
        read = state if read is None else read
        of_state, of_places = self._cut(matrix.mT)
        hidden = torch.zeros(self.seq_len, self.seq_len, dtype=state.dtype, device=state.device)
        if self.causal:
            hidden.masked_fill_(~causal_mask(self.seq_len).to(state.device), -torch.inf)
        scores = self._times(read, of_places.mT, rows, hidden)
        return torch.baddbmm(scores, self._times(read, of_state.mT, rows), state.mT).softmax(dim=-1)

    def _times(
        self,
        state: Tensor,
        matrix: Float[Tensor, "width out"],
        rows: Tensor | slice = slice(None),
        also: Tensor | float = 0.0,
    ) -> Float[Tensor, "batch rows out"]:
        """The state of some rows times a matrix, and what is added for each place: the identity takes the rows of its block as they are."""
        of_state, of_places = self._cut(matrix)
        return state @ of_state + (of_places + also)[rows]

    def _widths(self, state: Tensor) -> list[int]:
        """Those of X and of what heads have added, if any have."""
        rest = state.shape[-1] - self.n_features
        return [self.n_features, rest] if rest else [self.n_features]

    def _cut(self, matrix: Float[Tensor, "width out"]) -> tuple[Tensor, Tensor]:
        """The rows of a matrix that meet S, and those that meet the identity."""
        first, places, rest = matrix.tensor_split([self.n_features, self.n_features + self.seq_len])
        return torch.cat([first, rest]), places

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
