"""What may follow a sequence of tokens: the question that every kind of tokenizer answers in its own way.

A sequence is known by its *tail*: the tokens since the last border between pieces that no later text can move.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool

from tokenry.core.text.byte_level import ByteVocabulary
from tokenry.core.text.byte_pairs import BytePairEncoder

Tail = tuple[Any, ...]
"""What still matters of a sequence for what may follow: its last tokens, as ids, or a `Place`; empty at the beginning of a text."""

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")

# A mask of all tokens takes a byte per token: 64 MB of them.
REMEMBERED_BYTES = 1 << 26


@runtime_checkable
class ValidTokens(Protocol):
    """What may follow a sequence of tokens."""

    def valid(self, tail: Tail) -> Bool[np.ndarray, "ids"]:
        """Whether each id can come next."""
        ...

    def may_end(self, tail: Tail) -> bool:
        """Whether the text can end here."""
        ...

    def after(self, tail: Tail, token: int) -> Tail:
        """Take one more token."""
        ...

    def settled(self, data: bytes, tail: Tail = ()) -> list[int]:
        """Encode the part of a text that no later text can change."""
        ...


class AnyTokens:
    """Every cut of a text counts, whether the tokenizer would write it or not."""

    def __init__(self, vocabulary: ByteVocabulary) -> None:
        self._all = vocabulary.lengths > 0

    def valid(self, tail: Tail) -> Bool[np.ndarray, "ids"]:
        """All tokens that stand for bytes."""
        return self._all

    def may_end(self, tail: Tail) -> bool:
        """Always."""
        return True

    def after(self, tail: Tail, token: int) -> Tail:
        """Nothing matters."""
        return ()

    def settled(self, data: bytes, tail: Tail = ()) -> list[int]:
        """Nothing is settled."""
        return []


class Remembered(Generic[_Key, _Value]):
    """A function that remembers its latest results (`most` of them, the least recently used go first)."""

    def __init__(self, find: Callable[[_Key], _Value], most: int) -> None:
        self._find, self._most = find, most
        self._found: OrderedDict[_Key, _Value] = OrderedDict()

    def __call__(self, key: _Key) -> _Value:
        """Find it, or recall it."""
        if key in self._found:
            self._found.move_to_end(key)
            return self._found[key]
        while len(self._found) >= self._most:
            self._found.popitem(last=False)
        self._found[key] = found = self._find(key)
        return found


def whole_tokens(encoder: BytePairEncoder) -> Bool[np.ndarray, "ids"]:
    """The ids that are written for their own bytes where these are a piece."""
    if not encoder.whole_first:
        return encoder.reachable
    return np.array(
        [
            data is not None and data != b"" and encoder.encode(data) == [number]
            for number, data in enumerate(encoder.token_bytes)
        ]
    )
