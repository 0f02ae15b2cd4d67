"""Valid sequences of a byte-pair tokenizer with a pre-tokenizer: valid pairs within pieces, anything between them.

    valid(tail, t) = for some text to come: the pieces of tail + t begin between tokens only, and neighbours in one piece are valid pairs

Where the pieces end can depend on what follows (white space before a letter, contractions, digits counted from the right), so every way
to go on is looked at: one text for each class of characters that the pre-tokenizer can tell apart.

Source: valid encodings, arXiv 2410.09303, section 3; the union over what may follow after ByteSampler (arXiv 2506.14123).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int

from tokenry.core.text.byte_level import ByteVocabulary
from tokenry.core.text.byte_pairs import BytePairEncoder
from tokenry.decoding.byte_level.character_fallback import CharacterFallback
from tokenry.decoding.byte_level.pieces import Pieces
from tokenry.decoding.byte_level.token_rules import REMEMBERED_BYTES, Remembered, Tail, whole_tokens
from tokenry.decoding.byte_level.utf8 import split_unfinished


@dataclass(frozen=True)
class _Outline:
    """A tail as the pre-tokenizer sees it.

    Attributes:
        shape: its characters, the unfinished one left out.
        joints: where each token ends in it; -1 inside a character.
        begun: the bytes of the unfinished character.
    """

    shape: str
    joints: tuple[int, ...]
    begun: bytes

    def allows(self, borders: Iterable[int]) -> bool:
        """Whether pieces begin between tokens only, as far as the tail reaches."""
        last = len(self.shape) - (not self.begun)
        return all(border in self.joints for border in borders if border <= last)


@dataclass(frozen=True)
class _Cut:
    """One way in which a tail and what comes next can be cut into pieces.

    Attributes:
        apart: for each two neighbours in the tail, whether a piece begins between them.
        new_piece: whether the next token begins a piece.
        ends: whether the text ends with that token.
    """

    apart: tuple[bool, ...]
    new_piece: bool
    ends: bool


@dataclass(frozen=True)
class Kinds:
    """Next tokens by what the pre-tokenizer sees of them.

    Attributes:
        texts: of each kind the shape of its whole characters, the classes that an unfinished one at its end can become, and what
            cannot follow.
        of: the kind of each id; -1 where it cannot come next.
    """

    texts: list[tuple[str, tuple[str, ...], frozenset[str]]]
    of: Int[np.ndarray, "ids"]

    @cached_property
    def unfinished(self) -> Bool[np.ndarray, "ids"]:
        """Ids that end inside a character."""
        return np.array([bool(completions) for _, completions, _ in self.texts] + [False])[self.of]


class PiecewiseTokens:
    """Valid pairs within pieces, anything between them: a byte-pair tokenizer with a pre-tokenizer.

    Attributes:
        blocked: of some ids, what cannot follow them for reasons of others.
    """

    def __init__(self, encoder: BytePairEncoder, vocabulary: ByteVocabulary, pieces: Pieces) -> None:
        self._encoder, self._vocabulary, self._pieces = encoder, vocabulary, pieces
        self._whole = whole_tokens(encoder)
        self.blocked: dict[int, frozenset[str]] = {}
        self._fallback = CharacterFallback(vocabulary) if vocabulary.fallback else None
        many = max(16, REMEMBERED_BYTES // len(self._whole))
        self._masks = Remembered(self._valid, many)
        self._pairs = Remembered(encoder.valid_after, many)
        self._kinds = Remembered(self._find_kinds, 64)
        self._cuts = Remembered(self._find_cuts, 4096)
        self._dropped = Remembered(self._find_dropped, 4096)
        self._encoded = Remembered(encoder.encode, 1 << 16)

    def valid(self, tail: Tail) -> Bool[np.ndarray, "ids"]:
        """Ids that are valid in some way to go on, and do not lead into a dead end."""
        return self._masks(tail)

    def may_end(self, tail: Tail) -> bool:
        """Whether encoding the tail as a whole text gives it back."""
        outline = self._outline(tail)
        borders = self._pieces.borders(outline.shape)
        return not outline.begun and outline.allows(borders) and self._holds(tail, outline, borders)

    def after(self, tail: Tail, token: int) -> Tail:
        """Take one more token, and leave out those before the last border that no later text can move."""
        new = (*tail, token)
        return new[self._dropped(self._outline(new)) :]

    def settled(self, data: bytes, tail: Tail = ()) -> list[int]:
        """Encode the pieces before the last border that no later text can move."""
        whole, begun = split_unfinished(data)
        try:
            text = whole.decode()
        except UnicodeDecodeError:
            return []
        followers = self._followers(self._pieces.shape(text[-8:]), begun)
        agreed = _agreed([self._borders(text, more) for more in followers], len(text))
        pieces = [text[start:end].encode() for start, end in pairwise((0, *agreed))]
        return [number for piece in pieces for number in self._encoded(piece)]

    def encode(self, data: bytes, lead: bytes = b"") -> list[int]:
        """Encode a whole text, and what the tokenizer puts before it; a byte that is no character is cut like an unknown one."""
        return [number for piece in self._cut(lead + data, "") for number in self._encoded(piece)]

    def following(self) -> list[str]:
        """What may follow a text, one continuation for each way it can be cut."""
        return self._pieces.followers("")

    def valid_before(self, tail: Tail, number: int, blocked: frozenset[str]) -> bool:
        """Whether an id is valid where some of what could follow it cannot."""
        outline = self._outline(tail)
        text, rest = self._read(number, outline.begun) or ("", b"")
        shape = self._pieces.shape(text, self._pieces.apostrophe_reaches(outline.shape))
        completions = self._pieces.completions(rest) if rest else ()
        return any(
            self._neighbours_hold(tail, cut.apart)
            and bool(self._whole[number] if cut.new_piece else self._pairs(tail[-1])[number])
            for cut in self._cuts_of(outline, shape, completions, blocked)
        )

    def _cut(self, data: bytes, more: str) -> list[bytes]:
        """The pieces of bytes that go on with `more`, as far as the bytes reach."""
        characters = data.decode(errors="surrogateescape")
        text = re.sub("[\udc80-\udcff]", "\N{REPLACEMENT CHARACTER}", characters)
        ends = np.cumsum([0, *(len(character.encode(errors="surrogateescape")) for character in characters)])
        borders = [int(ends[border]) for border in self._pieces.borders(text + more) if border < len(text)]
        return [data[start:end] for start, end in pairwise((0, *borders, len(data)))] if data else []

    def _valid(self, tail: Tail) -> Bool[np.ndarray, "ids"]:
        valid, ending, kinds = self._possible(tail)
        # A text that cannot end after a token must be able to go on; a character always is.
        open_ended = valid & ~ending & ~kinds.unfinished
        for kind in np.unique(kinds.of[open_ended]):
            some = np.flatnonzero(open_ended & (kinds.of == kind))
            if not self._goes_on((*tail, int(some[0]))):
                valid[some] = False
        return valid

    def _goes_on(self, tail: Tail, steps: int = 3) -> bool:
        if self.may_end(tail):
            return True
        tail = self.after(tail[:-1], tail[-1])
        valid, ending, kinds = self._possible(tail)
        if not steps or bool((ending | valid & kinds.unfinished).any()):
            return bool(valid.any())
        firsts = [int(np.flatnonzero(valid & (kinds.of == kind))[0]) for kind in np.unique(kinds.of[valid])]
        return any(self._goes_on((*tail, token), steps - 1) for token in firsts)

    def _possible(self, tail: Tail) -> tuple[Bool[np.ndarray, "ids"], Bool[np.ndarray, "ids"], Kinds]:
        """Ids that are valid in some way to go on, those of them after which the text can end, and their kinds."""
        outline = self._outline(tail)
        kinds = self._kinds((outline.begun, self._pieces.apostrophe_reaches(outline.shape)))
        # For each kind: joins the piece or begins one; then the same where the text ends.
        ways = np.zeros((4, len(kinds.texts) + 1), dtype=bool)
        for kind, cuts in enumerate(self._cuts(outline)):
            for cut in cuts:
                if self._neighbours_hold(tail, cut.apart):
                    ways[int(cut.new_piece), kind] = True
                    ways[2 + int(cut.new_piece), kind] |= cut.ends
        joins, begins, joins_and_ends, begins_and_ends = ways[:, kinds.of]
        pairs = self._pairs(tail[-1]) if tail else np.zeros_like(self._whole)
        valid = (joins & pairs) | (begins & self._whole)
        ending = (joins_and_ends & pairs) | (begins_and_ends & self._whole)
        if self._fallback:
            allowed = self._fallback.mask(self._fallback.begun(tail))
            valid, ending = valid & allowed, ending & allowed
        return valid, ending, kinds

    def _holds(self, tail: Tail, outline: _Outline, borders: Iterable[int]) -> bool:
        return self._neighbours_hold(tail, tuple(joint in set(borders) for joint in outline.joints[:-1]))

    def _neighbours_hold(self, tail: Tail, apart: tuple[bool, ...]) -> bool:
        neighbours = zip(pairwise(tail), apart, strict=True)
        return all(cut or self._encoder.pair_valid(left, right) for (left, right), cut in neighbours)

    def _outline(self, tail: Tail) -> _Outline:
        parts = [self._vocabulary.token_bytes[number] or b"" for number in tail]
        whole, begun = split_unfinished(b"".join(parts))
        shape, joints, start = "", [], 0
        for end in np.cumsum([len(part) for part in parts]).tolist() if parts else []:
            try:
                text = whole[start:end].decode()
            except UnicodeDecodeError:
                joints.append(-1)
                continue
            shape += self._pieces.shape(text, self._pieces.apostrophe_reaches(shape))
            joints.append(len(shape) if end <= len(whole) else -1)
            start = end
        return _Outline(shape, tuple(joints), begun)

    def _followers(self, shape: str, begun: bytes) -> Sequence[str]:
        return self._pieces.completions(begun) if begun else self._pieces.followers(shape)

    def _find_cuts(self, outline: _Outline) -> list[set[_Cut]]:
        """For each kind of next token, the ways in which it and the tail can be cut."""
        reach = self._pieces.apostrophe_reaches(outline.shape)
        return [self._cuts_of(outline, *kind) for kind in self._kinds((outline.begun, reach)).texts]

    def _cuts_of(
        self, outline: _Outline, text: str, completions: tuple[str, ...], blocked: frozenset[str]
    ) -> set[_Cut]:
        start = len(outline.shape)
        end = start + len(text) + bool(completions)
        cuts = set()
        for more in completions or self._pieces.followers(outline.shape + text):
            if more in blocked:
                continue
            borders = self._pieces.borders(outline.shape + text + more)
            if outline.allows(borders) and not any(start < border < end for border in borders):
                apart = tuple(joint in borders for joint in outline.joints[:-1])
                new_piece = not outline.begun and (start == 0 or start in borders)
                cuts.add(_Cut(apart, new_piece, not more))
        return cuts

    def _find_kinds(self, where: tuple[bytes, int]) -> Kinds:
        begun, reach = where
        kinds: dict[tuple[str, tuple[str, ...], frozenset[str]], int] = {}
        free = frozenset[str]()
        of = np.full(len(self._whole), -1)
        for number, (text, rest) in (self._continuations(begun) if begun else self._texts).items():
            completions = self._pieces.completions(rest) if rest else ()
            blocked = free if rest else self.blocked.get(number, free)
            kind = self._pieces.shape(text, reach), completions, blocked
            of[number] = kinds.setdefault(kind, len(kinds))
        return Kinds(list(kinds), of)

    @cached_property
    def _texts(self) -> dict[int, tuple[str, bytes]]:
        """Tokens that begin with a character: their whole characters, and the unfinished one at their end."""
        return {
            number: text for number in self._vocabulary.order.tolist() if (text := self._read(number, b""))
        }

    def _continuations(self, begun: bytes) -> dict[int, tuple[str, bytes]]:
        """Tokens that go on with an unfinished character."""
        order, going_on = (
            self._vocabulary.order,
            slice(self._vocabulary.prefix_range(b"\x80").start, self._vocabulary.prefix_range(b"\xbf").stop),
        )
        return {number: text for number in order[going_on].tolist() if (text := self._read(number, begun))}

    def _read(self, number: int, begun: bytes) -> tuple[str, bytes] | None:
        whole, rest = split_unfinished(begun + (self._vocabulary.token_bytes[number] or b""))
        try:
            return whole.decode(), rest
        except UnicodeDecodeError:
            return None

    def _find_dropped(self, outline: _Outline) -> int:
        """How many tokens lie before the last border that no later text can move."""
        ways = [self._borders(outline.shape, more) for more in self._followers(outline.shape, outline.begun)]
        agreed = [border for border in _agreed(ways, len(outline.shape)) if border in outline.joints]
        return outline.joints.index(agreed[-1]) + 1 if agreed else 0

    def _borders(self, text: str, more: str) -> tuple[int, ...]:
        """Where pieces begin in a text that goes on; where nothing follows, its end is a border."""
        return self._pieces.borders(text + more) + (() if more else (len(text),))


def _agreed(ways: list[tuple[int, ...]], length: int) -> list[int]:
    """The borders, from the first on and within `length`, on which all ways to cut agree."""
    agreed = []
    for here in zip(*ways, strict=False):
        if len(set(here)) > 1 or here[0] > length:
            break
        agreed.append(here[0])
    return agreed
