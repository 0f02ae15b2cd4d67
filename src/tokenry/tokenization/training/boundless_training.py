"""Train BoundlessBPE: byte-pair encoding in one stage that also merges whole words with their neighbours, and deletes what it no longer needs.

    merge        the most frequent pair of tokens inside the pieces (words) of the text
    supermerge   the most frequent pair of neighbouring pieces that are both one token and made of letters; done if it is at least
                 as frequent as the merge
    delete       after a merge, each part of more than one byte of which the merge has used up the share `tau` or more:
                 its other occurrences are broken up into bytes

Ties: the lower bytes on the left, then on the right. A pair whose bytes are a token already is passed over.

Source: BoundlessBPE (arXiv 2504.00178) and its released trainer; deletions after Picky BPE (arXiv 2409.04599).
"""

import heapq
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from tokenry.core.text.byte_level import from_byte_characters
from tokenry.tokenization.training.boundless_bpe import BoundlessBPE, Event
from tokenry.tokenization.training.byte_level_training import PATTERN, byte_level_pieces, require_vocab_size
from tokenry.tokenization.training.settings import require_tau
from tokenry.tokenization.training.superword_counting import AdjacentPairs


def train_boundless_bpe(
    texts: Iterable[str],
    vocab_size: int,
    tau: float | None = 0.9,
    pattern: str = PATTERN,
    special_tokens: Sequence[str] = (),
    free_deleted: bool = True,
    min_frequency: int = 1,
) -> BoundlessBPE:
    """Train; where the text is too small for `vocab_size`, the tokenizer is smaller.

    Args:
        texts: training texts, read once; a text is a document, and no token crosses its end.
        vocab_size: size of the vocabulary, with special tokens and the 256 bytes.
        tau: share of its occurrences from which a part is deleted; None, or above 1, for no deletions.
        pattern: regular expression that cuts a text into pieces.
        special_tokens: tokens that get the lowest ids.
        free_deleted: a deleted token leaves the vocabulary, makes room for another and takes no part in supermerges until it is made
            again. False reproduces the released code: it keeps its place and is never made again, and a superword of two equal parts is
            not merged further.
        min_frequency: pairs seen less often are not merged.
    """
    require_vocab_size(vocab_size, special_tokens)
    require_tau(tau)
    documents, words = _read(texts, pattern)
    training = _Training(words, documents, tau if tau is not None else 2.0, free_deleted)
    room = vocab_size - len(special_tokens)
    while len(training.vocabulary) < room and training.step(max(1, min_frequency)):
        pass
    return BoundlessBPE(tuple(training.events), pattern, tuple(special_tokens), free_deleted)


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
    """Both views of the corpus: words with their counts, and documents as rows of words (their numbers, -1 after each document)."""

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
            # A pair that has grown was pushed again then; one that has shrunk is pushed again now.
            if 0 < count < -bound:
                heapq.heappush(self._heap, (-count, left, right))
        return None, 0

    def shares(self, left: bytes, right: bytes) -> dict[bytes, float]:
        """The share of the occurrences of each part that is in this pair."""
        together = self._pairs[left, right]
        return {part: together / self._tokens[part] for part in (left, right)}

    def merge(self, left: bytes, right: bytes) -> bool:
        """Merge a pair in all words; returns whether that makes one of them a single token."""
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
                for here in before
                for part in ((bytes([byte]) for byte in here) if here == token else (here,))
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


def _pairs_in(word: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The pairs of neighbours; of pairs that overlap with an equal one, every second from the left (`aaaa` holds two pairs)."""
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
