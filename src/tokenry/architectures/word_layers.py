"""Transformer layers over words that lie end to end: attention is inside words, and nothing is padded.

The words of a stream are sorted by length, so that those of one length are one block (words, slots, heads, head_dim) of it: attention
runs once a length, everything else runs over the whole stream.

    lengths 1 1 2 3 → slots with one prefix      [P a][P b]  [P a b]  [P a b c]      three calls of attention, 11 rows
    a canvas of 4 slots                          [P a . .][P b . .][P a b .][P a b c]                          16 rows

Source: Learn Your Tokens (arXiv 2310.11628): post-norm layers pool a word, pre-norm causal blocks spell it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, relu, scaled_dot_product_attention

Heads = Float[Tensor, "slots heads head_dim"]
Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Attention of a stream: queries, keys and values (slots, heads, head_dim), and the share of the weights to drop."""


@dataclass(frozen=True)
class WordStream:
    """Words end to end, the shortest first.

    Attributes:
        blocks: number of words, and slots of each, for every length.
        order: place of every word of the stream among the words as they were given.
        starts: first slot of every word of the stream.
        word: word of the stream of every slot.
        slot: place in its word of every slot.
    """

    blocks: tuple[tuple[int, int], ...]
    order: Int[Tensor, "words"]
    starts: Int[Tensor, "words"]
    word: Int[Tensor, "slots"]
    slot: Int[Tensor, "slots"]

    @classmethod
    def of(cls, slots: Int[Tensor, "words"]) -> "WordStream":
        """Lay words of so many slots end to end."""
        ordered, order = slots.sort(stable=True)
        lengths, counts = ordered.unique_consecutive(return_counts=True)
        ends = ordered.cumsum(0)
        starts = ends - ordered
        word = torch.repeat_interleave(torch.arange(len(slots), device=slots.device), ordered)
        slot = torch.arange(len(word), device=slots.device) - starts[word]
        blocks = tuple(zip(counts.tolist(), lengths.tolist(), strict=True))
        return cls(blocks, order, starts, word, slot)

    def attend(self, causal: bool) -> Attend:
        """Attention inside each word."""

        def attend(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
            sizes = [words * slots for words, slots in self.blocks]
            parts = [rows.split(sizes) for rows in (query, key, value)]
            found = []
            for (words, slots), block in zip(self.blocks, zip(*parts, strict=True), strict=True):
                q, k, v = (rows.unflatten(0, (words, slots)).transpose(1, 2) for rows in block)
                mixed = scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)
                found.append(mixed.transpose(1, 2).flatten(0, 1))
            return torch.cat(found)

        return attend


def attend_canvas(words: int, mask: Tensor | None, causal: bool = False) -> Attend:
    """Attention in a padded table of words: `mask` (words, 1, queries, keys) tells the keys that may be seen."""

    def attend(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        q, k, v = (rows.unflatten(0, (words, -1)).transpose(1, 2) for rows in (query, key, value))
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
        return mixed.transpose(1, 2).flatten(0, 1)

    return attend


class WordAttention(nn.Module):
    """Attention of several heads with biases; what attends to what is given."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.projected = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, rows: Float[Tensor, "slots width"], attend: Attend) -> Float[Tensor, "slots width"]:
        """Mix rows."""
        query, key, value = self.projected(rows).unflatten(1, (3, self.heads, -1)).unbind(1)
        mixed = attend(query, key, value, self.dropout if self.training else 0.0)
        found: Tensor = self.output(mixed.flatten(1))
        return found


class PoolingLayer(nn.Module):
    """A post-norm layer that sees both ways, with ReLU: `torch.nn.TransformerEncoderLayer`."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.attention = WordAttention(width, heads, dropout)
        self.up, self.down = nn.Linear(width, feed_forward), nn.Linear(feed_forward, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Float[Tensor, "slots width"], attend: Attend) -> Float[Tensor, "slots width"]:
        """Mix and transform rows."""
        rows = self.norm1(rows + self.dropout(self.attention(rows, attend)))
        found: Tensor = self.norm2(rows + self.dropout(self.down(self.dropout(relu(self.up(rows))))))
        return found


class SpellingBlock(nn.Module):
    """A pre-norm block with GELU."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = WordAttention(width, heads, dropout)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Float[Tensor, "slots width"], attend: Attend) -> Float[Tensor, "slots width"]:
        """Mix and transform rows."""
        rows = rows + self.dropout(self.attention(self.norm1(rows), attend))
        found: Tensor = rows + self.dropout(self.down(gelu(self.up(self.norm2(rows)))))
        return found
