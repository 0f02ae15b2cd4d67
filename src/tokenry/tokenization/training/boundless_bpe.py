"""The BoundlessBPE tokenizer: byte-pair encoding whose tokens may span words, and which deletes tokens that it no longer needs.

A trained tokenizer is the list of its events (`boundless_training` finds them), and encoding replays them in their order:

    merge        two neighbouring tokens inside a piece (word) become one
    supermerge   two neighbouring pieces that are each one token become one piece
    delete       a token is broken up into its bytes

Stock tokenizers know neither deletions nor merges that need whole words, so this one has its own encoder.

Source: BoundlessBPE (arXiv 2504.00178).
"""

import heapq
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Literal

from tokenizers.pre_tokenizers import PreTokenizer

from tokenry.core.errors import UserError
from tokenry.core.io.files import atomic_write, read_json
from tokenry.core.text.byte_level import ByteVocabulary, from_byte_characters, to_byte_characters
from tokenry.tokenization.training.byte_level_training import PATTERN, byte_level_pieces, require_vocab_size

Kind = Literal["merge", "delete", "supermerge"]
_FORMAT = "tokenry boundless-bpe 1"


@dataclass(frozen=True)
class Event:
    """One step of training, which encoding replays; `right` is empty where `left` is deleted."""

    kind: Kind
    left: bytes
    right: bytes = b""

    @property
    def token(self) -> bytes:
        """The bytes of the token that is made or deleted."""
        return self.left + self.right


@dataclass(frozen=True)
class BoundlessBPE:
    """A trained tokenizer: its events, in their order.

    Attributes:
        events: the events of training.
        pattern: regular expression that cuts a text into pieces.
        special_tokens: tokens with the lowest ids, which no text produces.
        free_deleted: whether deleted tokens have no id.
    """

    events: tuple[Event, ...]
    pattern: str = PATTERN
    special_tokens: tuple[str, ...] = ()
    free_deleted: bool = True

    @cached_property
    def vocabulary(self) -> ByteVocabulary:
        """The bytes of each id: special tokens, the 256 bytes, then the tokens that were made and not deleted, in that order."""
        made: dict[bytes, None] = {bytes([byte]): None for byte in range(256)}
        for event in self.events:
            if event.kind != "delete":
                made.setdefault(event.token)
            elif self.free_deleted:
                made.pop(event.token, None)
        special = len(self.special_tokens)
        return ByteVocabulary((*[None] * special, *made), frozenset(range(special)))

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.vocabulary.token_bytes)

    def encode(self, text: str | bytes) -> list[int]:
        """Cut a text, or any bytes, into token ids; a byte that is not UTF-8 is a piece of its own."""
        ids = self.vocabulary.ids
        return [ids[token] for token in self.tokens(text)]

    def count(self, text: str) -> int:
        """Count the tokens of a text."""
        return len(self.tokens(text))

    def decode(self, ids: Sequence[int]) -> bytes:
        """Join the bytes of tokens; special tokens have none."""
        return self.vocabulary.decode(list(ids))

    def tokens(self, text: str | bytes) -> list[bytes]:
        """Cut a text, or any bytes, into the bytes of its tokens."""
        return _Replay(self._rules, [*self._pieces(text)]).run()

    def smaller(self, vocab_size: int) -> "BoundlessBPE":
        """The tokenizer that the same training would have made at a smaller vocabulary."""
        require_vocab_size(vocab_size, self.special_tokens)
        size, kept = 256 + len(self.special_tokens), 0
        for number, event in enumerate(self.events):
            # Deletions belong to the merge before them.
            if event.kind != "delete" and size >= vocab_size:
                break
            size += 1 if event.kind != "delete" else -int(self.free_deleted)
            kept = number + 1
        return BoundlessBPE(self.events[:kept], self.pattern, self.special_tokens, self.free_deleted)

    def save(self, path: Path) -> None:
        """Write the tokenizer to a JSON file, atomically."""
        with atomic_write(path) as partial:
            partial.write_text(self.to_json() + "\n", encoding="utf-8")

    def to_json(self) -> str:
        """The tokenizer as JSON; bytes are written in byte-level characters."""
        events = [
            [event.kind, *(to_byte_characters(part) for part in (event.left, event.right) if part)]
            for event in self.events
        ]
        content = {
            "format": _FORMAT,
            "pattern": self.pattern,
            "special_tokens": list(self.special_tokens),
            "free_deleted": self.free_deleted,
            "events": events,
        }
        return json.dumps(content, ensure_ascii=False)

    @classmethod
    def load(cls, path: Path) -> "BoundlessBPE":
        """Read a file that `save` wrote."""
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise UserError(f"{path} is not a BoundlessBPE tokenizer: give a file that its save() wrote.")
        events = tuple(Event(kind, *map(from_byte_characters, parts)) for kind, *parts in content["events"])
        return cls(events, content["pattern"], tuple(content["special_tokens"]), content["free_deleted"])

    @cached_property
    def _rules(self) -> "_Rules":
        return _Rules.of(self.events)

    def _pieces(self, text: str | bytes) -> Iterator[bytes]:
        if isinstance(text, str):
            yield from _pieces_of(text, self._splitter)
            return
        # Bytes that are not UTF-8 are read as lone surrogates, which text cannot hold.
        escaped = text.decode(errors="surrogateescape")
        for invalid, run in groupby(escaped, key=lambda character: "\udc80" <= character <= "\udcff"):
            if invalid:
                yield from (bytes([ord(character) - 0xDC00]) for character in run)
            else:
                yield from _pieces_of("".join(run), self._splitter)

    @cached_property
    def _splitter(self) -> PreTokenizer:
        return byte_level_pieces(self.pattern)


@dataclass(frozen=True)
class _Rules:
    """The numbers of the events, increasing, by the tokens that they apply to."""

    merges: Mapping[tuple[bytes, bytes], Sequence[int]]
    supermerges: Mapping[tuple[bytes, bytes], Sequence[int]]
    deletions: Mapping[bytes, Sequence[int]]

    @classmethod
    def of(cls, events: Sequence[Event]) -> "_Rules":
        merges: dict[tuple[bytes, bytes], list[int]] = defaultdict(list)
        supermerges: dict[tuple[bytes, bytes], list[int]] = defaultdict(list)
        deletions: dict[bytes, list[int]] = defaultdict(list)
        for number, event in enumerate(events):
            if event.kind == "delete":
                deletions[event.left].append(number)
            else:
                found = merges if event.kind == "merge" else supermerges
                found[event.left, event.right].append(number)
        return cls(dict(merges), dict(supermerges), dict(deletions))


class _Replay:
    """The events on one text: always the next one that applies anywhere, from left to right.

    A token is known by the place of its first byte, and the places of its other bytes are empty; `end_of_piece` has entries at the
    first bytes of pieces only. With the events 0: merge a+b, 1: merge ab+c, 2: delete ab, and the pieces `abc` and `ab`:

        tokens           waiting (event, place)
        a  b  c  a  b    (0, 0) (0, 3)
        ab .  c  a  b    (0, 3) (1, 0) (2, 0)    to the new token `ab` events 1 and 2 apply
        ab .  c  ab .    (1, 0) (2, 0) (2, 3)
        abc . .  ab .    (2, 0) (2, 3)           the token at 0 is no longer `ab`: (2, 0) is passed over
        abc . .  a  b
    """

    def __init__(self, rules: _Rules, pieces: Sequence[bytes]) -> None:
        self._rules = rules
        data = b"".join(pieces)
        self._size = len(data)
        self._token = [bytes([byte]) for byte in data]
        self._end_of_piece: dict[int, int] = {}
        place = 0
        for piece in pieces:
            self._end_of_piece[place] = place + len(piece)
            place += len(piece)
        self._waiting: list[tuple[int, int, Kind, bytes, bytes]] = []

    def run(self) -> list[bytes]:
        """Replay all events; returns the tokens."""
        for place in range(self._size):
            self._wait(place, -1)
        while self._waiting:
            number, place, kind, left, right = heapq.heappop(self._waiting)
            if self._token[place] != left or (kind != "delete" and not self._follows(place, kind, right)):
                continue
            if kind == "delete":
                self._break_up(place, number)
            else:
                self._join(place, kind, number)
        return [self._token[place] for place in self._places()]

    def _follows(self, place: int, kind: Kind, right: bytes) -> bool:
        """Whether this kind of merge can take place here, and the next token is `right`."""
        after = place + len(self._token[place])
        if after >= self._size or self._token[after] != right:
            return False
        if kind == "merge":
            return after not in self._end_of_piece
        return self._is_piece(place) and self._is_piece(after)

    def _is_piece(self, place: int) -> bool:
        return self._end_of_piece.get(place) == place + len(self._token[place])

    def _join(self, place: int, kind: Kind, number: int) -> None:
        after = place + len(self._token[place])
        self._token[place] += self._token[after]
        self._token[after] = b""
        if kind == "supermerge":
            self._end_of_piece[place] = self._end_of_piece.pop(after)
        self._wait(place, number)
        if (before := self._before(place)) is not None:
            self._wait(before, number)

    def _break_up(self, place: int, number: int) -> None:
        token = self._token[place]
        for offset, byte in enumerate(token):
            self._token[place + offset] = bytes([byte])
        for offset in range(len(token)):
            self._wait(place + offset, number)
        if (before := self._before(place)) is not None:
            self._wait(before, number)

    def _wait(self, place: int, last: int) -> None:
        """Queue the next events of each kind, after event number `last`, that apply to the token here and the one after it."""
        token = self._token[place]
        after = place + len(token)
        right = self._token[after] if after < self._size else b""
        kinds: tuple[tuple[Kind, Sequence[int]], ...] = (
            ("merge", self._rules.merges.get((token, right), ())),
            ("supermerge", self._rules.supermerges.get((token, right), ())),
            ("delete", self._rules.deletions.get(token, ())),
        )
        for kind, numbers in kinds:
            if numbers and (kind == "delete" or self._follows(place, kind, right)):
                number = next((number for number in numbers if number > last), None)
                if number is not None:
                    heapq.heappush(self._waiting, (number, place, kind, token, right))

    def _before(self, place: int) -> int | None:
        """The place of the token that ends before this one."""
        before = place - 1
        while before >= 0 and not self._token[before]:
            before -= 1
        return before if before >= 0 else None

    def _places(self) -> Iterator[int]:
        place = 0
        while place < self._size:
            yield place
            place += len(self._token[place])


def _pieces_of(text: str, splitter: PreTokenizer) -> Iterator[bytes]:
    return (from_byte_characters(piece) for piece, _ in splitter.pre_tokenize_str(text))
