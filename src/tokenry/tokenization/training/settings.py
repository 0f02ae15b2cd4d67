"""The options of a training, and which of them are refused: reading them loads no more than the `tokenizers` library."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.tokenization.training.byte_level_training import PATTERN, byte_level_pieces, require_vocab_size

ALGORITHM_NAMES = ("bpe", "unigram", "superbpe", "boundless")

SUPERWORD_PATTERN = r"\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]{2,}[\r\n/]*| +(?!\S)"
"""Where a text is cut in stage 2: up to three digits, two or more signs, spaces before white space or the end."""

TRANSITION_SHARE = 0.8

_SPACE = "Ġ"


@dataclass(frozen=True)
class SuperBPEConfig:
    """How the second stage merges.

    Attributes:
        max_words: largest number of words in a token, which are what stands between its spaces.
        forbid: strings that no token made in stage 2 holds, in byte-level characters (a space is `Ġ`).
        allow: called with every token that stage 2 would make, in byte-level characters; False drops the merge for good.
        min_frequency: pairs seen less often are not merged.
        pattern: regular expression that cuts a text in stage 1.
        superword_pattern: regular expression that cuts a text in stage 2.
    """

    max_words: int = 4
    forbid: tuple[str, ...] = (":Ġ",)
    allow: Callable[[str], bool] | None = None
    min_frequency: int = 0
    pattern: str = PATTERN
    superword_pattern: str = SUPERWORD_PATTERN

    def __post_init__(self) -> None:
        if self.max_words < 1:
            raise UserError(f"max_words must be at least 1, got {self.max_words}: every token has a word.")
        for pattern in (self.pattern, self.superword_pattern):
            byte_level_pieces(pattern)

    def may_be_made(self, token: str) -> bool:
        """Whether stage 2 may make this token, given in byte-level characters."""
        words = sum(1 for word in token.split(_SPACE) if word)
        if words > self.max_words or any(string in token for string in self.forbid):
            return False
        return self.allow is None or self.allow(token)


@dataclass(frozen=True)
class TrainingPlan:
    """What to train.

    Attributes:
        algorithm: bpe, unigram, superbpe or boundless.
        vocab_size: size of the vocabulary, special tokens and the 256 bytes included.
        pattern: regular expression that cuts a text into pieces.
        special_tokens: special tokens, which get the lowest ids.
        min_frequency: pairs seen less often are not merged (not for unigram).
        transition: superbpe: vocabulary after the first stage; by default a share of the vocabulary.
        transition_share: superbpe: that share, in (0, 1].
        max_words: superbpe: largest number of words in a token.
        tau: boundless: share of its occurrences from which a part is deleted.
    """

    algorithm: str = "bpe"
    vocab_size: int = 32768
    pattern: str = PATTERN
    special_tokens: tuple[str, ...] = ()
    min_frequency: int = 0
    transition: int | None = None
    max_words: int = 4
    tau: float | None = 0.9
    transition_share: float = TRANSITION_SHARE

    def __post_init__(self) -> None:
        require_one_of(self.algorithm, ALGORITHM_NAMES, "the algorithm")
        require_vocab_size(self.vocab_size, self.special_tokens)
        if self.transition is not None:
            require_transition(self.transition, self.vocab_size, self.special_tokens)
        if not 0 < self.transition_share <= 1:
            raise UserError(f"the transition share must lie in (0, 1], got {self.transition_share}.")
        SuperBPEConfig(max_words=self.max_words)
        require_tau(self.tau)
        byte_level_pieces(self.pattern)
        require_at_least(0, min_frequency=self.min_frequency)

    @property
    def first_stage(self) -> int:
        """superbpe: vocabulary after the first stage; it holds all bytes and special tokens."""
        if self.transition is not None:
            return self.transition
        return default_transition(self.vocab_size, self.special_tokens, self.transition_share)


def default_transition(
    vocab_size: int, special_tokens: Sequence[str] = (), share: float = TRANSITION_SHARE
) -> int:
    """A share of the vocabulary, at least all bytes and special tokens."""
    return max(256 + len(special_tokens), round(share * vocab_size))


def require_transition(transition: int, vocab_size: int, special_tokens: Sequence[str] = ()) -> None:
    """Raise `UserError` unless the transition lies between the bytes and the vocabulary."""
    least = 256 + len(special_tokens)
    if not least <= transition <= vocab_size:
        raise UserError(
            f"the transition must lie between {least} (bytes and special tokens) and the vocabulary of {vocab_size}, got {transition}."
        )


def require_tau(tau: float | None) -> None:
    """Raise `UserError` unless `tau` can be a share of occurrences, or stands for no deletions."""
    if tau is not None and not tau > 0:
        raise UserError(
            f"tau must be positive, got {tau}: give a share such as 0.9, or None for no deletions."
        )
