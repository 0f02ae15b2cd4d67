"""Which tokens a tokenizer can write after others, whatever text is still to come.

    valid(t) = there is a text whose encoding begins with t

Within a piece of the pre-tokenizer, neighbours must be valid pairs of the byte-pair machine; between pieces anything goes. Where the pieces
end can depend on what follows (white space before a letter, contractions, digits counted from the right), so every way to go on is looked
at. A sequence is known by its *tail*: the tokens since the last border between pieces that no later text can move.

Source: valid encodings and cover encodings, arXiv 2410.09303, section 3; pairwise validity and the union over what may follow after
ByteSampler (arXiv 2506.14123).
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenry.core.byte_level import ByteVocabulary, backend_tokenizer
from tokenry.core.byte_pairs import BytePairEncoder
from tokenry.core.errors import UserError
from tokenry.decoding.pieces import Pieces
from tokenry.decoding.utf8 import code_points, missing_bytes, split_unfinished

Tail = tuple[int, ...]
"""The tokens that still matter for what may follow; empty at the beginning of a text."""

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")

# A mask of all tokens takes a byte per token: 64 MB of them.
_REMEMBERED_BYTES = 1 << 26


@runtime_checkable
class ValidTokens(Protocol):
    """What may follow a sequence of tokens."""

    def valid(self, tail: Tail) -> Bool[np.ndarray, "ids"]:
        """Tell for every id whether it can come next."""
        ...

    def may_end(self, tail: Tail) -> bool:
        """Tell whether the text can end here."""
        ...

    def after(self, tail: Tail, token: int) -> Tail:
        """Take one more token."""
        ...

    def settled(self, data: bytes) -> list[int]:
        """Encode the part of a text that no later text can change."""
        ...


class Remembered(Generic[_Key, _Value]):
    """What has been found lately, up to a number of things."""

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

    def settled(self, data: bytes) -> list[int]:
        """Nothing is settled."""
        return []


class CharacterFallback:
    """The rule of tokens that are written for the bytes of a character that is no token (`<0xE6>`)."""

    def __init__(self, vocabulary: ByteVocabulary) -> None:
        self._vocabulary = vocabulary
        self._fallback = np.zeros(len(vocabulary.token_bytes), dtype=bool)
        self._fallback[list(vocabulary.fallback)] = True
        self._own: dict[bytes, int] = {}
        for number, data in enumerate(vocabulary.token_bytes):
            if data and number not in vocabulary.fallback and _is_character(data):
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
        """Tell whether some character that begins so is no token."""
        possible = len(code_points(begun)) if missing_bytes(begun) else int(_is_character(begun))
        return possible > self._own.get(begun, 0)


class PairwiseTokens:
    """Neighbours are valid pairs: a byte-pair tokenizer whose pre-tokenizer, if it has one, never cuts."""

    def __init__(self, encoder: BytePairEncoder, vocabulary: ByteVocabulary) -> None:
        self._encoder, self._first = encoder, whole_tokens(encoder)
        self._fallback = CharacterFallback(vocabulary) if vocabulary.fallback else None
        self._masks = Remembered(self._valid, max(16, _REMEMBERED_BYTES // len(self._first)))

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

    def settled(self, data: bytes) -> list[int]:
        """Nothing is: a merge may reach over any border."""
        return []

    def encode(self, data: bytes) -> list[int]:
        """Encode a whole text."""
        return self._encoder.encode(data)


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
        """Tell whether pieces begin between tokens only, as far as the tail reaches."""
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
class _Kinds:
    """Next tokens by what the pre-tokenizer sees of them.

    Attributes:
        texts: of each kind the shape of its whole characters, and the classes that an unfinished one at its end can become.
        of: the kind of each id; -1 where it cannot come next.
    """

    texts: list[tuple[str, tuple[str, ...]]]
    of: Int[np.ndarray, "ids"]

    @cached_property
    def unfinished(self) -> Bool[np.ndarray, "ids"]:
        """Ids that end inside a character."""
        return np.array([bool(completions) for _, completions in self.texts] + [False])[self.of]


class PiecewiseTokens:
    """Valid pairs within pieces, anything between them: a byte-pair tokenizer with a pre-tokenizer."""

    def __init__(self, encoder: BytePairEncoder, vocabulary: ByteVocabulary, pieces: Pieces) -> None:
        self._encoder, self._vocabulary, self._pieces = encoder, vocabulary, pieces
        self._whole = whole_tokens(encoder)
        self._fallback = CharacterFallback(vocabulary) if vocabulary.fallback else None
        many = max(16, _REMEMBERED_BYTES // len(self._whole))
        self._masks = Remembered(self._valid, many)
        self._pairs = Remembered(encoder.valid_after, many)
        self._kinds = Remembered(self._find_kinds, 64)
        self._cuts = Remembered(self._find_cuts, 4096)
        self._dropped = Remembered(self._find_dropped, 4096)
        self._encoded = Remembered(encoder.encode, 1 << 16)
        pieces.classify("".join(text for text, _ in self._texts.values()))

    def valid(self, tail: Tail) -> Bool[np.ndarray, "ids"]:
        """Ids that are valid in some way to go on, and do not lead into a dead end."""
        return self._masks(tail)

    def may_end(self, tail: Tail) -> bool:
        """Tell whether encoding the tail as a whole text gives it back."""
        outline = self._outline(tail)
        borders = self._pieces.borders(outline.shape)
        return not outline.begun and outline.allows(borders) and self._holds(tail, outline, borders)

    def after(self, tail: Tail, token: int) -> Tail:
        """Take one more token, and leave out those before the last border that no later text can move."""
        new = (*tail, token)
        return new[self._dropped(self._outline(new)) :]

    def settled(self, data: bytes) -> list[int]:
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

    def encode(self, data: bytes) -> list[int]:
        """Encode a whole text; a byte that is no character is cut like an unknown one."""
        return [number for piece in self._cut(data, "") for number in self._encoded(piece)]

    def _cut(self, data: bytes, more: str) -> list[bytes]:
        """The pieces of bytes that go on with `more`, as far as the bytes reach."""
        characters = data.decode(errors="surrogateescape")
        text = re.sub("[\udc80-\udcff]", "\N{REPLACEMENT CHARACTER}", characters)
        ends = np.cumsum([0, *(len(each.encode(errors="surrogateescape")) for each in characters)])
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

    def _possible(self, tail: Tail) -> tuple[Bool[np.ndarray, "ids"], Bool[np.ndarray, "ids"], _Kinds]:
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
        start = len(outline.shape)
        reach = self._pieces.apostrophe_reaches(outline.shape)
        found = []
        for text, completions in self._kinds((outline.begun, reach)).texts:
            end = start + len(text) + bool(completions)
            cuts = set()
            for more in completions or self._pieces.followers(outline.shape + text):
                borders = self._pieces.borders(outline.shape + text + more)
                if outline.allows(borders) and not any(start < border < end for border in borders):
                    apart = tuple(joint in borders for joint in outline.joints[:-1])
                    new_piece = not outline.begun and (start == 0 or start in borders)
                    cuts.add(_Cut(apart, new_piece, not more))
            found.append(cuts)
        return found

    def _find_kinds(self, where: tuple[bytes, int]) -> _Kinds:
        begun, reach = where
        kinds: dict[tuple[str, tuple[str, ...]], int] = {}
        of = np.full(len(self._whole), -1)
        for number, (text, rest) in (self._continuations(begun) if begun else self._texts).items():
            kind = self._pieces.shape(text, reach), self._pieces.completions(rest) if rest else ()
            of[number] = kinds.setdefault(kind, len(kinds))
        return _Kinds(list(kinds), of)

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


class ReencodedPairs(PairwiseTokens):
    """The same by encoding every pair of neighbours: slow, the reference."""

    def _valid(self, tail: Tail) -> Bool[np.ndarray, "ids"]:
        if not tail:
            return super()._valid(tail)
        valid = np.array([self._encoder.pair_valid(tail[-1], number) for number in range(len(self._first))])
        return valid & self._fallback.mask(self._fallback.begun(tail)) if self._fallback else valid


class ReencodedPieces(PiecewiseTokens):
    """The same by encoding the tail with every token, and every way to go on: slow, the reference."""

    def _possible(self, tail: Tail) -> tuple[Bool[np.ndarray, "ids"], Bool[np.ndarray, "ids"], _Kinds]:
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
        found = (more for more in followers if self._encode_open(whole, begun, more) == list(tail))
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


def valid_tokens(
    tokenizer: PreTrainedTokenizerBase | Tokenizer, vocabulary: ByteVocabulary, reencode: bool = False
) -> PairwiseTokens | PiecewiseTokens:
    """Read what a tokenizer can write; `reencode` for the slow reference.

    Raises:
        UserError: it is no byte-pair tokenizer, or its pre-tokenizer drops characters or is unknown.
    """
    model = type(backend_tokenizer(tokenizer).model).__name__
    if model != "BPE":
        raise UserError(
            f"the tokenizer is a {model} model, whose valid sequences cannot be told pair by pair: give a byte-pair tokenizer, or use "
            "invalid='all'."
        )
    encoder, pieces = BytePairEncoder.from_tokenizer(tokenizer), Pieces.of(tokenizer)
    if pieces is None:
        return (ReencodedPairs if reencode else PairwiseTokens)(encoder, vocabulary)
    return (ReencodedPieces if reencode else PiecewiseTokens)(encoder, vocabulary, pieces)


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


def _agreed(ways: list[tuple[int, ...]], length: int) -> list[int]:
    """The borders, from the first on and within `length`, on which all ways to cut agree."""
    agreed = []
    for here in zip(*ways, strict=False):
        if len(set(here)) > 1 or here[0] > length:
            break
        agreed.append(here[0])
    return agreed


def _is_character(data: bytes) -> bool:
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError:
        return False
