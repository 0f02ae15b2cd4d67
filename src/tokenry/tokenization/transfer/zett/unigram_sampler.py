"""Random vocabularies: Unigram tokenizers of the substrings of recent texts, with new noise at each draw.

    score(substring) = times seen from every `stride`-th character of a word on * its length    over the last `pool` texts
    log-probability = ln(score / total + noise),   noise ~ Normal(0, noise_std)                the vocabulary = the most probable ones

Source: Zero-Shot Tokenizer Transfer (arXiv 2405.07883), section 3.2; `exact_offsets=False` counts exactly as the released sampler does.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, count, islice

import numpy as np
import torch
from jaxtyping import Float, Int
from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import BYTE_CHARACTERS, to_byte_characters
from tokenry.tokenization.training.byte_level_training import GPT2_PATTERN
from tokenry.tokenization.transfer.zett.byte_conversion import (
    LOWEST_SCORE,
    PATTERN,
    SpecialTokens,
    assemble,
    holds_whitespace,
    whitespace_tokens,
)

_NONE = np.zeros(0, dtype=np.int64)


def unigram_pieces(
    substrings: Sequence[str],
    scores: Int[np.ndarray, "substrings"],
    noise: Float[np.ndarray, "substrings"],
    vocabulary_size: int,
    max_length: int = 16,
) -> list[tuple[str, float]]:
    """Choose a vocabulary: the 256 bytes, white space, and the substrings that are most probable with the noise.

    Args:
        substrings: substrings in byte characters, all different.
        scores: score of each substring, positive.
        noise: noise that is added to its share of all scores.
        vocabulary_size: number of pieces, among them always the bytes, and white space as far as there is room.
        max_length: largest number of characters of a white-space token.

    Returns:
        Pieces and their log-probabilities. Bytes have the least of all substrings without noise, white space has 0.

    Raises:
        UserError: no substrings, or fewer than the vocabulary has room for.
    """
    if not substrings:
        raise UserError("there is no text in the pool, hence no substring: call update with texts first.")
    fixed = [*BYTE_CHARACTERS, *whitespace_tokens(max_length)][: max(vocabulary_size, len(BYTE_CHARACTERS))]
    room = max(vocabulary_size - len(fixed), 0)
    shares = scores / scores.sum()
    least = float(np.log(shares.min()))
    log_probabilities = _log_probabilities(shares + noise)
    best_first = np.argsort(-log_probabilities, kind="stable").tolist()
    usable = (place for place in best_first if _is_usable(substrings[place]))
    chosen = [(substrings[place], float(log_probabilities[place])) for place in islice(usable, room)]
    if len(chosen) < room:
        raise UserError(
            f"a vocabulary of {vocabulary_size} has room for {room} substrings, but the texts hold only {len(chosen)}: give more texts, or "
            f"ask for at most {len(fixed) + len(chosen)} tokens."
        )
    return [(piece, least if len(piece) == 1 else 0.0) for piece in fixed] + chosen


class UnigramSampler:
    """Draws Unigram tokenizers from the substrings of the latest texts.

    A draw depends on the generator and the texts in the pool alone.

    Args:
        max_length: substrings have fewer bytes than this.
        stride: substrings begin at every `stride`-th character of a word.
        pool: number of texts, the latest ones, whose substrings are counted; whole batches leave the pool.
        exact_offsets: False counts as the released code does: words break at combining marks, substrings begin in wrong places after a first
            character of several bytes, and those at the start of a text count twice.
        special_tokens: a tokenizer whose special tokens, roles and template the drawn ones get, at the same ids; they come on top of the
            vocabulary size.

    Raises:
        UserError: a `max_length` below 2, a stride or pool below 1.
    """

    def __init__(
        self,
        max_length: int = 16,
        stride: int = 4,
        pool: int = 2048,
        exact_offsets: bool = True,
        special_tokens: PreTrainedTokenizerBase | None = None,
    ) -> None:
        for name, value, least in (("max_length", max_length, 2), ("stride", stride, 1), ("pool", pool, 1)):
            if value < least:
                raise UserError(f"{name} must be at least {least}, got {value}.")
        self.max_length, self.stride, self.pool, self.exact_offsets = max_length, stride, pool, exact_offsets
        self._special = SpecialTokens.of(special_tokens) if special_tokens is not None else SpecialTokens()
        self._cut = pre_tokenizers.Split(Regex(PATTERN if exact_offsets else GPT2_PATTERN), "isolated")
        self._batches: deque[_Batch] = deque()
        self._known = _Substrings(max_length, stride, exact_offsets)

    def update(self, texts: Sequence[str]) -> None:
        """Add a batch of texts; the oldest batches leave the pool when it is full."""
        number, words = self._known.number, []
        for text in texts:
            first, *others = self._cut.pre_tokenize_str(f" {text}")
            words.append(number(first[0], not self.exact_offsets))
            words += [number(word, False) for word, _ in others]
        self._batches.append(_Batch(len(texts), *_counted(np.array(words, dtype=np.int64))))
        while len(self._batches) > 1 and sum(batch.texts for batch in self._batches) > self.pool:
            self._batches.popleft()

    def scores(self) -> dict[str, int]:
        """The score of each substring in the pool."""
        substrings, scores = self._scored()
        return dict(zip(substrings, scores.tolist(), strict=True))

    def sample(
        self, vocabulary_size: int, noise_std: float, generator: torch.Generator | None = None
    ) -> PreTrainedTokenizerFast:
        """Draw a tokenizer.

        Args:
            vocabulary_size: number of tokens besides the special ones; the 256 bytes are always among them.
            noise_std: standard deviation of the noise on each substring's share of all scores.
            generator: random numbers for the noise.

        Raises:
            UserError: negative noise, a vocabulary size below 1, or more than the texts in the pool have substrings for.
        """
        if not noise_std >= 0:
            raise UserError(f"noise_std must not be negative, got {noise_std}: use 0 for no noise.")
        if vocabulary_size < 1:
            raise UserError(
                f"vocabulary_size must be at least 1, got {vocabulary_size}: a tokenizer needs tokens."
            )
        substrings, scores = self._scored()
        noise = noise_std * torch.randn(len(substrings), generator=generator, dtype=torch.float64).numpy()
        pieces = unigram_pieces(substrings, scores, noise, vocabulary_size, self.max_length)
        return unigram_tokenizer(pieces, self._special)

    def _scored(self) -> tuple[list[str], Int[np.ndarray, "substrings"]]:
        """The substrings in the pool in the order in which they were first seen, and their scores."""
        words, times = self._words()
        if self._known.words > 4 * len(words):
            self._forget()
            words, times = self._words()
        return self._known.scored(words, times)

    def _words(self) -> tuple[Int[np.ndarray, "words"], Int[np.ndarray, "words"]]:
        words = np.concatenate([_NONE, *(batch.words for batch in self._batches)])
        return _counted(words, np.concatenate([_NONE, *(batch.times for batch in self._batches)]))

    def _forget(self) -> None:
        """Forget the words that have left the pool."""
        old, self._known = self._known, _Substrings(self.max_length, self.stride, self.exact_offsets)
        renumbered = [
            np.array(
                [self._known.number(*old.word(number)) for number in batch.words.tolist()], dtype=np.int64
            )
            for batch in self._batches
        ]
        self._batches = deque(
            replace(batch, words=words) for batch, words in zip(self._batches, renumbered, strict=True)
        )


@dataclass(frozen=True)
class _Batch:
    """The number of texts, the numbers of their words, and how often each word occurs."""

    texts: int
    words: Int[np.ndarray, "words"]
    times: Int[np.ndarray, "words"]


class _Substrings:
    """Words and their substrings, numbered as they come; each word is cut once."""

    def __init__(self, max_length: int, stride: int, exact_offsets: bool) -> None:
        self._max_length, self._stride, self._exact_offsets = max_length, stride, exact_offsets
        self._substrings: defaultdict[str, int] = defaultdict(count().__next__)
        self._lengths = _NONE
        self._numbers: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self._spelled: list[tuple[str, bool]] = []
        self._found: list[Int[np.ndarray, "found"]] = []

    @property
    def words(self) -> int:
        """Number of words that were cut."""
        return len(self._spelled)

    def word(self, number: int) -> tuple[str, bool]:
        """The word with this number, and whether what begins with it counts twice."""
        return self._spelled[number]

    def number(self, word: str, doubled: bool) -> int:
        """The number of a word; a new one is cut."""
        known = self._numbers[doubled].get(word)
        if known is None:
            known = self._numbers[doubled][word] = len(self._spelled)
            self._spelled.append((word, doubled))
            self._found.append(self._cut(word, doubled))
        return known

    def scored(
        self, words: Int[np.ndarray, "words"], times: Int[np.ndarray, "words"]
    ) -> tuple[list[str], Int[np.ndarray, "substrings"]]:
        """The substrings of these words, by where they come first, with their scores."""
        found = [self._found[number] for number in words.tolist()]
        sizes = np.fromiter(map(len, found), np.int64, len(found))
        present, counts = _counted(np.concatenate([_NONE, *found]), np.repeat(times, sizes))
        names = list(self._substrings)
        new = [len(name.encode()) for name in names[len(self._lengths) :]]
        self._lengths = np.concatenate([self._lengths, np.array(new, dtype=np.int64)])
        return [names[number] for number in present.tolist()], counts * self._lengths[present]

    def _cut(self, word: str, doubled: bool) -> Int[np.ndarray, "found"]:
        written, substrings = to_byte_characters(word.encode()), self._substrings
        size = len(written)
        found = [
            substrings[written[start:end]]
            for start in self._starts(word, doubled)
            for end in range(start + 1, min(start + self._max_length, size + 1))
        ]
        return np.array(found, dtype=np.int64)

    def _starts(self, word: str, doubled: bool) -> list[int]:
        """Where substrings of a word begin: at its characters, which may be several byte characters long."""
        lengths = [len(character.encode()) for character in word]
        starts = list(accumulate(lengths[:-1] if self._exact_offsets else lengths[1:], initial=0))
        return ([0] * doubled + starts)[:: self._stride]


def unigram_tokenizer(
    pieces: Sequence[tuple[str, float]], special: SpecialTokens | None = None
) -> PreTrainedTokenizerFast:
    """Build a Unigram tokenizer over byte characters.

    Args:
        pieces: tokens and their log-probabilities, the 256 bytes among them.
        special: put at their ids, with log-probability 0.
    """
    special = special or SpecialTokens()
    scores = dict(pieces) | dict.fromkeys(special.ids, 0.0)
    names = special.placed_in([piece for piece, _ in pieces])
    special = special.moved_to(names)
    model = {
        "type": "Unigram",
        "unk_id": special.ids.get(special.settings.get("unk_token", "")),
        "vocab": [[name, scores[name]] for name in names],
        "byte_fallback": False,
    }
    return assemble(model, special)


def _is_usable(substring: str) -> bool:
    """Whether it is neither a byte nor white space, which the vocabulary has anyway."""
    return len(substring) > 1 and not holds_whitespace(substring)


def _log_probabilities(shares: Float[np.ndarray, "substrings"]) -> Float[np.ndarray, "substrings"]:
    positive = shares > 0
    return np.where(positive, np.log(np.where(positive, shares, 1.0)), LOWEST_SCORE)


def _counted(
    numbers: Int[np.ndarray, "all"], times: Int[np.ndarray, "all"] | None = None
) -> tuple[Int[np.ndarray, "distinct"], Int[np.ndarray, "distinct"]]:
    """Small numbers, each once, in the order in which they come first, and how often they come (`times` each)."""
    if not len(numbers):
        return _NONE, _NONE
    places = np.arange(len(numbers))
    first = np.zeros(numbers.max() + 1, dtype=np.int64)
    # Of several places the last one written stays: the first.
    first[numbers[::-1]] = places[::-1]
    distinct = numbers[first[numbers] == places]
    return distinct, np.bincount(numbers, times)[distinct].astype(np.int64)
