"""Added tokens: `encode` cuts them out of a text before it cuts what is between them, which changes what may follow what.

A text is read from left to right; where an added token begins, the longest one that stands there is cut out. Hence of every token sequence:

    no added token stands in the text of ordinary tokens, not where it begins there and reaches into what follows either
    none that is longer stands where one was cut out

What is *open* at the end of a sequence is text that an added token may still grow out of: after `<|im` the tokenizer never writes `_end|>`.
With runs of spaces as added tokens (GPT-NeoX):

    "a  b"   a, two spaces, b      after "a", " " nothing that begins with a space can come, since two of them would have been cut out

Tokens that are looked for before the normaliser come first (stage 0), then the others (stage 1), in what lies between those of stage 0.

Source: the added vocabulary of `tokenizers`.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import WHITE_SPACE, ByteVocabulary, CutToken
from tokenry.decoding.byte_level.token_rules import Remembered
from tokenry.decoding.byte_level.utf8 import split_unfinished


class Open(NamedTuple):
    """What added tokens may still grow out of, in one stage.

    Attributes:
        text: the longest end of ordinary text that begins an added token; its own ends may begin one, too.
        cut: beginnings of added tokens that end with one that was cut out, or go on from it.
    """

    text: bytes = b""
    cut: tuple[bytes, ...] = ()


class Scan(NamedTuple):
    """What matters at the end of a sequence.

    Attributes:
        stages: what is open in each of the two.
        white: the white space at the end of ordinary text, where a token may drop it.
        dropped: the white space that a token before drops, so that it cannot come next.
        begun: bytes since that token, as long as they are no whole character.
        led: whether the next byte is the space that the tokenizer puts before a text.
    """

    stages: tuple[Open, Open] = (Open(), Open())
    white: str = ""
    dropped: str = ""
    begun: bytes = b""
    led: bool = False


NOTHING = Scan()


class CutTokens:
    """The added tokens of one tokenizer.

    Raises:
        UserError: one of them is cut out as a word of its own only, or a space is put after each of them.
    """

    def __init__(self, vocabulary: ByteVocabulary) -> None:
        self._vocabulary = vocabulary
        for token in vocabulary.cut:
            if token.single_word:
                raise UserError(
                    f"the added token {token.data.decode(errors='replace')!r} is cut out of a text only where it is a word of its own "
                    "(single_word), so that tokens depend on what stands around them: add it without single_word."
                )
        self._stages = [
            _Stage([token for token in vocabulary.cut if token.normalized is late]) for late in (False, True)
        ]
        # Not kept: special ones, and those that are read as something else.
        self.kept = {token.id: token for token in vocabulary.cut if token.id in vocabulary.cut_ids}
        if vocabulary.prepends_within and self.kept:
            name = next(iter(self.kept.values())).data.decode(errors="replace")
            raise UserError(
                f"the tokenizer puts a space of its own after every added token, and {name!r} is one that is not special, so that the bytes "
                "of tokens are not those of the text: add it as a special token, or use invalid='all'."
            )
        # A normaliser puts the space there before the tokens are looked for that are looked for after it.
        self._sees_lead = vocabulary.prepends_within and not vocabulary.keeps_own_space
        self._lstrip = any(token.lstrip for token in self.kept.values())
        self._forbidden = Remembered(self._find_forbidden, 256)
        self._allowed = Remembered(self._find_allowed, 256)
        self.characters = {
            character for token in vocabulary.cut for character in token.data.decode(errors="replace")
        }

    def read(self, scan: Scan, data: bytes) -> Scan | None:
        """Go on with ordinary text; None where an added token would be cut out of it, or white space dropped."""
        own = data[1:] if scan.led else data
        first = self._stages[0].read(scan.stages[0], own)
        second = self._stages[1].read(scan.stages[1], data if self._sees_lead else own)
        if first is None or second is None or _begins_with(scan.dropped, scan.begun + data):
            return None
        is_whole = not scan.dropped or bool(split_unfinished(scan.begun + data)[0])
        dropped, begun = ("", b"") if is_whole else (scan.dropped, scan.begun + data)
        return Scan((first, second), self._white_at_end(own), dropped, begun)

    def take(self, scan: Scan, token: CutToken) -> Scan | None:
        """Go on with a token that is cut out; None where that cannot be."""
        drops_before = token.lstrip and scan.white and scan.white in token.drops
        if drops_before or _begins_with(scan.dropped, scan.begun + token.data):
            return None
        one, other = self._stages
        first = (
            one.read(scan.stages[0], token.data) if token.normalized else one.take(scan.stages[0], token.data)
        )
        second = other.take(scan.stages[1], token.data) if token.normalized else Open()
        if first is None or second is None:
            return None
        # White space that was cut out after the normaliser is white space of the text still for those that come before it.
        white = self._white_at_end(token.data) if token.normalized else ""
        return Scan((first, second), white, token.drops if token.rstrip else "")

    def _white_at_end(self, data: bytes) -> str:
        last = data.decode(errors="replace")[-1:] if self._lstrip else ""
        return last if last in WHITE_SPACE else ""

    def forbidden(self, scan: Scan) -> Bool[np.ndarray, "ids"]:
        """Ids whose bytes cannot be ordinary text after this."""
        return self._forbidden(scan)

    def allowed(self, scan: Scan) -> list[int]:
        """Ids that can be cut out after this."""
        return self._allowed(scan)

    def opened(self) -> dict[int, Scan]:
        """What ordinary tokens leave open, those that leave something."""
        return {number: scan for number, scan in self._of_tokens.items() if scan and scan != NOTHING}

    @cached_property
    def _of_tokens(self) -> dict[int, Scan | None]:
        """Where tokens lead at the beginning of a text, those that may hold an added token or begin one."""
        contents = [token.data for token in self._vocabulary.cut]
        ends = b"".join(re.escape(bytes([first])) for first in sorted({data[0] for data in contents}))
        beginnings = b"|".join(sorted({re.escape(data[:2]) for data in contents}))
        may_open = re.compile(b"%b|[%b]\\Z" % (beginnings, ends) if contents else b"(?!)", re.DOTALL).search
        order = self._vocabulary.order.tolist()
        # Where a token drops white space before it, that at their end counts as well.
        some = [
            (number, data)
            for number in order
            if (data := self._vocabulary.token_bytes[number]) and (self._lstrip or may_open(data))
        ]
        return {number: self.read(NOTHING, data) for number, data in some}

    def grown(self, scan: Scan) -> list[int]:
        """Ordinary tokens that keep open what is open."""
        return [
            number
            for stage, opened in zip(self._stages, scan.stages, strict=True)
            for rest in stage.rests(opened)
            for end in range(1, len(rest))
            if (number := self._vocabulary.ids.get(rest[:end])) is not None
        ]

    def segments(
        self, data: bytes, lead: bytes = b"", is_whole: bool = True
    ) -> list[tuple[int | None, bytes]]:
        """Cut a text: ids of added tokens, None for what lies between. Where the text may go on, its undecided end is left out.

        Args:
            lead: what the tokenizer puts before it.
            is_whole: whether the text ends there.

        Raises:
            UserError: it holds an added token that stands for no bytes, or for others.
        """
        found: list[tuple[int | None, bytes]] = []
        pieces = self._stages[0].split(data, is_whole)
        for place, (token, piece) in enumerate(pieces):
            if token:
                found.append((self._require_kept(token), piece))
                continue
            seen, unseen = (lead, b"") if self._sees_lead else (b"", lead)
            inner = self._stages[1].split(
                (b"" if place else seen) + piece, is_whole or place + 1 < len(pieces)
            )
            if unseen and not place and inner and inner[0][0] is None:
                inner[0] = None, unseen + inner[0][1]
            found += [(self._require_kept(cut) if cut else None, part) for cut, part in inner]
        self._require_no_dropped_space(found)
        return found

    def refused(self, data: bytes, lead: bytes = b"") -> str:
        """Why a text cannot be written, as far as added tokens are the reason; empty where they are not."""
        try:
            self.segments(data, lead)
        except UserError as error:
            return str(error)
        return ""

    def _require_kept(self, token: CutToken) -> int:
        if token.id in self.kept:
            return token.id
        name = token.data.decode(errors="replace")
        own = self._vocabulary.token_bytes[token.id]
        if token.special:
            why = "a special token, which stands for no bytes"
        else:
            why = f"the token that also stands for {(own or b'').decode(errors='replace')!r}"
        raise UserError(
            f"the text holds {name!r}, which the tokenizer writes as {why}: no token sequence has the bytes of this text."
        )

    def _require_no_dropped_space(self, found: list[tuple[int | None, bytes]]) -> None:
        for (left, before), (right, after) in pairwise(found):
            one, other = (None if number is None else self.kept[number] for number in (left, right))
            is_text = one is None or (one.normalized and other is not None and not other.normalized)
            drops_before = (
                other and other.lstrip and is_text and before.decode(errors="replace")[-1] in other.drops
            )
            drops_after = one and one.rstrip and _begins_with(one.drops, after)
            for token, does, where, name in (
                (other, drops_before, "before", "lstrip"),
                (one, drops_after, "after", "rstrip"),
            ):
                if token and does:
                    raise UserError(
                        f"the tokenizer drops the white space {where} {token.data.decode()!r} ({name}): no token sequence has the bytes "
                        "of this text."
                    )

    def _find_forbidden(self, scan: Scan) -> Bool[np.ndarray, "ids"]:
        vocabulary = self._vocabulary
        found = np.zeros(len(vocabulary.token_bytes), dtype=bool)
        if scan == NOTHING:
            found[[number for number, read in self._of_tokens.items() if read is None]] = True
            return found
        if scan.led and any(stage.firsts >= {ord(" ")} for stage in self._stages):
            for number in vocabulary.with_prefix(b" ").tolist():
                found[number] = self.read(scan, vocabulary.token_bytes[number] or b"") is None
            return found
        found |= self.forbidden(NOTHING)
        for stage, opened in zip(self._stages, scan.stages, strict=True):
            for rest in stage.rests(opened):
                found[vocabulary.with_prefix(rest)] = True
        if scan.dropped:
            for number in vocabulary.order.tolist():
                found[number] |= _begins_with(
                    scan.dropped, scan.begun + (vocabulary.token_bytes[number] or b"")
                )
        return found

    def _find_allowed(self, scan: Scan) -> list[int]:
        return [token.id for token in self.kept.values() if self.take(scan, token) is not None]


class _Stage:
    """The added tokens that are looked for at the same time."""

    def __init__(self, tokens: list[CutToken]) -> None:
        self._tokens = {token.data: token for token in tokens}
        self._sorted = sorted(self._tokens)
        self._longest = max(map(len, self._sorted), default=0)
        self._beginnings = {data[:end] for data in self._sorted for end in range(1, len(data))}
        self.firsts = {data[0] for data in self._sorted}

    def read(self, opened: Open, data: bytes) -> Open | None:
        """Go on with ordinary text."""
        if any(self._reaches(begun + data, len(begun)) for begun in opened.cut):
            return None
        cut = tuple(begun + data for begun in opened.cut if begun + data in self._beginnings)
        if not opened.text and self.firsts.isdisjoint(data):
            return Open(b"", cut)
        text = opened.text + data
        for start in range(len(text)):
            if text[start] in self.firsts and self._reaches(text[start:], max(0, len(opened.text) - start)):
                return None
        starts = range(max(0, len(text) - self._longest + 1), len(text))
        return Open(next((text[start:] for start in starts if text[start:] in self._beginnings), b""), cut)

    def take(self, opened: Open, data: bytes) -> Open | None:
        """Go on with a token that is cut out."""
        begun = [*opened.cut, *(opened.text[start:] for start in range(len(opened.text)))]
        if any(self._reaches(start + data, len(start)) for start in begun):
            return None
        return Open(b"", tuple(start + data for start in (*begun, b"") if start + data in self._beginnings))

    def rests(self, opened: Open) -> Iterator[bytes]:
        """What must not come next: the rest of each added token that is open."""
        ends = {opened.text[start:] for start in range(len(opened.text))}.union(opened.cut)
        for begun in ends & self._beginnings:
            place = bisect_left(self._sorted, begun)
            while place < len(self._sorted) and self._sorted[place].startswith(begun):
                if len(self._sorted[place]) > len(begun):
                    yield self._sorted[place][len(begun) :]
                place += 1

    def split(self, data: bytes, is_whole: bool) -> list[tuple[CutToken | None, bytes]]:
        """Cut out added tokens; where the text may go on, its undecided end is left out."""
        found: list[tuple[CutToken | None, bytes]] = []
        start = place = 0
        while place < len(data):
            if data[place] in self.firsts:
                if not is_whole and data[place:] in self._beginnings:
                    break
                length = self._reaches(data[place:], 0)
                if length:
                    found += [(None, data[start:place])] if start < place else []
                    found.append((self._tokens[data[place : place + length]], data[place : place + length]))
                    start = place = place + length
                    continue
            place += 1
        if start < place:
            found.append((None, data[start:place]))
        return found

    def _reaches(self, data: bytes, beyond: int) -> int:
        """The length of the longest token at the beginning of `data` that is longer than `beyond`; 0 where there is none."""
        for length in range(min(self._longest, len(data)), beyond, -1):
            if data[:length] in self._tokens:
                return length
        return 0


def _begins_with(some: str, data: bytes) -> bool:
    """Whether the first character is one of some; never of an unfinished one."""
    return bool(some) and bool(data) and split_unfinished(data)[0].decode(errors="replace")[:1] in tuple(some)
