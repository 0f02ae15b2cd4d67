"""Any of the four algorithms by its name, and what came of it: the one place that knows them all.

bpe, unigram    tokens inside words
superbpe        two stages, tokens across words; stock
boundless       one stage, tokens across words, deletions; its own encoder
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokenizers import Tokenizer

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.text.byte_level import ByteVocabulary
from tokenry.core.text.round_trip import round_trip
from tokenry.tokenization.training.boundless_bpe import BoundlessBPE
from tokenry.tokenization.training.boundless_training import require_tau, train_boundless_bpe
from tokenry.tokenization.training.byte_level_training import (
    PATTERN,
    byte_level_pieces,
    require_vocab_size,
    train_bpe,
    train_unigram,
)
from tokenry.tokenization.training.merge_lists import smaller_bpe
from tokenry.tokenization.training.superbpe import (
    TRANSITION_SHARE,
    SuperBPEConfig,
    default_transition,
    extend_to_superwords,
    require_transition,
    rereadable,
)


@dataclass(frozen=True)
class TrainingPlan:
    """What to train.

    Attributes:
        algorithm: bpe, unigram, superbpe or boundless.
        vocab_size: special tokens and the 256 bytes included.
        pattern: cuts a text into pieces.
        special_tokens: they get the lowest ids.
        min_frequency: pairs seen less often are not merged (not for unigram).
        transition: superbpe: vocabulary after the first stage; by default a share of the vocabulary.
        transition_share: superbpe: that share, in (0, 1].
        max_words: superbpe: most words of a token.
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
        if self.algorithm not in ALGORITHMS:
            raise UserError(f"the algorithm must be one of {', '.join(ALGORITHMS)}, got {self.algorithm!r}.")
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


@dataclass(frozen=True)
class Algorithm:
    """How tokenizers of one kind are trained.

    Attributes:
        begin: from a plan with the largest size and the texts, what the trainings to all sizes share; exactly so.
        finish: from that, a plan of any size and the texts, the tokenizer.
    """

    begin: Callable[[TrainingPlan, Iterable[str]], Any]
    finish: Callable[[Any, TrainingPlan, Iterable[str]], Tokenizer | BoundlessBPE]


def train_any(plan: TrainingPlan, texts: Iterable[str]) -> tuple[Tokenizer | BoundlessBPE, float]:
    """Train by the plan; the tokenizer and the seconds that training took.

    Raises:
        UserError: there is no text, or what training refuses.
    """
    texts = rereadable(texts)
    if not any(texts):
        raise UserError("the training text is empty: give at least one text that holds something.")
    started = time.perf_counter()
    (tokenizer,) = train_sizes(plan, texts, (plan.vocab_size,))
    return tokenizer, time.perf_counter() - started


def train_sizes(
    plan: TrainingPlan, texts: Iterable[str], sizes: Sequence[int]
) -> Iterator[Tokenizer | BoundlessBPE]:
    """Train tokenizers of several sizes, each as it would be alone: from one training where that is exact.

    Args:
        plan: all but the size.
        texts: read several times.
        sizes: increasing.
    """
    algorithm = ALGORITHMS[plan.algorithm]
    shared = algorithm.begin(replace(plan, vocab_size=sizes[-1]), texts)
    for size in sizes:
        yield algorithm.finish(shared, replace(plan, vocab_size=size), texts)


def measure_training(tokenizer: Tokenizer | BoundlessBPE, texts: Iterable[str]) -> dict[str, Any]:
    """Count texts with a trained tokenizer: texts, bytes, tokens, bytes per token, how many tokens span words, and whether the texts come
    back.
    """
    number = size = 0

    def counted() -> Iterator[str]:
        nonlocal number, size
        for text in texts:
            number, size = number + 1, size + len(text.encode())
            yield text

    back = round_trip(tokenizer, counted())
    assert back is not None
    view = (
        tokenizer.vocabulary
        if isinstance(tokenizer, BoundlessBPE)
        else ByteVocabulary.from_tokenizer(tokenizer)
    )
    known = [data for data in view.token_bytes if data is not None]
    return {
        "vocab_size": len(view.token_bytes),
        "texts": number,
        "bytes": size,
        "tokens": back.tokens,
        "bytes_per_token": size / max(back.tokens, 1),
        # A space with something but spaces on both sides of it.
        "superwords": sum(len(data.split()) > 1 for data in known),
        "text_back": back,
    }


# One algorithm each: what all sizes share, and the tokenizer of one size.


def _begin_bpe(plan: TrainingPlan, texts: Iterable[str]) -> Tokenizer:
    return train_bpe(texts, plan.vocab_size, plan.pattern, plan.special_tokens, plan.min_frequency)


def _finish_bpe(largest: Tokenizer, plan: TrainingPlan, texts: Iterable[str]) -> Tokenizer:
    return smaller_bpe(largest, plan.vocab_size) if plan.vocab_size < largest.get_vocab_size() else largest


def _finish_unigram(shared: None, plan: TrainingPlan, texts: Iterable[str]) -> Tokenizer:
    return train_unigram(texts, plan.vocab_size, plan.pattern, plan.special_tokens)


def _begin_superbpe(plan: TrainingPlan, texts: Iterable[str]) -> Tokenizer:
    return _begin_bpe(replace(plan, vocab_size=plan.first_stage), texts)


def _finish_superbpe(stage1: Tokenizer, plan: TrainingPlan, texts: Iterable[str]) -> Tokenizer:
    first = _finish_bpe(stage1, replace(plan, vocab_size=plan.first_stage), texts)
    merging = SuperBPEConfig(plan.max_words, min_frequency=plan.min_frequency, pattern=plan.pattern)
    return extend_to_superwords(first, texts, plan.vocab_size, merging)


def _begin_boundless(plan: TrainingPlan, texts: Iterable[str]) -> BoundlessBPE:
    return train_boundless_bpe(
        texts,
        plan.vocab_size,
        plan.tau,
        plan.pattern,
        plan.special_tokens,
        min_frequency=plan.min_frequency,
    )


def _finish_boundless(largest: BoundlessBPE, plan: TrainingPlan, texts: Iterable[str]) -> BoundlessBPE:
    return largest.smaller(plan.vocab_size) if plan.vocab_size < largest.vocab_size else largest


ALGORITHMS = {
    "bpe": Algorithm(_begin_bpe, _finish_bpe),
    "unigram": Algorithm(lambda plan, texts: None, _finish_unigram),
    "superbpe": Algorithm(_begin_superbpe, _finish_superbpe),
    "boundless": Algorithm(_begin_boundless, _finish_boundless),
}
