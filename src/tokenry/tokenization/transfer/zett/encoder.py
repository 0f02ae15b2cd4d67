"""The parts of the hypernetwork: blocks on single rows, and a small transformer that reads the pieces of a token.

    rescaled(x)   = w · x + b                                      per dimension, fixed
    projected(x)  = LayerNorm(x + gelu(W2 gelu(W1 x)))
    encoder       = RoBERTa's layers (attention, then feed-forward, LayerNorm after each); only its first position is used

The last layer therefore asks only for its first position: the others are keys and values there, nothing more. Modules are named as in
the released checkpoints, whose weights load as they are.

Source: arXiv 2405.07883, section 3.2, and the released code (`hf_hypernet`).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

_LEAST_STD = 1e-8


class Rescaler(nn.Module):
    """A fixed scale and shift per dimension; it starts as the identity."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, dim), requires_grad=False)
        self.b = nn.Parameter(torch.zeros(1, dim), requires_grad=False)

    def reset(self) -> None:
        """Become the identity again."""
        nn.init.ones_(self.w)
        nn.init.zeros_(self.b)

    def forward(self, rows: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        """Scale and shift."""
        return self.w * rows + self.b

    @torch.no_grad()
    def fit(
        self,
        rows: Float[Tensor, "rows dim"],
        std: Float[Tensor, "1 #dim"] | float,
        mean: Float[Tensor, "1 #dim"] | float,
    ) -> None:
        """Give the columns of `rows` this (population) standard deviation and mean.

        Source: released code, `Rescaler.scale_to`.
        """
        w, b = rescaling(rows, std, mean)
        self.w.copy_(w)
        self.b.copy_(b)


def rescaling(
    rows: Float[Tensor, "rows dim"],
    std: Float[Tensor, "1 #dim"] | float,
    mean: Float[Tensor, "1 #dim"] | float,
) -> tuple[Float[Tensor, "1 dim"], Float[Tensor, "1 dim"]]:
    """Compute w and b so that the columns of w · rows + b have this (population) standard deviation and mean."""
    w = std / (rows.std(dim=0, unbiased=False, keepdim=True) + _LEAST_STD)
    return w, mean - (w * rows).mean(dim=0, keepdim=True)


class ProjectorBlock(nn.Module):
    """A residual feed-forward block on single rows."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.dense1 = nn.Linear(hidden_size, intermediate_size)
        self.dense2 = nn.Linear(intermediate_size, hidden_size)
        self.ln = nn.LayerNorm(hidden_size, eps=1e-6)

    def forward(self, rows: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        """Both activations are the tanh form of gelu, as in the released code."""
        inner = functional.gelu(self.dense1(rows), approximate="tanh")
        return self.ln(rows + functional.gelu(self.dense2(inner), approximate="tanh"))


class EncoderLayer(nn.Module):
    """One RoBERTa layer, which can be asked for some positions only."""

    def __init__(self, hidden_size: int, intermediate_size: int, heads: int) -> None:
        super().__init__()
        self.attention = _Attention(hidden_size, heads)
        self.intermediate = _Intermediate(hidden_size, intermediate_size)
        self.output = _AddAndNorm(intermediate_size, hidden_size)

    def forward(
        self,
        hidden: Float[Tensor, "tokens pieces dim"],
        mask: Bool[Tensor, "tokens pieces"] | None,
        positions: int,
    ) -> Float[Tensor, "tokens positions dim"]:
        """Compute the first `positions` positions; a mask tells which pieces are looked at."""
        attended = self.attention(hidden[:, :positions], hidden, mask)
        return self.output(functional.gelu(self.intermediate.dense(attended)), attended)


class PieceEncoder(nn.Module):
    """Reads the pieces of each token, and a language where there are several; the first position stands for the token."""

    def __init__(
        self, hidden_size: int, intermediate_size: int, heads: int, layers: int, max_length: int
    ) -> None:
        super().__init__()
        self.embeddings = _Embeddings(hidden_size, max_length)
        self.encoder = _Layers([EncoderLayer(hidden_size, intermediate_size, heads) for _ in range(layers)])

    def forward(
        self,
        pieces: Float[Tensor, "tokens pieces dim"],
        mask: Bool[Tensor, "tokens pieces"] | None,
        language: Float[Tensor, "dim"] | None = None,
    ) -> Float[Tensor, "tokens dim"]:
        """Encode tokens of at most `max_length` pieces; without a mask all pieces count."""
        hidden = self.embeddings(pieces, language)
        if mask is not None and language is not None:
            mask = functional.pad(mask, (0, 1), value=True)
        *inner, last = self.encoder.layer
        for layer in inner:
            hidden = layer(hidden, mask, hidden.shape[1])
        return last(hidden, mask, 1)[:, 0]


class _Embeddings(nn.Module):
    """Tells positions apart; the language, if any, stands behind the pieces and has no position."""

    def __init__(self, hidden_size: int, max_length: int) -> None:
        super().__init__()
        self.position_embeddings = nn.Embedding(max_length, hidden_size)
        self.token_type_embeddings = nn.Embedding(1, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=1e-5)

    def forward(self, pieces: Tensor, language: Tensor | None) -> Tensor:
        positions = self.position_embeddings.weight[: pieces.shape[1]]
        hidden = pieces + self.token_type_embeddings.weight + positions
        if language is not None:
            hidden = torch.cat([hidden, language.to(hidden.dtype).expand(len(hidden), 1, -1)], dim=1)
        return self.LayerNorm(hidden)


class _Attention(nn.Module):
    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.self = _Projections(hidden_size, heads)
        self.output = _AddAndNorm(hidden_size, hidden_size)

    def forward(self, asked: Tensor, hidden: Tensor, mask: Tensor | None) -> Tensor:
        return self.output(self.self(asked, hidden, mask), asked)


class _Projections(nn.Module):
    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(hidden_size, hidden_size) for _ in range(3))

    def forward(self, asked: Tensor, hidden: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (
            rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for rows in (self.query(asked), self.key(hidden), self.value(hidden))
        )
        bias = None
        if mask is not None:
            # The least finite number, as in RoBERTa: a token whose pieces are all padding looks at all of them alike.
            bias = torch.zeros_like(mask, dtype=query.dtype)
            bias = bias.masked_fill(~mask, torch.finfo(query.dtype).min)[:, None, None, :]
        context = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return context.transpose(1, 2).flatten(2)


class _Intermediate(nn.Module):
    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, intermediate_size)


class _AddAndNorm(nn.Module):
    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        self.dense = nn.Linear(size_in, size_out)
        self.LayerNorm = nn.LayerNorm(size_out, eps=1e-5)

    def forward(self, inner: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dense(inner))


class _Layers(nn.Module):
    def __init__(self, layers: list[EncoderLayer]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)


def by_length(mask: Bool[Tensor, "tokens pieces"]) -> list[tuple[int, Int[Tensor, "some"]]]:
    """Group tokens by the place of their last piece: those of one group need no padding.

    A token whose pieces are all padding counts as long as it can be.
    """
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    lengths = (mask * places).amax(dim=1)
    lengths = torch.where(lengths == 0, mask.shape[1], lengths)
    return [(length, (lengths == length).nonzero()[:, 0]) for length in lengths.unique().tolist()]
