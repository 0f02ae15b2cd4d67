"""Where a small model predicts another token than a large one wrote, and whether that matters: one label for each row of token ids.

    mismatch[i]    prediction[i] != token[i + 1]               the prediction at row i is about token i + 1
    position       i + 1                                       a mismatch is known by the position of the token that was predicted
    divergent[i]   the verdict on position i + 1, 0 elsewhere  a router sees row i and decides about token i + 1
    mask[i]        0 in the instruction

Texts stand one after another in flat tensors, so that a million rows are a few comparisons.

Source: R2R (arXiv 2505.21600), `data_process.py` of thu-nics/R2R.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tokenry.core.errors import UserError

INSTRUCTION, REASONING, RESPONSE = 0, 1, 2
"""Types of tokens: the prompt; from the last token of the prompt, or `<think>`; from `</think>`."""


class TokenLabels(NamedTuple):
    """One label per row.

    Attributes:
        divergent: 1 where the prediction changes what the text comes to, 0 where it does not, -1 where no verdict was reached.
        mismatch: whether the prediction is another token than was written.
        mask: rows that are no instruction.
    """

    divergent: Int[Tensor, "rows"]
    mismatch: Bool[Tensor, "rows"]
    mask: Bool[Tensor, "rows"]

    @property
    def trainable(self) -> Bool[Tensor, "rows"]:
        """Rows that a router learns from."""
        return self.mask & (self.divergent >= 0)


def token_types(
    token_ids: Sequence[int], prompt_tokens: int, think_end: int | None = None
) -> Int[Tensor, "rows"]:
    """Types of the tokens of a prompt and its answer.

    The last token of the prompt counts as reasoning: in a template that ends with `<think>` it is that token, and in any other it is the
    row that predicts the first token of the answer.
    """
    ids = torch.tensor(token_ids)
    types = (torch.arange(len(ids)) >= prompt_tokens - 1).long()
    if think_end is not None:
        types += types * (ids == think_end).long().cumsum(0).clamp(max=1)
    return types


def find_mismatches(
    predictions: Int[Tensor, "predicted"],
    tokens: Int[Tensor, "rows"],
    types: Int[Tensor, "typed"],
    stop_id: int | None = None,
    texts: Int[Tensor, "rows"] | None = None,
    max_tokens: int | None = None,
) -> Int[Tensor, "mismatches"]:
    """Rows of the tokens that were predicted otherwise; a prediction of row i is about row i + 1 of the same text.

    Args:
        predictions: most probable next token of the small model at each row.
        tokens: what was written.
        types: type of each token, `INSTRUCTION` first.
        stop_id: a token whose place is not a matter of routing, such as `</think>`.
        texts: number of the text that a row belongs to; the rows of a text stand together. None where there is one text.
        max_tokens: texts that are longer have no mismatches; nor have those without an instruction, or with nothing else.
    """
    if not predictions.shape == tokens.shape == types.shape:
        raise UserError(
            f"{len(predictions)} predictions and {len(types)} types for {len(tokens)} tokens: give one of each per token."
        )
    if texts is None:
        texts = torch.zeros_like(tokens)
    _, number, lengths = texts.unique_consecutive(return_inverse=True, return_counts=True)
    # From the first row of a text that is no instruction on, later turns of the user included.
    answered = (types > INSTRUCTION).long().cumsum(0)
    before = torch.cat([answered.new_zeros(1), answered])[lengths.cumsum(0) - lengths]
    begun = answered > before[number]
    differ = (predictions[:-1] != tokens[1:]) & (texts[:-1] == texts[1:]) & begun[:-1]
    if stop_id is not None:
        differ &= tokens[1:] != stop_id
    places = differ.nonzero()[:, 0] + 1
    instructions = torch.zeros_like(lengths).index_add_(0, number, (types == INSTRUCTION).long())
    usable = (instructions > 0) & (instructions < lengths)
    if max_tokens is not None:
        usable &= lengths <= max_tokens
    return places[usable[number[places]]]


def align_labels(
    types: Int[Tensor, "rows"], positions: Int[Tensor, "mismatches"], verdicts: Sequence[int] | Tensor
) -> TokenLabels:
    """Shift the verdicts on mismatches back to the rows whose predictions they are about.

    Args:
        positions: mismatches, as `find_mismatches` returns them.
        verdicts: of each, 1 for divergent, 0 for neutral, -1 for none.
    """
    found = torch.as_tensor(verdicts, dtype=torch.long)
    if found.shape != positions.shape:
        raise UserError(
            f"{len(found)} verdicts for {len(positions)} mismatches: give one verdict per mismatch."
        )
    require_labels(found)
    divergent, mismatch = torch.zeros_like(types), torch.zeros_like(types, dtype=torch.bool)
    divergent[positions - 1], mismatch[positions - 1] = found, True
    return TokenLabels(divergent, mismatch, types > INSTRUCTION)


def require_labels(labels: Tensor) -> None:
    """Raise `UserError` unless every label is -1, 0 or 1."""
    wrong = labels[(labels < -1) | (labels > 1) | (labels != labels.round())]
    if len(wrong):
        raise UserError(
            f"a label is 1 (divergent), 0 (not divergent) or -1 (unknown), got {wrong[0].item()}."
        )
