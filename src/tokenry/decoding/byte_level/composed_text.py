"""Texts of a tokenizer that composes characters (NFC): it never writes what it would compose.

    e + U+0301   is written as é: after "e" the accent never comes, whatever tokens there are for it

Composition takes place after the last character that stands for itself (a *starter*), so that no more than the text from there on matters.

Source: Unicode Standard Annex #15.
"""

import unicodedata
from functools import cache

import numpy as np
from jaxtyping import Bool, Int

from tokenry.core.text.byte_level import ByteVocabulary
from tokenry.decoding.byte_level.token_rules import Remembered
from tokenry.decoding.byte_level.utf8 import code_points, split_unfinished


class ComposedText:
    """What may follow in composed text; what came is known by its bytes from the last starter on."""

    def __init__(self, vocabulary: ByteVocabulary) -> None:
        self._vocabulary = vocabulary
        self._forbidden = Remembered(self._find_forbidden, 1024)
        self._some = Remembered(self._is_possible, 1 << 14)
        numbers = vocabulary.order.tolist()
        texts = [(number, vocabulary.token_bytes[number] or b"") for number in numbers]
        self._changed = [
            number for number, data in texts if not data.isascii() and self.read(b"", data) is None
        ]
        # Those that go on with an unfinished character, and those that may compose with what is before them.
        self._inside = [number for number, data in texts if 0x80 <= data[0] < 0xC0]
        self._composing = [number for number, data in texts if data[0] >= 0xC0 and _may_compose(data)]

    def read(self, begun: bytes, data: bytes) -> bytes | None:
        """Go on; None where the text is not composed, or can never become so."""
        whole, rest = split_unfinished(begun + data)
        text = whole.decode(errors="replace")
        if not text.isascii() and not unicodedata.is_normalized("NFC", text):
            return None
        starter = len(text) - 1
        while starter > 0 and unicodedata.combining(text[starter]):
            starter -= 1
        last = text[max(0, starter) :]
        if rest and not self._some((last, rest)):
            return None
        return last.encode() + rest

    def forbidden(self, begun: bytes) -> Bool[np.ndarray, "ids"]:
        """Ids that cannot follow."""
        return self._forbidden(begun)

    def _find_forbidden(self, begun: bytes) -> Bool[np.ndarray, "ids"]:
        found = np.zeros(len(self._vocabulary.token_bytes), dtype=bool)
        found[self._changed] = True
        for number in self._inside if split_unfinished(begun)[1] else self._composing if begun else ():
            found[number] = self.read(begun, self._vocabulary.token_bytes[number] or b"") is None
        return found

    def _is_possible(self, where: tuple[str, bytes]) -> bool:
        last, rest = where
        possible = code_points(rest)
        touched = _touched()
        first, end = np.searchsorted(touched, [possible.start, possible.stop])
        if end - first < len(possible):
            return True
        return any(unicodedata.is_normalized("NFC", last + chr(point)) for point in possible)


def _may_compose(data: bytes) -> bool:
    whole, rest = split_unfinished(data)
    points = (
        code_points(rest) if not whole else range(point := ord(whole.decode(errors="replace")[0]), point + 1)
    )
    first, end = np.searchsorted(_touched(), [points.start, points.stop])
    return bool(end > first)


@cache
def _touched() -> Int[np.ndarray, "points"]:
    """Characters that composition touches: they are changed by it, or combine with what is before them."""
    found = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}
    # Ideographs and syllables of one piece, and what lies beyond the compatibility ideographs, are touched nowhere.
    for point in (
        *range(0x80, 0x3400),
        *range(0xA000, 0xAC00),
        *range(0xF900, 0x20000),
        *range(0x2F800, 0x2FA20),
    ):
        character = chr(point)
        if unicodedata.combining(character):
            found.add(point)
        elif (parts := unicodedata.decomposition(character)) and parts[0] != "<":
            codes = [int(part, 16) for part in parts.split()]
            composed = unicodedata.normalize("NFC", character) == character
            found.update(codes[1:] if composed else [point])
    return np.array(sorted(found), dtype=np.int64)
