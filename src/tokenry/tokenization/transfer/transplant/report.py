"""The report of a transplant, from which a user decides whether to use it.

counts              tokens that were copied, composed, left to the fallback, or that no text has
leave-one-out       shared tokens composed as if they were new: 1 − cosine to the true row, and |composed − true| / |true|
bits per byte       of texts before and after: fair between tokenizers
round trip          whether the old and the new tokenizer give texts back
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokenry.core.text.bits_per_byte import TextLoss
from tokenry.core.text.round_trip import RoundTrip


@dataclass(frozen=True)
class LeaveOneOut:
    """Errors of shared tokens that were composed as if they were new.

    Attributes:
        tokens: new ids of the shared tokens that were tried.
        names: names of these tokens in the new vocabulary.
        cosine_error: 1 − cosine between composed and true row.
        relative_error: distance between composed and true row, relative to the norm of the true row.
        mean_row_cosine_error: 1 − cosine between the mean of all rows and the true row.
        mean_row_relative_error: distance between the mean of all rows and the true row, relative to the norm of the true row.
    """

    tokens: Int[Tensor, "tokens"]
    names: tuple[str, ...]
    cosine_error: Float[Tensor, "tokens"]
    relative_error: Float[Tensor, "tokens"]
    mean_row_cosine_error: Float[Tensor, "tokens"]
    mean_row_relative_error: Float[Tensor, "tokens"]

    @classmethod
    def of(
        cls,
        tokens: Int[Tensor, "tokens"],
        names: tuple[str, ...],
        composed: Float[Tensor, "tokens dim"],
        true: Float[Tensor, "tokens dim"],
        mean_row: Float[Tensor, "dim"],
    ) -> "LeaveOneOut":
        """Compare composed rows with the true ones."""
        return cls(tokens, names, *_errors(composed, true), *_errors(mean_row.expand_as(true), true))

    def summary(self) -> dict[str, float | int]:
        """Medians over the tokens."""
        errors = {name: value for name, value in vars(self).items() if name not in ("tokens", "names")}
        return {
            "tokens": len(self.tokens),
            **{f"median_{name}": float(value.median()) for name, value in errors.items()},
        }

    def by_token(self) -> dict[str, float]:
        """The cosine error of each token, the worst first."""
        order = self.cosine_error.argsort(descending=True, stable=True).tolist()
        return {self.names[place]: round(float(self.cosine_error[place]), 4) for place in order}


@dataclass(frozen=True)
class TransplantReport:
    """What became of a model's vocabulary.

    Attributes:
        method: method that composed the rows.
        settings: everything that the rows depend on.
        old_tokens: size of the old vocabulary.
        new_tokens: size of the new vocabulary.
        rows: number of rows of the new matrices, with padding.
        tied: whether one matrix serves input and output.
        counts: tokens `copied`, `composed`, left to the `fallback`, and, if any, `never_written` ones, which got the fallback's row
            because no text has them.
        estimates: composed tokens with a `local` estimate alone, a `global` one alone, and `both`; empty for other methods.
        pieces_per_token: mean number of old tokens that spell a new token that is not shared.
        fallback: names of the tokens that were left to the fallback.
        never_written: names of the tokens that no text has and that no old token like them was copied to.
        notes: warnings for the user.
        round_trip_failures: sample texts that the new tokenizer changes.
        text_back: whether the `old` and the `new` tokenizer give texts back: the given ones, or else the sample texts.
        leave_one_out: None where nothing could be tried.
        before: loss of the old model on the given texts; None without texts.
        after: loss of the new model on the given texts; None without texts.
    """

    method: str
    settings: Mapping[str, Any]
    old_tokens: int
    new_tokens: int
    rows: int
    tied: bool
    counts: Mapping[str, int]
    estimates: Mapping[str, int]
    pieces_per_token: float
    fallback: tuple[str, ...]
    notes: tuple[str, ...]
    round_trip_failures: tuple[str, ...]
    leave_one_out: LeaveOneOut | None
    text_back: Mapping[str, RoundTrip] = field(default_factory=dict)
    never_written: tuple[str, ...] = ()
    before: TextLoss | None = None
    after: TextLoss | None = None

    def __str__(self) -> str:
        """What became of the tokens, on one line; the notes below it."""
        became = ", ".join(f"{number:,} {what.replace('_', ' ')}" for what, number in self.counts.items())
        measured = ""
        if self.before is not None and self.after is not None:
            bits = [loss.bits_per_byte.value for loss in (self.before, self.after)]
            measured = f"; bits per byte {bits[0]:.3f} before, {bits[1]:.3f} after"
        line = f"{self.old_tokens:,} to {self.new_tokens:,} tokens by {self.method}: {became}{measured}"
        return "\n".join([line, *self.notes])

    def as_json(self) -> dict[str, Any]:
        """Return the object that `tokenry tokenizer transplant --json` prints."""
        left_out = self.leave_one_out
        return {
            "method": self.method,
            "settings": dict(self.settings),
            "old_tokens": self.old_tokens,
            "new_tokens": self.new_tokens,
            "rows": self.rows,
            "tied": self.tied,
            "counts": {**self.counts, "never_written": len(self.never_written)},
            "estimates": dict(self.estimates),
            "pieces_per_token": self.pieces_per_token,
            "fallback": list(self.fallback),
            "never_written": list(self.never_written),
            "notes": list(self.notes),
            "round_trip_failures": list(self.round_trip_failures),
            "text_back": {which: found.as_json() for which, found in self.text_back.items()},
            "leave_one_out": {**left_out.summary(), "cosine_error_of": left_out.by_token()}
            if left_out
            else None,
            "bits_per_byte": {
                when: None if loss is None else loss.as_json()
                for when, loss in (("before", self.before), ("after", self.after))
            },
        }


def _errors(
    composed: Float[Tensor, "tokens dim"], true: Float[Tensor, "tokens dim"]
) -> tuple[Float[Tensor, "tokens"], Float[Tensor, "tokens"]]:
    cosine = nn.functional.cosine_similarity(composed, true, dim=-1)
    distance = (composed - true).norm(dim=-1) / true.norm(dim=-1).clamp(min=torch.finfo(true.dtype).tiny)
    return 1 - cosine, distance
