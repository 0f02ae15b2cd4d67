"""How digits are grouped: pre-tokenizers for a tokenizer to train, and other groups for one that is there."""

from tokenry.tokenization.numbers.number_pre_tokenizers import (
    NUMBER_PATTERN,
    number_pieces,
    number_pre_tokenizer,
)
from tokenry.tokenization.numbers.retokenize_numbers import retokenize_numbers

__all__ = ["NUMBER_PATTERN", "number_pieces", "number_pre_tokenizer", "retokenize_numbers"]
