"""What a tokenizer makes of numbers: which of them are tokens, and how it cuts a run of digits."""

from collections.abc import Iterator
from itertools import product
from typing import TypeAlias

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenry.core.text.byte_level import ByteVocabulary, backend_tokenizer

AnyFastTokenizer: TypeAlias = PreTrainedTokenizerBase | Tokenizer


def all_numbers(group: int) -> Iterator[str]:
    """All digit strings of 1 to `group` digits, the short ones first."""
    for length in range(1, group + 1):
        yield from map("".join, product("0123456789", repeat=length))


def number_token_ids(tokenizer: AnyFastTokenizer, group: int) -> dict[str, int]:
    """The ids of the numbers of up to `group` digits that are tokens, without a space before them.

    Raises:
        UserError: a slow tokenizer.
    """
    # Looked for in the vocabulary: the numbers are ten times as many with every digit.
    numbers = {
        token.decode(): number
        for token, number in ByteVocabulary.from_tokenizer(tokenizer).ids.items()
        if len(token) <= group and token.isdigit()
    }
    return {number: numbers[number] for number in sorted(numbers, key=lambda digits: (len(digits), digits))}


def token_texts(tokenizer: AnyFastTokenizer, text: str) -> list[str]:
    """The text of each token of a text; part of a character is shown as `�`."""
    view = ByteVocabulary.from_tokenizer(tokenizer)
    ids = backend_tokenizer(tokenizer).encode(text, add_special_tokens=False).ids
    return [(view.token_bytes[number] or b"").decode(errors="replace") for number in ids]


def digit_cuts(tokenizer: AnyFastTokenizer, digits: str) -> list[str]:
    """How a tokenizer cuts a run of digits; a space that it puts before a text is left out."""
    return [part.strip() for part in token_texts(tokenizer, digits) if part.strip()]
