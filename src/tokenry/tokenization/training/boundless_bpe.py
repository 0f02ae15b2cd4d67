"""BoundlessBPE: byte-pair encoding in one stage that also merges whole words with their neighbours, and deletes what it no longer needs.

    merge        the most frequent pair of tokens inside the pieces (words) of the text
    supermerge   the most frequent pair of neighbouring pieces that are both one token and made of letters; done if it is at least
                 as frequent as the merge
    delete       after a merge, each part of more than one byte of which the merge has used up the share `tau` or more:
                 what is left of it is broken up into bytes

Ties: the lower bytes on the left, then on the right. A pair whose bytes are a token already is passed over. Encoding replays the
events in their order. Stock tokenizers know neither deletions nor merges that need whole words, so the result has its own encoder.

Source: BoundlessBPE (arXiv 2504.00178) and its released trainer; deletions after Picky BPE (arXiv 2409.04599).
"""

import heapq
import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from tokenizers.pre_tokenizers import PreTokenizer

from tokenry.core.errors import UserError
from tokenry.core.io.files import atomic_write, read_json
from tokenry.core.text.byte_level import ByteVocabulary, from_byte_characters, to_byte_characters
from tokenry.tokenization.training.byte_level_training import PATTERN, byte_level_pieces, require_vocab_size
from tokenry.tokenization.training.settings import require_tau
from tokenry.tokenization.training.superword_counting import AdjacentPairs

Kind = Literal["merge", "delete", "supermerge"]
_FORMAT = "tokenry boundless-bpe 1"


@dataclass(frozen=True)
class Event:
    """One step of training, which encoding replays: `right` is empty for a deletion of `left`."""

    kind: Kind
    left: bytes
    right: bytes = b""

    @property
    def token(self) -> bytes:
        """The bytes that are made or deleted."""
        return self.left + self.right


def train_boundless_bpe(
    texts: Iterable[str],
    vocab_size: int,
    tau: float | None = 0.9,
    pattern: str = PATTERN,
    special_tokens: Sequence[str] = (),
    free_deleted: bool = True,
    min_frequency: int = 1,
) -> "BoundlessBPE":
    """Train; where the text is too small for `vocab_size`, the tokenizer is smaller.

    Args:
        texts: read once; a text is a document, no token crosses its end.
        vocab_size: special tokens and the 256 bytes included.
        tau: share of its occurrences from which a part is deleted; None, or above 1, for no deletions.
        pattern: cuts a text into pieces.
        special_tokens: they get the lowest ids.
        free_deleted: a deleted token leaves the vocabulary, makes room for another and takes no part in supermerges until it is made
            again. False reproduces the released code: it keeps its place and is never made again, and a superword of two equal parts is
            not merged further.
        min_frequency: pairs seen less often are not merged.

    Raises:
        UserError: the vocabulary has no room for the bytes and special tokens, tau is not positive, or the pattern is none.
    """
    require_vocab_size(vocab_size, special_tokens)
    require_tau(tau)
    documents, words = _read(texts, pattern)
    training = _Training(words, documents, tau if tau is not None else 2.0, free_deleted)
    room = vocab_size - len(special_tokens)
    while len(training.vocabulary) < room and training.step(max(1, min_frequency)):
        pass
    return BoundlessBPE(tuple(training.events), pattern, tuple(special_tokens), free_deleted)


@dataclass(frozen=True)
class BoundlessBPE:
    """A trained tokenizer: its events, in their order.

    Attributes:
        events: of training.
        pattern: cuts a text into pieces.
        special_tokens: they have the lowest ids, and no text produces them.
        free_deleted: whether deleted tokens have no id.
    """

    events: tuple[Event, ...]
    pattern: str = PATTERN
    special_tokens: tuple[str, ...] = ()
    free_deleted: bool = True

    @cached_property
    def vocabulary(self) -> ByteVocabulary:
        """The bytes of each id: special tokens, the 256 bytes, then what was made and not deleted, in the order of its making."""
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
        """Cut a text, or any bytes, into token ids; a byte that is no UTF-8 is a piece of its own."""
        ids = self.vocabulary.ids
        return [ids[token] for token in self.tokens(text)]

    def count(self, text: str) -> int:
        """Count the tokens of a text."""
        return len(self.tokens(text))

    def decode(self, ids: Sequence[int]) -> bytes:
        """Put the bytes of tokens behind one another; special ones have none."""
        return self.vocabulary.decode(list(ids))

    def tokens(self, text: str | bytes) -> list[bytes]:
        """Cut a text, or any bytes, into the bytes of its tokens."""
        return _Replay(self._rules, [*self._pieces(text)]).run()

    def smaller(self, vocab_size: int) -> "BoundlessBPE":
        """The tokenizer that the same training would have made at a smaller vocabulary.

        Raises:
            UserError: the vocabulary has no room for the bytes and special tokens.
        """
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
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or is something else.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise UserError(f"{path} is no BoundlessBPE tokenizer: give a file that its save() wrote.")
        events = tuple(Event(kind, *map(from_byte_characters, parts)) for kind, *parts in content["events"])
        return cls(events, content["pattern"], tuple(content["special_tokens"]), content["free_deleted"])

    @cached_property
    def _rules(self) -> "_Rules":
        return _Rules.of(self.events)

    def _pieces(self, text: str | bytes) -> Iterator[bytes]:
        if isinstance(text, str):
            yield from _pieces_of(text, self._splitter)
            return
        # Bytes that are no UTF-8 are read as lone surrogates, which text cannot hold.
        escaped = text.decode(errors="surrogateescape")
        for invalid, run in groupby(escaped, key=lambda character: "\udc80" <= character <= "\udcff"):
            if invalid:
                yield from (bytes([ord(character) - 0xDC00]) for character in run)
            else:
                yield from _pieces_of("".join(run), self._splitter)

    @cached_property
    def _splitter(self) -> PreTokenizer:
        return byte_level_pieces(self.pattern)


def may_join(piece: bytes) -> bool:
    """Whether a piece can be part of a superword: two characters or more, a letter after the first, and nothing but letters with their
    marks, spaces, underscores and apostrophes.
    """
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return False
    after_letter = False
    for character in text:
        category = unicodedata.category(character)[0]
        if not (category == "L" or (category == "M" and after_letter) or character in " _'\u2019"):
            return False
        after_letter = category == "L" or (category == "M" and after_letter)
    return any(unicodedata.category(character)[0] == "L" for character in text[1:])


class _Training:
    """Both views of the corpus: words with their counts, and documents as rows of words.

    Args:
        words: by number, with its count.
        documents: numbers of words, -1 after each document.
        tau: see `train_boundless_bpe`.
        free_deleted: see `train_boundless_bpe`.
    """

    def __init__(
        self, words: Mapping[bytes, int], documents: Int[ndarray, "places"], tau: float, free_deleted: bool
    ) -> None:
        self.events: list[Event] = []
        self.vocabulary = {bytes([byte]) for byte in range(256)}
        self._tau, self._free_deleted = tau, free_deleted
        self._deleted: set[bytes] = set()
        self._words = _WordPairs(words)
        self._number = {word: number for number, word in enumerate(words)}
        self._supers = AdjacentPairs(documents, list(words), disjoint=True, locked=True)
        self._super_bytes = [*words]
        self._passed_over: set[bytes] = set()

    def step(self, least: int) -> bool:
        """Merge once, inside or across words; False if nothing occurs `least` times."""
        pair, count = self._words.best(self.vocabulary)
        across = self._best_super(max(count, least))
        if across is not None:
            self._supermerge(*across)
        elif pair is not None and count >= least:
            self._merge(*pair)
        else:
            return False
        return True

    def _best_super(self, least: int) -> tuple[int, int] | None:
        while (best := self._supers.best(least)) is not None:
            left, right, _ = best
            made = self._super_bytes[left] + self._super_bytes[right]
            if made not in self.vocabulary:
                return left, right
            self._supers.drop(left, right)
            self._passed_over.add(made)
        return None

    def _supermerge(self, left: int, right: int) -> None:
        parts = self._super_bytes[left], self._super_bytes[right]
        made = b"".join(parts)
        token = self._supers.merge(left, right, made)
        if left == right and not self._free_deleted:
            self._supers.lock(token)
        self._super_bytes.append(made)
        self.vocabulary.add(made)
        self.events.append(Event("supermerge", *parts))

    def _merge(self, left: bytes, right: bytes) -> None:
        used = self._words.shares(left, right)
        whole = self._words.merge(left, right)
        self.vocabulary.add(left + right)
        self.events.append(Event("merge", left, right))
        if whole and may_join(left + right):
            self._supers.unlock(self._number[left + right])
        for part, share in used.items():
            if len(part) > 1 and share >= self._tau and part not in self._deleted:
                self._delete(part)

    def _delete(self, token: bytes) -> None:
        self._words.break_up(token)
        self.events.append(Event("delete", token))
        # Once only: a token that is made again stays, so that training ends.
        self._deleted.add(token)
        if self._free_deleted:
            self.vocabulary.discard(token)
            self._words.reconsider(token)
            if token in self._number:
                self._supers.lock(self._number[token])
            if token in self._passed_over:
                self._passed_over.discard(token)
                self._supers.recount()


class _WordPairs:
    """Pairs of tokens inside words; a run of n equal tokens counts as n // 2 pairs."""

    def __init__(self, words: Mapping[bytes, int]) -> None:
        self._words = [[bytes([byte]) for byte in word] for word in words]
        self._counts = [*words.values()]
        self._tokens: Counter[bytes] = Counter()
        self._pairs: Counter[tuple[bytes, bytes]] = Counter()
        self._holding: dict[tuple[bytes, bytes], set[int]] = defaultdict(set)
        self._with_token: dict[bytes, set[int]] = defaultdict(set)
        for number, word in enumerate(self._words):
            for token in word:
                self._tokens[token] += self._counts[number]
            self._count(number, 1)
        self._heap = [(-count, *pair) for pair, count in self._pairs.items()]
        heapq.heapify(self._heap)

    def best(self, vocabulary: set[bytes]) -> tuple[tuple[bytes, bytes] | None, int]:
        """The most frequent pair that makes a new token, and its count."""
        while self._heap:
            bound, left, right = self._heap[0]
            count = self._pairs.get((left, right), 0)
            if count == -bound and left + right not in vocabulary:
                return (left, right), count
            heapq.heappop(self._heap)
            # What has grown was put in again then; what has shrunk is put in again now.
            if 0 < count < -bound:
                heapq.heappush(self._heap, (-count, left, right))
        return None, 0

    def shares(self, left: bytes, right: bytes) -> dict[bytes, float]:
        """Of the occurrences of each part, the share that is in this pair."""
        together = self._pairs[left, right]
        return {part: together / self._tokens[part] for part in (left, right)}

    def merge(self, left: bytes, right: bytes) -> bool:
        """Merge a pair in all words; whether that makes one of them a single token."""
        made, whole = left + right, False
        for number in [*self._holding[left, right]]:
            before = self._words[number]
            after = _merged(before, left, right)
            times = self._counts[number] * (len(before) - len(after))
            self._tokens[made] += times
            self._tokens[left] -= times
            self._tokens[right] -= times
            self._with_token[made].add(number)
            self._replace(number, after)
            whole |= len(after) == 1
        return whole

    def break_up(self, token: bytes) -> None:
        """Put single bytes in the place of a token, wherever it still occurs."""
        for number in self._with_token.pop(token, ()):
            before = self._words[number]
            times = self._counts[number] * before.count(token)
            self._tokens[token] -= times
            for byte in token:
                self._tokens[bytes([byte])] += times
            after = [
                part
                for each in before
                for part in ((bytes([byte]) for byte in each) if each == token else (each,))
            ]
            self._replace(number, after)

    def reconsider(self, token: bytes) -> None:
        """Let pairs be best again that were passed over because they make this token."""
        for cut in range(1, len(token)):
            pair = token[:cut], token[cut:]
            if self._pairs.get(pair, 0) > 0:
                heapq.heappush(self._heap, (-self._pairs[pair], *pair))

    def _replace(self, number: int, word: list[bytes]) -> None:
        old = Counter(_pairs_in(self._words[number]))
        self._count(number, -1)
        self._words[number] = word
        self._count(number, 1)
        for pair, times in Counter(_pairs_in(word)).items():
            if times > old[pair]:
                heapq.heappush(self._heap, (-self._pairs[pair], *pair))

    def _count(self, number: int, sign: int) -> None:
        """Add the pairs of a word to the counts, or take them out."""
        for pair in _pairs_in(self._words[number]):
            self._pairs[pair] += sign * self._counts[number]
            if sign > 0:
                self._holding[pair].add(number)
            else:
                self._holding[pair].discard(number)
                if not self._pairs[pair]:
                    del self._pairs[pair], self._holding[pair]


@dataclass(frozen=True)
class _Rules:
    """When what is done: the numbers of the events, increasing, by what they apply to."""

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

    A token is known by the place of its first byte; `end_of_piece` holds at the first byte of a piece only.
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
        """The tokens in the end."""
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
        """Whether this kind of merge can take place here, and `right` is what comes next."""
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
        """Note what the rules have to say, after event number `last`, about the token here and the one behind it."""
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
                number = next((each for each in numbers if each > last), None)
                if number is not None:
                    heapq.heappush(self._waiting, (number, place, kind, token, right))

    def _before(self, place: int) -> int | None:
        """The token that ends here: the places inside a token are empty."""
        before = place - 1
        while before >= 0 and not self._token[before]:
            before -= 1
        return before if before >= 0 else None

    def _places(self) -> Iterator[int]:
        place = 0
        while place < self._size:
            yield place
            place += len(self._token[place])


def _read(texts: Iterable[str], pattern: str) -> tuple[Int[ndarray, "places"], dict[bytes, int]]:
    """The documents as numbers of words with -1 after each, and the words with their counts."""
    splitter = byte_level_pieces(pattern)
    numbers: dict[str, int] = {}
    rows = [np.zeros(0, dtype=np.int32)]
    for text in texts:
        row = [numbers.setdefault(piece, len(numbers)) for piece, _ in splitter.pre_tokenize_str(text)]
        rows.append(np.array([*row, -1], dtype=np.int32))
    documents = np.concatenate(rows)
    counts = np.bincount(documents[documents >= 0], minlength=len(numbers))
    return documents, {
        from_byte_characters(word): int(count) for word, count in zip(numbers, counts, strict=True)
    }


def _pieces_of(text: str, splitter: PreTokenizer) -> Iterator[bytes]:
    return (from_byte_characters(piece) for piece, _ in splitter.pre_tokenize_str(text))


def _pairs_in(word: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The pairs of neighbours; of those that overlap with an equal one every second, from the left."""
    previous = None
    for pair in pairwise(word):
        if pair[0] == pair[1] and pair == previous:
            previous = None
        else:
            yield pair
            previous = pair


def _merged(word: Sequence[bytes], left: bytes, right: bytes) -> list[bytes]:
    done: list[bytes] = []
    place = 0
    while place < len(word):
        here = word[place] == left and place + 1 < len(word) and word[place + 1] == right
        done.append(left + right if here else word[place])
        place += 2 if here else 1
    return done
