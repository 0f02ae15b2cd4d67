"""When a SentencePiece tokenizer writes the bytes of a character (`<0xE6>`): only where the character is no token, and all of them.

Source: byte fallback of SentencePiece, as `tokenizers` has it.
"""

import numpy as np
from jaxtyping import Bool

from tokenry.core.text.byte_level import ByteVocabulary
from tokenry.decoding.byte_level.token_rules import Remembered, Tail
from tokenry.decoding.byte_level.utf8 import code_points, missing_bytes


class CharacterFallback:
    """The rule of tokens that are written for the bytes of a character that is no token (`<0xE6>`)."""

    def __init__(self, vocabulary: ByteVocabulary) -> None:
        self._vocabulary = vocabulary
        self._fallback = np.zeros(len(vocabulary.token_bytes), dtype=bool)
        self._fallback[list(vocabulary.fallback)] = True
        self._own: dict[bytes, int] = {}
        known = {
            data
            for number, data in enumerate(vocabulary.token_bytes)
            if data and number not in vocabulary.fallback and _is_character(data)
        }
        # What is read as another character is never written by its own bytes.
        for data in known | {character.encode() for character in vocabulary.unkept}:
            for length in range(1, len(data) + 1):
                self._own[data[:length]] = self._own.get(data[:length], 0) + 1
        self._masks = Remembered(self._mask, 256)

    def begun(self, tail: Tail) -> bytes:
        """The bytes of an unfinished character at the end of the tail."""
        data = b""
        for number in reversed(tail):
            byte = self._vocabulary.token_bytes[number]
            if number not in self._vocabulary.fallback or byte is None:
                break
            data = byte + data
            if missing_bytes(byte):
                return data if missing_bytes(data) else b""
        return b""

    def mask(self, begun: bytes) -> Bool[np.ndarray, "ids"]:
        """Ids that can come next, after the bytes of an unfinished character or after a whole one."""
        return self._masks(begun)

    def _mask(self, begun: bytes) -> Bool[np.ndarray, "ids"]:
        allowed = ~self._fallback & (not begun)
        for number in self._vocabulary.fallback:
            allowed[number] = self._needed(begun + (self._vocabulary.token_bytes[number] or b""))
        return allowed

    def _needed(self, begun: bytes) -> bool:
        """Whether some character that begins with these bytes is no token."""
        possible = len(code_points(begun)) if missing_bytes(begun) else int(_is_character(begun))
        return possible > self._own.get(begun, 0)


def _is_character(data: bytes) -> bool:
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError:
        return False
