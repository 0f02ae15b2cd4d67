"""Valid sequences of a byte-pair tokenizer that never cuts a text into pieces: all neighbours are valid pairs.

    valid(t_1 … t_n) = pair_valid(t_1, t_2) and … and pair_valid(t_n−1, t_n)

Source: pairwise validity after ByteSampler (arXiv 2506.14123); valid encodings, arXiv 2410.09303, section 3.
"""

import numpy as np
from jaxtyping import Bool

from tokenry.core.text.byte_level import ByteVocabulary
from tokenry.core.text.byte_pairs import BytePairEncoder
from tokenry.decoding.byte_level.character_fallback import CharacterFallback
from tokenry.decoding.byte_level.token_rules import REMEMBERED_BYTES, Remembered, Tail, whole_tokens


class PairwiseTokens:
    """Neighbours are valid pairs: a byte-pair tokenizer whose pre-tokenizer, if it has one, never cuts."""

    def __init__(self, encoder: BytePairEncoder, vocabulary: ByteVocabulary) -> None:
        self._encoder, self._first = encoder, whole_tokens(encoder)
        self._fallback = CharacterFallback(vocabulary) if vocabulary.fallback else None
        self._masks = Remembered(self._valid, max(16, REMEMBERED_BYTES // len(self._first)))

    def valid(self, tail: Tail) -> Bool[np.ndarray, "ids"]:
        """Right neighbours of the last token."""
        return self._masks(tail)

    def _valid(self, tail: Tail) -> Bool[np.ndarray, "ids"]:
        valid = self._encoder.valid_after(tail[-1]) if tail else self._first
        return valid & self._fallback.mask(self._fallback.begun(tail)) if self._fallback else valid

    def may_end(self, tail: Tail) -> bool:
        """Where a character ends; of byte-level tokens anywhere, for they know no characters."""
        return self._fallback is None or not self._fallback.begun(tail)

    def after(self, tail: Tail, token: int) -> Tail:
        """The last token, and the bytes of an unfinished character before it."""
        begun = self._fallback.begun((*tail, token)) if self._fallback else b""
        return (*tail, token)[-max(1, len(begun)) :]

    def settled(self, data: bytes, tail: Tail = ()) -> list[int]:
        """Nothing is: a merge may reach over any border."""
        return []

    def encode(self, data: bytes, lead: bytes = b"") -> list[int]:
        """Encode a whole text, and what the tokenizer puts before it."""
        return self._encoder.encode(lead + data)
