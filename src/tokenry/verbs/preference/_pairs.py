"""Preference data as the verbs read them, and a table of where pairs move."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError
from tokenry.report.blocks import Column, Table

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from tokenry.alignment import PreferencePair


def read_pairs(source: str) -> list[dict[str, Any]]:
    """Read rows with a chosen and a rejected response."""
    from tokenry.alignment.preference_pairs import require_pairs
    from tokenry.core.chat.reading import read_rows

    rows = read_rows(source)
    try:
        require_pairs(rows)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    return rows


def encoded(
    rows: Sequence[Mapping[str, Any]], tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> "list[PreferencePair]":
    """Encode pairs; those of which a response is longer than `max_length` with its prompt are left out."""
    from tokenry.alignment import encode_pair

    pairs = [encode_pair(row, tokenizer, number) for number, row in enumerate(rows, start=1)]
    short = [
        pair for pair in pairs if len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) <= max_length
    ]
    if not short:
        raise UserError(f"every pair is longer than max_length={max_length} tokens: raise it.")
    return short


def require_reader(model: "nn.Module", name: str, pairs: "Sequence[PreferencePair]") -> None:
    """Refuse a model that is not causal, or that cannot read the pairs."""
    from tokenry.models import require_causal_lm, require_readable

    require_causal_lm(model, name)
    rows = [pair.prompt + response for pair in pairs for response in (pair.chosen, pair.rejected)]
    require_readable(model, [token for row in rows for token in row], list(map(len, rows)), "the pairs", name)


def case_table(shares: Mapping[str, Mapping[str, float]]) -> Table:
    """The share of pairs in each case, a row per measurement."""
    cases = list(next(iter(shares.values())))
    return Table(
        "",
        ("pairs", *(Column(case, "%", ".0f") for case in cases)),
        [(name, *(found[case] for case in cases)) for name, found in shares.items()],
    )
