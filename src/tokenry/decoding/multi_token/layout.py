"""Tokens and blocks of masks in one forward: where each row stands, what it sees, and what it predicts.

A block of k masks behind token x_i predicts the k tokens that come after the next one. Row s belongs to token `group` g and is the token
itself (`slot` 0) or the mask m_r behind it (`slot` r):

    position  = g + r                                                   where the token that the mask stands for will be
    predicts    token g + r + 1                                         given token g + r, as far as the text has them
    sees s'   = (r' = 0 and g' ≤ g)  or  (g' = g and 0 < r' ≤ r)        tokens before it, and the masks of its own block

Tokens never see masks, so their rows are those of the model without masks. For x_0 x_1 and k = 2:

    row        x_0  m_1  m_2  x_1  m_1  m_2
    position    0    1    2    1    2    3
    predicts    1    2    3    2    3    4

Source: Your LLM Knows the Future (arXiv 2507.11851), section 3.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tokenry.core.errors import require_at_least


@dataclass(frozen=True)
class MaskLayout:
    """The rows of a forward, in any order; the first dimension is 1 where all texts of a batch have one layout.

    Attributes:
        tokens: number of tokens among the rows, the same for all texts.
        group: token that a row belongs to.
        slot: 0 for the token itself, j for mask m_j behind it.
    """

    tokens: int
    group: Int[Tensor, "texts rows"]
    slot: Int[Tensor, "texts rows"]

    @cached_property
    def position_ids(self) -> Int[Tensor, "texts rows"]:
        """Place of each row, counted from the first token."""
        return self.group + self.slot

    @cached_property
    def gate(self) -> Bool[Tensor, "texts rows"]:
        """The masks."""
        return self.slot > 0

    @cached_property
    def attn_allowed(self) -> Bool[Tensor, "texts rows rows"]:
        """What each row sees among the rows."""
        group, slot = self.group[..., None], self.slot[..., None]
        other_group, other_slot = self.group[:, None], self.slot[:, None]
        of_text = (other_slot == 0) & (other_group <= group)
        return of_text | ((other_group == group) & (other_slot > 0) & (other_slot <= slot))

    @property
    def labels_index(self) -> Int[Tensor, "texts rows"]:
        """Token that each row predicts; −1 beyond the end."""
        following = self.position_ids + 1
        return following.masked_fill(following >= self.tokens, -1)

    @property
    def sampler_prev_index(self) -> Int[Tensor, "texts rows"]:
        """Token that each mask stands for, which the sampler is given; −1 for tokens and beyond the end."""
        return self.position_ids.masked_fill(~self.gate | (self.position_ids >= self.tokens), -1)

    @property
    def anchor_row(self) -> Int[Tensor, "texts rows"]:
        """Row of the token that each mask stands for, whose hidden state predicts the same token; −1 as in `sampler_prev_index`."""
        token_rows = self.group.masked_fill(self.gate, self.tokens).argsort(dim=1, stable=True)
        found = token_rows.gather(1, self.sampler_prev_index.clamp(min=0))
        return found.masked_fill(self.sampler_prev_index < 0, -1)


def block_layout(tokens: int, anchors: Int[Tensor, "texts blocks"], k: int) -> MaskLayout:
    """Lay out all tokens, then one block of k masks behind each anchor: tokens by number, no one twice."""
    require_at_least(1, tokens=tokens)
    require_at_least(0, k=k)
    of_tokens = torch.arange(tokens, device=anchors.device).expand(len(anchors), tokens)
    masks = torch.arange(1, k + 1, device=anchors.device).repeat(anchors.shape[1])
    return MaskLayout(
        tokens,
        group=torch.cat([of_tokens, anchors.repeat_interleave(k, dim=1)], 1),
        slot=torch.cat([torch.zeros_like(of_tokens), masks.expand(len(anchors), -1)], 1),
    )


def mtp_layout(n: int, k: int) -> MaskLayout:
    """Lay out n tokens, each with a block of k masks right behind it."""
    require_at_least(1, n=n, k=k)
    blocks = block_layout(n, torch.arange(n)[None], k)
    order = (blocks.group * (k + 1) + blocks.slot).argsort(1)
    return MaskLayout(n, blocks.group.gather(1, order), blocks.slot.gather(1, order))
