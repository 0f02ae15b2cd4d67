"""Valid sequences found by encoding again: the slow reference for `PairwiseTokens` and `PiecewiseTokens`.

    valid(tail, t) = for some text to come: encode(bytes of tail + t, and that text) begins with tail + t

Source: valid encodings, arXiv 2410.09303, section 3.
"""

import numpy as np
from jaxtyping import Bool

from tokenry.decoding.byte_level.pairwise_tokens import PairwiseTokens
from tokenry.decoding.byte_level.piecewise_tokens import Kinds, PiecewiseTokens
from tokenry.decoding.byte_level.token_rules import Tail
from tokenry.decoding.byte_level.utf8 import split_unfinished


class ReencodedPairs(PairwiseTokens):
    """`PairwiseTokens` by encoding every pair of neighbours."""

    def _valid(self, tail: Tail) -> Bool[np.ndarray, "ids"]:
        if not tail:
            return super()._valid(tail)
        valid = np.array([self._encoder.pair_valid(tail[-1], number) for number in range(len(self._first))])
        return valid & self._fallback.mask(self._fallback.begun(tail)) if self._fallback else valid


class ReencodedPieces(PiecewiseTokens):
    """`PiecewiseTokens` by encoding the tail with every token, and every way to go on."""

    def _possible(self, tail: Tail) -> tuple[Bool[np.ndarray, "ids"], Bool[np.ndarray, "ids"], Kinds]:
        outline = self._outline(tail)
        kinds = self._kinds((outline.begun, self._pieces.apostrophe_reaches(outline.shape)))
        valid, ending = np.zeros_like(self._whole), np.zeros_like(self._whole)
        for number in np.flatnonzero(kinds.of >= 0).tolist():
            way = self._way((*tail, number))
            valid[number], ending[number] = way is not None, way == ""
        if self._fallback:
            allowed = self._fallback.mask(self._fallback.begun(tail))
            valid, ending = valid & allowed, ending & allowed
        return valid, ending, kinds

    def _way(self, tail: Tail) -> str | None:
        """The first continuation with which the pieces of the tail are encoded as it is; the end of the text comes first."""
        whole, begun = split_unfinished(self._vocabulary.decode(tail))
        followers = self._followers(self._pieces.shape(whole[-32:].decode(errors="ignore")), begun)
        blocked = self.blocked.get(tail[-1], ()) if tail else ()
        found = (
            more
            for more in followers
            if more not in blocked and self._encode_open(whole, begun, more) == list(tail)
        )
        return next(found, None)

    def _encode_open(self, whole: bytes, begun: bytes, more: str) -> list[int]:
        pieces = self._cut(whole, more)
        *closed, last = pieces or [b""]
        # An unfinished character belongs to the piece of the text before it, or begins one.
        begins = bool(begun) and len(whole.decode()) in self._pieces.borders(whole.decode() + more)
        closed, last = ([*closed, last], begun) if begins else (closed, last + begun)
        goes_on = more and len(whole.decode()) not in self._pieces.borders(whole.decode() + more)
        ids = [number for piece in closed for number in self._encoded(piece)]
        return ids + (self._encoder.merge(last) if goes_on or begun else self._encoded(last))
