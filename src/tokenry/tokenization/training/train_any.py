"""Any of the four algorithms by its name, and what came of it: the one place that knows them all.

bpe, unigram    tokens inside words
superbpe        two stages, tokens across words; stock
boundless       one stage, tokens across words, deletions; its own encoder
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from tokenry.core.byte_level import ByteVocabulary
from tokenry.core.errors import UserError
from tokenry.core.round_trip import round_trip
from tokenry.tokenization.training.boundless_bpe import BoundlessBPE, require_tau, train_boundless_bpe
from tokenry.tokenization.training.byte_level_training import (
    PATTERN,
    byte_level_pieces,
    require_vocab_size,
    train_bpe,
    train_unigram,
)
from tokenry.tokenization.training.superbpe import (
    SuperBPEConfig,
    default_transition,
    require_transition,
    rereadable,
    train_superbpe,
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
        transition: superbpe: vocabulary after the first stage; 80 % by default.
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

    def __post_init__(self) -> None:
        if self.algorithm not in _TRAIN:
            raise UserError(f"the algorithm must be one of {', '.join(_TRAIN)}, got {self.algorithm!r}.")
        require_vocab_size(self.vocab_size, self.special_tokens)
        if self.transition is not None:
            require_transition(self.transition, self.vocab_size, self.special_tokens)
        SuperBPEConfig(max_words=self.max_words)
        require_tau(self.tau)
        byte_level_pieces(self.pattern)
        if self.min_frequency < 0:
            raise UserError(f"min_frequency must be 0 or more, got {self.min_frequency}.")


def train_any(plan: TrainingPlan, texts: Iterable[str]) -> tuple[Tokenizer | BoundlessBPE, float]:
    """Train by the plan; the tokenizer and the seconds that training took.

    Raises:
        UserError: there is no text, or what training refuses.
    """
    texts = rereadable(texts)
    if not any(texts):
        raise UserError("the training text is empty: give at least one text that holds something.")
    started = time.perf_counter()
    return _TRAIN[plan.algorithm](plan, texts), time.perf_counter() - started


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


def _superbpe(plan: TrainingPlan, texts: Iterable[str]) -> Tokenizer:
    return train_superbpe(
        texts,
        plan.vocab_size,
        plan.transition or default_transition(plan.vocab_size, plan.special_tokens),
        plan.max_words,
        special_tokens=plan.special_tokens,
        pattern=plan.pattern,
        min_frequency=plan.min_frequency,
    )


_TRAIN: dict[str, Callable[[TrainingPlan, Iterable[str]], Tokenizer | BoundlessBPE]] = {
    "bpe": lambda plan, texts: train_bpe(
        texts, plan.vocab_size, plan.pattern, plan.special_tokens, plan.min_frequency
    ),
    "unigram": lambda plan, texts: train_unigram(texts, plan.vocab_size, plan.pattern, plan.special_tokens),
    "superbpe": _superbpe,
    "boundless": lambda plan, texts: train_boundless_bpe(
        texts,
        plan.vocab_size,
        plan.tau,
        plan.pattern,
        plan.special_tokens,
        min_frequency=plan.min_frequency,
    ),
}
