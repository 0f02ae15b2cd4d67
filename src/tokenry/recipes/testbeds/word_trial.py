"""The arms of the word-pooled recipe: pooled and flat models of the same letters, trained and measured.

    repeated words   a list of made-up words, again and again; looked at after some numbers of steps
    docstrings       words of bytes, and whole words with bytes for the rare ones; all arms compute equally many multiply-adds

What is measured goes into `WordRuns`.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tokenry.architectures import (
    ByteSpelling,
    FlatConfig,
    FlatLM,
    WordPooledConfig,
    WordPooledLM,
    collate_flat,
    collate_words,
)
from tokenry.core.io.progress import Progress, in_turn, named, part
from tokenry.recipes.kit import constant, cosine, fit
from tokenry.recipes.testbeds.docstring_words import LONGEST, DocstringWords, WholeWordReader
from tokenry.recipes.testbeds.repeated_words import LETTERS, RepeatedWords
from tokenry.recipes.testbeds.repeated_words import LONGEST as LETTERS_LONGEST

POOLED, FLAT, BARE, SHORT, WHOLE = "pooled", "flat", "no positions", "24 positions", "whole words"
RARE, LEARNING_RATE = 2, 1.5e-3


@dataclass(frozen=True)
class WordSizes:
    """Size of the experiment at one scale.

    Attributes:
        seeds: one run of every arm on repeated words for each.
        pooled_steps: steps of the pooled model, and of the flat one with few positions.
        flat_steps: steps that the flat model takes in that time.
        later_steps: steps after which flat models with and without positions are compared.
        texts: repeated texts that a model is tested on.
        width: width of models of repeated words.
        batch_size: texts of a step.
        text_steps: steps of the pooled model on docstrings.
        text_width: width of models of docstrings.
        text_layers: layers of their trunks.
        text_batch: windows of a step.
        windows: held-out windows.
    """

    seeds: tuple[int, ...] = (0, 1)
    pooled_steps: int = 600
    flat_steps: int = 280
    later_steps: int = 400
    texts: int = 512
    width: int = 64
    batch_size: int = 32
    text_steps: int = 1200
    text_width: int = 64
    text_layers: int = 2
    text_batch: int = 8
    windows: int = 300


@dataclass
class WordRuns:
    """What was measured.

    Attributes:
        right: for every arm, whether the last word of each test text is spelled right, after some number of steps.
        seconds: CPU seconds of a training step.
        positions: positions of the trunk of a text.
        bits: bits per byte of every held-out word of docstrings.
        typos: bits that the last word of a window costs more behind mistyped words.
        rare: which of those words training has seen at most twice.
        steps: steps on docstrings.
    """

    right: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    positions: dict[str, float] = field(default_factory=dict)
    bits: dict[str, np.ndarray] = field(default_factory=dict)
    typos: dict[str, np.ndarray] = field(default_factory=dict)
    rare: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    steps: dict[str, int] = field(default_factory=dict)


# --- repeated words ------------------------------------------------------------------------------------------------------------------


def try_repeated_words(runs: WordRuns, sizes: WordSizes, seed: int, progress: Progress) -> None:
    """Train every arm on repeated words, and note what it spells right, what a step takes and how long its trunk is."""
    task = RepeatedWords(seed)
    units, width = LETTERS + 1, sizes.width
    flat: dict[str, Any] = {
        "n_embd": width,
        "n_layer": 4,
        "n_head": 4,
        "dropout": 0.0,
        "initializer_range": 0.1,
    }
    most = task.length * (LETTERS_LONGEST + 1)

    def pooled() -> WordPooledLM:
        small: dict[str, Any] = {"n_word_layer": 1, "n_word_head": 4, "feed_forward": 4 * width}
        words: dict[str, Any] = {"max_words": task.length, "max_word_len": LETTERS_LONGEST + 1, "n_prefix": 1}
        return WordPooledLM(WordPooledConfig(vocab_size=units, **(flat | {"n_layer": 2}), **small, **words))

    def of_letters(positions: bool) -> FlatLM:
        return FlatLM(FlatConfig.of_sizes(units, max_units=most, positions=positions, **flat))

    arms: dict[str, tuple[Callable[[], Any], Any, int | None, tuple[int, ...]]] = {
        POOLED: (pooled, collate_words, None, (sizes.pooled_steps,)),
        FLAT: (lambda: of_letters(True), collate_flat, None, (sizes.flat_steps, sizes.later_steps)),
        BARE: (lambda: of_letters(False), collate_flat, None, (sizes.later_steps,)),
        SHORT: (lambda: of_letters(True), collate_flat, 24, (sizes.pooled_steps,)),
    }
    for (arm, (make, collate, window, looks)), told in in_turn(arms.items(), progress):
        torch.manual_seed(seed)
        model = make()
        batches = task.batches(collate, sizes.batch_size, window)

        def look(steps: int) -> None:
            found = task.accuracy(model, sizes.texts, window)  # noqa: B023
            before = runs.right.get((arm, steps), np.zeros(0))  # noqa: B023
            runs.right[arm, steps] = np.concatenate([before, found])  # noqa: B023

        runs.seconds[arm] = _trained(model, batches, looks, look, named(told, f"{arm}, seed {seed}"))
    texts = [task.text(number) for number in range(256)]
    runs.positions = {
        POOLED: float(np.mean([len(text) for text in texts])),
        FLAT: float(np.mean([sum(len(word) + 1 for word in text) for text in texts])),
    }


def _trained(
    model: Any,
    batches: Iterator[Mapping[str, Tensor]],
    looks: tuple[int, ...],
    look: Callable[[int], None],
    progress: Callable[[float], None],
) -> float:
    """Train a model, look at it after some numbers of steps, and return the CPU seconds of a step."""
    seconds = []

    def watched() -> Iterator[Mapping[str, Tensor]]:
        for number, batch in enumerate(batches):
            if number in looks:
                look(number)
            began = time.process_time()
            yield batch
            seconds.append(time.process_time() - began)

    fit(
        model.train(),
        watched(),
        partial(_loss, model),
        looks[-1],
        LEARNING_RATE,
        constant,
        clip=1.0,
        progress=progress,
    )
    look(looks[-1])
    return float(np.mean(seconds))


# --- docstrings ----------------------------------------------------------------------------------------------------------------------


def try_docstrings(runs: WordRuns, sizes: WordSizes, progress: Progress) -> None:
    """Train the pooled and both flat models on docstrings by equally many multiply-adds, and note what words cost them."""
    text, units = DocstringWords(sizes.seeds[0], windows=sizes.windows), ByteSpelling().size
    whole = text.whole_words
    width, layers = sizes.text_width, sizes.text_layers
    trunk: dict[str, Any] = {
        "n_embd": width,
        "n_head": 4,
        "dropout": 0.0,
        "initializer_range": 0.08,
    }
    small: dict[str, Any] = {"n_word_layer": 1, "n_prefix": 1, "feed_forward": 4 * width}
    words: dict[str, Any] = {"max_words": text.length, "max_word_len": LONGEST + 1}

    def flat(**sizes: Any) -> FlatLM:
        return FlatLM(FlatConfig.over_words(text.length, LONGEST, n_layer=layers + 1, **trunk, **sizes))

    torch.manual_seed(text.seed)
    pooled = WordPooledLM(WordPooledConfig(vocab_size=units, n_layer=layers, **trunk, **small, **words))
    letters = flat(vocab_size=units)
    wordwise = WholeWordReader(flat(vocab_size=whole.size, whole_words=len(whole.vocabulary)), whole)
    arms: dict[str, tuple[Any, Any, Any]] = {
        POOLED: (pooled, collate_words, pooled),
        FLAT: (letters, collate_flat, letters),
        WHOLE: (wordwise.model, wordwise.collate, wordwise),
    }
    costs = {
        arm: np.mean(
            [_multiplications(model, batch) for batch in islice(text.batches(collate, sizes.text_batch), 4)]
        )
        for arm, (model, collate, _) in arms.items()
    }
    runs.steps = {arm: max(1, round(sizes.text_steps * costs[POOLED] / cost)) for arm, cost in costs.items()}
    for number, (arm, (model, collate, reader)) in enumerate(arms.items()):
        told = named(part(progress, number / 3, (number + 1) / 3), f"docstrings, {arm}")
        fit(
            model.train(),
            text.batches(collate, sizes.text_batch),
            partial(_loss, model),
            runs.steps[arm],
            LEARNING_RATE,
            cosine,
            clip=1.0,
            progress=told,
        )
        runs.bits[arm], runs.typos[arm] = text.word_bits(reader), text.typo_cost(reader)
    runs.rare = text.seen() <= RARE


def _loss(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    found: Tensor = model(**batch).loss
    return found


def _multiplications(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> int:
    """Floating-point operations of a step, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        model(**batch).loss.backward()
    model.zero_grad()
    return int(counter.get_total_flops())
