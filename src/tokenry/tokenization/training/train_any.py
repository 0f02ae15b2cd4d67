"""Any of the four algorithms by its name, and measurements of the result: the one place that knows them all.

bpe, unigram    tokens inside words
superbpe        two stages, tokens across words; stock
boundless       one stage, tokens across words, deletions; its own encoder
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokenizers import Tokenizer

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import ByteVocabulary
from tokenry.core.text.round_trip import round_trip
from tokenry.tokenization.training.boundless_bpe import BoundlessBPE
from tokenry.tokenization.training.boundless_training import train_boundless_bpe
from tokenry.tokenization.training.byte_level_training import train_bpe, train_unigram
from tokenry.tokenization.training.merge_lists import smaller_bpe
from tokenry.tokenization.training.settings import SuperBPEConfig, TrainingPlan
from tokenry.tokenization.training.superbpe import extend_to_superwords, rereadable


@dataclass(frozen=True)
class Algorithm:
    """How tokenizers of one kind are trained, in two parts, of which the first is shared by all sizes.

    Attributes:
        begin: does what trainings to all sizes have in common, given a plan with the largest size and the texts.
        finish: makes the tokenizer of one size, given the result of `begin`, a plan with that size and the texts.
    """

    begin: Callable[[TrainingPlan, Iterable[str]], Any]
    finish: Callable[[Any, TrainingPlan, Iterable[str]], Tokenizer | BoundlessBPE]


def train_any(plan: TrainingPlan, texts: Iterable[str]) -> tuple[Tokenizer | BoundlessBPE, float]:
    """Train by the plan, and return the tokenizer and the seconds that training took.

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
    """Train tokenizers of several sizes, each as if it were trained alone: from one training where that is exact.

    Args:
        plan: what to train, but for the size.
        texts: training texts, which are read several times.
        sizes: vocabulary sizes, increasing.
    """
    algorithm = ALGORITHMS[plan.algorithm]
    shared = algorithm.begin(replace(plan, vocab_size=sizes[-1]), texts)
    for size in sizes:
        yield algorithm.finish(shared, replace(plan, vocab_size=size), texts)


def measure_training(tokenizer: Tokenizer | BoundlessBPE, texts: Iterable[str]) -> dict[str, Any]:
    """Measure a trained tokenizer on texts: bytes, tokens, bytes per token, number of tokens that span words, and whether the texts come back."""
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


# One pair of functions per algorithm: what all sizes share, and the tokenizer of one size.


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
