"""What the symbols of a coded text are: its bytes, or the tokens of a tokenizer."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import ByteVocabulary, backend_tokenizer
from tokenry.tokenization.equal_info.byte_models import Symbols

PART_BYTES = 10_240
"""Bytes of an example of the paper; a text is coded in parts of this size, all of them together."""


@runtime_checkable
class SymbolUnits(Protocol):
    """Turns bytes into symbols and back."""

    name: str

    def parts(self, data: bytes, size: int = PART_BYTES) -> list[Symbols]:
        """The symbols of each part of a text."""
        ...

    def text(self, symbols: Symbols) -> bytes:
        """The bytes of symbols."""
        ...


class ByteUnits:
    """Bytes, as they are."""

    name = "bytes"

    def parts(self, data: bytes, size: int = PART_BYTES) -> list[Symbols]:
        """The bytes in parts."""
        return [data[place : place + size] for place in range(0, len(data), size)]

    def text(self, symbols: Symbols) -> bytes:
        """The bytes."""
        return bytes(symbols)


class TokenUnits:
    """The tokens of a tokenizer.

    Args:
        tokenizer: its fast tokenizer, which must give the bytes of a text back.
    """

    name = "tokens"

    def __init__(self, tokenizer: PreTrainedTokenizerBase | Tokenizer) -> None:
        self._backend = backend_tokenizer(tokenizer)
        self._vocabulary = ByteVocabulary.from_tokenizer(tokenizer)

    def parts(self, data: bytes, size: int = PART_BYTES) -> list[Symbols]:
        """The tokens of each part.

        Raises:
            UserError: bytes that are no UTF-8 text, or that the tokenizer does not give back.
        """
        found: list[Symbols] = []
        for part in _whole_characters(data, size):
            ids = self._backend.encode(part.decode(), add_special_tokens=False).ids
            if self.text(ids) != part:
                raise UserError(
                    "the tokenizer does not give the bytes of this text back: code it as bytes (units='bytes')."
                )
            found.append(ids)
        return found

    def text(self, symbols: Symbols) -> bytes:
        """The bytes of tokens."""
        return self._vocabulary.decode(list(symbols))


def _whole_characters(data: bytes, size: int) -> Iterator[bytes]:
    """Parts that end between characters."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"tokens are of UTF-8 text, and byte {error.start} is 0x{data[error.start]:02x}: code it as bytes (units='bytes')."
        ) from error
    begin = 0
    while begin < len(data):
        end = min(begin + size, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        yield data[begin:end]
        begin = end
