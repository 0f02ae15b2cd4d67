"""Valid sequences of a tokenizer that cuts added tokens out of a text: ordinary rules between them, and theirs on top.

    valid(t) = an ordinary token that is valid in the stretch since the last one that was cut out, and leaves no added token standing
               or an added token, where that stretch may end

Source: valid encodings, arXiv 2410.09303, section 3; the added vocabulary of `tokenizers`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import ByteVocabulary
from tokenry.decoding.byte_level.composed_text import ComposedText
from tokenry.decoding.byte_level.cut_tokens import NOTHING, CutTokens, Scan
from tokenry.decoding.byte_level.pairwise_tokens import PairwiseTokens
from tokenry.decoding.byte_level.piecewise_tokens import PiecewiseTokens
from tokenry.decoding.byte_level.token_rules import Remembered, Tail


class Place(NamedTuple):
    """Where a sequence has come to.

    Attributes:
        stretch: the tail since the last token that was cut out.
        scan: what added tokens may still grow out of.
        composed: the text from its last starter on, where the tokenizer composes characters.
        cut_only: whether only an added token may come: a text that begins with one has no space put before it.
        led: whether there is nothing yet but the space that the tokenizer puts before a text.
    """

    stretch: Tail = ()
    scan: Scan = NOTHING
    composed: bytes = b""
    cut_only: bool = False
    led: bool = False


LED = Place(scan=Scan(led=True), led=True)
"""Before the space that the tokenizer puts before a text."""

CUT_ONLY = Place(cut_only=True)
"""Before a text that begins with an added token."""


class SegmentedTokens:
    """The rules of one tokenizer with added tokens, or with composition of characters."""

    def __init__(
        self,
        stretches: PairwiseTokens | PiecewiseTokens,
        vocabulary: ByteVocabulary,
        cut: CutTokens,
        composed: ComposedText | None,
    ) -> None:
        self._stretches, self._vocabulary, self._cut, self._composed = stretches, vocabulary, cut, composed
        self._blocked = Remembered(self._find_blocked, 1 << 12)
        opened = cut.opened() if isinstance(stretches, PiecewiseTokens) else {}
        found = {number: self._blocked(scan) for number, scan in opened.items()}
        if isinstance(stretches, PiecewiseTokens):
            stretches.blocked = {number: blocked for number, blocked in found.items() if blocked}

    @property
    def cuts(self) -> bool:
        """Whether there are added tokens that stand for what they are cut out of."""
        return bool(self._cut.kept)

    def valid(self, tail: Tail) -> Bool[np.ndarray, "ids"]:
        """Ids that can come next."""
        place = _place(tail)
        if place.cut_only:
            valid = np.zeros(len(self._vocabulary.token_bytes), dtype=bool)
        else:
            valid = self._stretches.valid(place.stretch) & ~self._cut.forbidden(place.scan)
            self._leave_out_blocked(place, valid)
        if self._composed:
            valid &= ~self._composed.forbidden(place.composed)
        if self._cut.kept and self._may_cut(place):
            some = self._cut.allowed(place.scan)
            if self._composed:
                some = [number for number in some if self._composes(place, number)]
            valid[some] = True
        return valid

    def may_end(self, tail: Tail) -> bool:
        """Whether the text can end here."""
        place = _place(tail)
        return not place.cut_only and not place.led and self._stretches.may_end(place.stretch)

    def after(self, tail: Tail, token: int) -> Place:
        """Take one more token."""
        place = _place(tail)
        data = self._vocabulary.token_bytes[token] or b""
        if cut := self._cut.kept.get(token):
            composed = self._composed.read(place.composed, data) if self._composed and cut.normalized else b""
            return Place((), self._cut.take(place.scan, cut) or NOTHING, composed or b"")
        composed = self._composed.read(place.composed, data) if self._composed else b""
        scan = self._cut.read(place.scan, data)
        led = place.led and place.scan.led and data == b" "
        return Place(self._stretches.after(place.stretch, token), scan or NOTHING, composed or b"", led=led)

    def settled(self, data: bytes, tail: Tail = ()) -> list[int]:
        """Encode the part of a text that no later text can change."""
        led = int(_place(tail).led)
        try:
            segments = self._cut.segments(data[led:], data[:led], is_whole=False)
        except UserError:
            return []
        ids: list[int] = []
        for place, (token, piece) in enumerate(segments):
            if token is not None:
                ids.append(token)
            elif place + 1 < len(segments):
                ids += self._stretches.encode(piece)
            else:
                ids += self._stretches.settled(piece)
        return ids

    def encode(self, data: bytes, lead: bytes = b"") -> list[int]:
        """Encode a whole text, and what the tokenizer puts before it.

        Raises:
            UserError: it holds an added token that stands for no bytes, or for others.
        """
        segments = self._cut.segments(data, lead)
        pieces = (
            [token] if token is not None else self._stretches.encode(piece) for token, piece in segments
        )
        return [number for ids in pieces for number in ids]

    def refused(self, data: bytes, lead: bytes = b"") -> str:
        """Why a text cannot be written; empty where it can, or for other reasons."""
        return self._cut.refused(data, lead)

    def _may_cut(self, place: Place) -> bool:
        if place.led:
            return False
        return place.cut_only or not place.stretch or self._stretches.may_end(place.stretch)

    def _composes(self, place: Place, number: int) -> bool:
        token = self._cut.kept[number]
        composed = self._composed
        return (
            composed is None or not token.normalized or composed.read(place.composed, token.data) is not None
        )

    def _leave_out_blocked(self, place: Place, valid: Bool[np.ndarray, "ids"]) -> None:
        """Tokens that leave open what was open before them are followed by less than they are elsewhere."""
        if place.scan == NOTHING or not isinstance(self._stretches, PiecewiseTokens):
            return
        for number in self._cut.grown(place.scan):
            scan = (
                self._cut.read(place.scan, self._vocabulary.token_bytes[number] or b"")
                if valid[number]
                else None
            )
            if scan and (blocked := self._blocked(scan)):
                valid[number] = self._stretches.valid_before(place.stretch, number, blocked)

    def _find_blocked(self, scan: Scan) -> frozenset[str]:
        """What cannot follow a text without an added token being cut out of both."""
        if not isinstance(self._stretches, PiecewiseTokens):
            return frozenset()
        return frozenset(
            more
            for more in self._stretches.following()
            if more and self._cut.read(scan, more.encode()) is None
        )


def _place(tail: Tail) -> Place:
    return tail if isinstance(tail, Place) else Place(tail)
