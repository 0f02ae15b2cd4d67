"""A text that is longer than the window: its beginning is kept, or its beginning and its end.

    kept = ids[:head] + ids[n − (max_length − head):]           if n > max_length, else ids; head = max_length unless given

Special tokens are always kept: of a window of `max_length` tokens, they leave the rest to the text.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError


def truncate_ids(ids: Sequence[int], max_length: int, head: int | None = None) -> list[int]:
    """Cut token ids to `max_length`: the first `head` of them, and the last ones that still fit.

    Args:
        ids: the tokens, without special ones.
        max_length: maximum number of tokens that are kept.
        head: number of tokens kept at the beginning; None for all.
    """
    if max_length < 1:
        raise UserError(f"max_length must be at least 1, got {max_length}.")
    head = max_length if head is None else head
    if not 0 <= head <= max_length:
        raise UserError(f"head must be from 0 to the {max_length} tokens that are kept, got {head}.")
    if len(ids) <= max_length:
        return list(ids)
    return [*ids[:head], *ids[len(ids) - (max_length - head) :]]


def window_of(tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
    """Number of tokens of a text that fit in `max_length` beside the special tokens.

    Raises:
        UserError: there is no room for a single one.
    """
    special = tokenizer.num_special_tokens_to_add()
    if max_length < special + 1:
        raise UserError(
            f"max_length must be at least {special + 1}, got {max_length}: the tokenizer adds {special} special tokens to every text."
        )
    return max_length - special


def encode_window(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, head: int | None = None
) -> list[list[int]]:
    """The token ids of each text with the special tokens, cut to `max_length`.

    Args:
        max_length: maximum number of tokens, special ones included.
        head: number of tokens kept at the beginning of a text that is cut, the others at its end; None for the beginning alone.
    """
    window = window_of(tokenizer, max_length)
    if head is None:
        ids: list[list[int]] = tokenizer(
            list(texts), truncation=True, max_length=max_length, return_attention_mask=False
        )["input_ids"]
        return ids
    encoded = tokenizer(
        list(texts), return_attention_mask=False, return_special_tokens_mask=True, verbose=False
    )
    return [
        _cut(row, special, window, head)
        for row, special in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
    ]


def _cut(row: Sequence[int], special: Sequence[int], window: int, head: int) -> list[int]:
    """One text, without its middle; special tokens stay where they are."""
    own = [place for place, added in enumerate(special) if not added]
    kept = set(truncate_ids(own, window, head))
    return [token for place, token in enumerate(row) if special[place] or place in kept]
