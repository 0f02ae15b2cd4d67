"""What a hypernetwork could know of each new token, and how far its prediction is from what the model has learned of it.

byte coverage    bytes of the pieces that fit into the surface form / bytes of the token           (below 1: cut short)
cosine error     1 − cosine between the predicted row and the source row, for tokens that the source vocabulary has
relative error   |predicted − source row| / |source row|, for the same tokens
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokenry.core.text.byte_level import BYTE_CHARACTERS
from tokenry.tokenization.transfer.zett.losses import single_piece

_SHOWN = 20


@dataclass(frozen=True)
class TokenReport:
    """One entry per new token, by id.

    Attributes:
        tokens: the new tokens in byte characters.
        pieces: source tokens in its surface form.
        byte_coverage: share of its bytes that these spell.
        special: special tokens, which keep the source model's rows.
        shared: other tokens that the source vocabulary has.
        cosine_error: cosine error of the predicted input row; nan where not shared.
        relative_error: relative error of the predicted input row; nan where not shared.
        never_written: tokens that no text has, which get the source model's mean row.
    """

    tokens: tuple[str, ...]
    pieces: Int[Tensor, "tokens"]
    byte_coverage: Float[Tensor, "tokens"]
    special: Bool[Tensor, "tokens"]
    shared: Bool[Tensor, "tokens"]
    cosine_error: Float[Tensor, "tokens"]
    relative_error: Float[Tensor, "tokens"]
    never_written: Bool[Tensor, "tokens"]

    @classmethod
    def of(
        cls,
        tokens: Sequence[str],
        forms: Int[Tensor, "tokens pieces"],
        special: Int[Tensor, "special"],
        predicted: Float[Tensor, "tokens dim"],
        source: Float[Tensor, "vocabulary dim"],
        source_tokens: Sequence[str],
        pad_id: int,
        never_written: Sequence[int] = (),
    ) -> "TokenReport":
        """Compare predictions with the source model.

        Args:
            tokens: the new tokens in byte characters.
            forms: their surface forms.
            special: ids of tokens that keep the source model's rows.
            predicted: input rows before those are put back.
            source: input rows of the source model.
            source_tokens: tokens of the source in byte characters.
            pad_id: id that pads surface forms.
            never_written: ids of tokens that no text has.
        """
        never = torch.zeros(len(tokens), dtype=torch.bool)
        never[list(never_written)] = True
        is_special = torch.zeros(len(tokens), dtype=torch.bool)
        is_special[special] = True
        there = forms != pad_id
        lengths = torch.tensor([len(token) for token in source_tokens])
        spelled = (lengths[forms] * there).sum(dim=1)
        whole = torch.tensor([len(token) for token in tokens]).clamp(min=1)
        coverage = torch.where(is_special | never, 1.0, (spelled / whole).clamp(max=1.0))
        shared = (
            single_piece(forms, pad_id) & (forms[:, 0] < len(source)) & ~is_special & ~never & (coverage == 1)
        )
        true = source[forms[shared, 0]].float()
        made = predicted[shared].float()
        cosine, relative = (torch.full((len(tokens),), float("nan")) for _ in range(2))
        cosine[shared] = 1 - nn.functional.cosine_similarity(made, true, dim=1)
        relative[shared] = (made - true).norm(dim=1) / true.norm(dim=1).clamp(min=1e-12)
        return cls(tuple(tokens), there.sum(dim=1), coverage, is_special, shared, cosine, relative, never)

    @property
    def truncated(self) -> Bool[Tensor, "tokens"]:
        """Tokens that are longer than a surface form."""
        return self.byte_coverage < 1

    def as_json(self) -> dict[str, Any]:
        """Counts, medians over the shared tokens, and the tokens that are worst off."""
        shared = int(self.shared.sum())
        written = set(self.tokens)
        predicted = ~(self.special | self.never_written)
        worst = self.cosine_error.nan_to_num(-1.0).argsort(descending=True)[: min(_SHOWN, shared)].tolist()
        cut = self.byte_coverage.argsort()[: min(_SHOWN, int(self.truncated.sum()))].tolist()
        return {
            "tokens": len(self.tokens),
            "special": int(self.special.sum()),
            "shared": shared,
            "composed": len(self.tokens) - shared - int((self.special | self.never_written).sum()),
            "never_written": int(self.never_written.sum()),
            "truncated": int(self.truncated.sum()),
            "mean_pieces": float(self.pieces[predicted].float().mean()) if predicted.any() else 0.0,
            "bytes_with_a_token": sum(character in written for character in BYTE_CHARACTERS),
            "median_cosine_error_of_shared": _median(self.cosine_error[self.shared]),
            "median_relative_error_of_shared": _median(self.relative_error[self.shared]),
            "furthest_shared_tokens": {self.tokens[n]: round(float(self.cosine_error[n]), 4) for n in worst},
            "least_covered_tokens": {self.tokens[n]: round(float(self.byte_coverage[n]), 4) for n in cut},
        }


def _median(values: Tensor) -> float | None:
    return float(values.median()) if len(values) else None
