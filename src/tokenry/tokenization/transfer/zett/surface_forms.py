"""Surface forms: any token spelled by the tokens of one source tokenizer, which is all the hypernetwork sees of it.

    "ĠnaÃ¯ve" -> ids of ["Ġna", "Ã¯", "ve"], padded to `max_length`        a special token -> its own id

Source: Zero-Shot Tokenizer Transfer (arXiv 2405.07883), section 3.
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import BYTE_CHARACTERS, backend_tokenizer, to_byte_characters

_ALPHABET = frozenset(BYTE_CHARACTERS)


def surface_forms(
    target_tokens: Sequence[str],
    source: PreTrainedTokenizerBase,
    max_length: int = 7,
    special_tokens: Iterable[str] | None = None,
) -> tuple[Int[Tensor, "tokens pieces"], int]:
    """Spell tokens by the model of a byte-level tokenizer, without its pre-tokenizer: a token is one piece.

    Args:
        target_tokens: tokens in byte characters, as in `ConvertedTokenizer.tokens`. A token with other characters (a special one that the
            source does not have) is spelled by its UTF-8 bytes.
        source: a tokenizer over bytes (see `to_byte_level`), with a pad or an eos token.
        max_length: pieces per token; longer tokens keep their first ones.
        special_tokens: tokens of the source that stand for themselves; its special tokens unless given.

    Returns:
        Ids of the source, padded with its pad id (its eos id if it has none), and the number of tokens that were cut short.

    Raises:
        UserError: `max_length` below 1, no tokens, a source without pad and eos, or one that has no token for a byte of the target.
    """
    pad = mask_id(source)
    if max_length < 1:
        raise UserError(
            f"max_length must be at least 1, got {max_length}: a surface form has at least one piece."
        )
    if not target_tokens:
        raise UserError("the target has an empty vocabulary: give at least one token.")
    spell = _Speller(source, special_tokens)
    distinct = list(dict.fromkeys(target_tokens))
    spell.require_bytes_of(distinct)
    spelled = {token: spell(token) for token in distinct}
    rows = [spelled[token] for token in target_tokens]
    padding = [pad] * max_length
    forms = torch.tensor([(row + padding)[:max_length] for row in rows])
    return forms, sum(len(row) > max_length for row in rows)


def mask_id(source: PreTrainedTokenizerBase) -> int:
    """The id that pads surface forms: that of the pad token, else of the eos token.

    Raises:
        UserError: the source has neither.
    """
    for number in (source.pad_token_id, source.eos_token_id):
        if number is not None:
            return int(number)
    raise UserError(
        "the source tokenizer has neither a pad nor an eos token, and one of them must fill surface forms up: set its pad_token."
    )


class _Speller:
    """From a token to the ids that spell it."""

    def __init__(self, source: PreTrainedTokenizerBase, special_tokens: Iterable[str] | None) -> None:
        backend = backend_tokenizer(source)
        self._model, vocabulary = backend.model, backend.get_vocab()
        special = source.all_special_tokens if special_tokens is None else special_tokens
        self._special = {token: [vocabulary[token]] for token in special if token in vocabulary}
        self._missing = set(BYTE_CHARACTERS).difference(vocabulary)

    def require_bytes_of(self, tokens: Iterable[str]) -> None:
        """Raise `UserError` unless there is a token for every byte of these."""
        used = {character for token in tokens if token not in self._special for character in _written(token)}
        missing = used & self._missing
        if missing:
            raise UserError(
                f"the source tokenizer has no token for {len(missing)} bytes of the target: convert it with to_byte_level first."
            )

    def __call__(self, token: str) -> list[int]:
        if token in self._special:
            return self._special[token]
        return [piece.id for piece in self._model.tokenize(_written(token))]


def _written(token: str) -> str:
    return token if _ALPHABET.issuperset(token) else to_byte_characters(token.encode())
