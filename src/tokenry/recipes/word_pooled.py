"""Word-pooled language models (arXiv 2310.11628) against flat models of the same letters, in equal time and with positions.

    repeated words   a list of five made-up words, again and again: the next word is known to whoever tells words apart
    docstrings       words of bytes, those that training has seen at most twice, and mistyped words in the context

Headline: ahead of the flat model with positions in equal time. The paper's 300 % is against flat models whose code has no positions.
Steps stand for time: a step of the pooled model takes less than half of one of the flat model (both are measured); on docstrings, steps are
such that both arms compute equally many multiply-adds.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
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
from tokenry.core.io.progress import Progress, named, part
from tokenry.core.stats import all_of, estimate_of_mean, exactly, shown
from tokenry.recipes.kit import Claim, RecipeRun, constant, cosine, fit, recipe
from tokenry.recipes.testbeds.docstring_words import LONGEST, DocstringWords
from tokenry.recipes.testbeds.repeated_words import LETTERS, RepeatedWords
from tokenry.recipes.testbeds.repeated_words import LONGEST as LETTERS_LONGEST

POOLED, FLAT, BARE, SHORT = "pooled", "flat", "no positions", "24 positions"
MARGIN, SOLVED, RARE, LEARNING_RATE = 0.3, 0.9, 2, 1.5e-3


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
    text_steps: int = 450
    text_width: int = 96
    text_layers: int = 3
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


@recipe(
    "word-pooled",
    laptop=WordSizes(),
    paper=WordSizes((0, 1, 2), 20_000, 10_000, 20_000, 4096, 512, 64, 20_000, 512, 8, 32, 2000),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Train every arm and judge each claim."""
    sizes: WordSizes = run.sizes
    runs = WordRuns()
    for number, seed in enumerate(sizes.seeds):
        share = 0.7 / len(sizes.seeds)
        _repeated(runs, sizes, seed, part(run.progress, number * share, (number + 1) * share))
    _docstrings(runs, sizes, part(run.progress, 0.7, 1.0))
    run.settings |= {
        "seeds": list(sizes.seeds),
        "steps": {POOLED: sizes.pooled_steps, FLAT: sizes.flat_steps, "docstrings": runs.steps},
        "cpu_seconds_per_step": runs.seconds,
        "trunk_positions": runs.positions,
        "accuracy": {
            f"{arm}, {steps} steps": float(found.mean()) for (arm, steps), found in runs.right.items()
        },
        "bits_per_byte": {arm: float(found.mean()) for arm, found in runs.bits.items()},
    }
    with run.figure(11, 4) as figure:
        draw(figure, runs, sizes)
    yield from claims(runs, sizes)


# --- repeated words ------------------------------------------------------------------------------------------------------------------


def _repeated(runs: WordRuns, sizes: WordSizes, seed: int, progress: Progress) -> None:
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
    for number, (arm, (make, collate, window, looks)) in enumerate(arms.items()):
        torch.manual_seed(seed)
        model = make()
        batches = task.batches(collate, sizes.batch_size, window)

        def look(steps: int) -> None:
            found = task.accuracy(model, sizes.texts, window)  # noqa: B023
            before = runs.right.get((arm, steps), np.zeros(0))  # noqa: B023
            runs.right[arm, steps] = np.concatenate([before, found])  # noqa: B023

        told = part(progress, number / len(arms), (number + 1) / len(arms))
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


def _docstrings(runs: WordRuns, sizes: WordSizes, progress: Progress) -> None:
    text, units = DocstringWords(sizes.seeds[0], windows=sizes.windows), ByteSpelling().size
    width, layers = sizes.text_width, sizes.text_layers
    trunk: dict[str, Any] = {
        "vocab_size": units,
        "n_embd": width,
        "n_head": 4,
        "dropout": 0.0,
        "initializer_range": 0.08,
    }
    small: dict[str, Any] = {"n_word_layer": 1, "n_prefix": 1, "feed_forward": 4 * width}
    words: dict[str, Any] = {"max_words": text.length, "max_word_len": LONGEST + 1}
    models: dict[str, tuple[Any, Any]] = {}
    for arm in (POOLED, FLAT):
        torch.manual_seed(text.seed)
        models[arm] = (
            (WordPooledLM(WordPooledConfig(n_layer=layers, **trunk, **small, **words)), collate_words)
            if arm == POOLED
            else (
                FlatLM(FlatConfig.over_words(text.length, LONGEST, n_layer=layers + 1, **trunk)),
                collate_flat,
            )
        )
    costs = {
        arm: np.mean(
            [_multiplications(model, batch) for batch in islice(text.batches(collate, sizes.text_batch), 4)]
        )
        for arm, (model, collate) in models.items()
    }
    runs.steps = {
        POOLED: sizes.text_steps,
        FLAT: max(1, round(sizes.text_steps * costs[POOLED] / costs[FLAT])),
    }
    for number, (arm, (model, collate)) in enumerate(models.items()):
        told = named(part(progress, 0.5 * number, 0.5 * number + 0.5), f"docstrings, {arm}")
        steps = runs.steps[arm]
        fit(
            model.train(),
            text.batches(collate, sizes.text_batch),
            partial(_loss, model),
            steps,
            LEARNING_RATE,
            cosine,
            clip=1.0,
            progress=told,
        )
        runs.bits[arm], runs.typos[arm] = text.word_bits(model), text.typo_cost(model)
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


# --- claims --------------------------------------------------------------------------------------------------------------------------


def claims(runs: WordRuns, sizes: WordSizes) -> Iterator[Claim]:
    """Judge what was measured."""
    pooled = runs.right[POOLED, sizes.pooled_steps]
    seeds = f"{len(sizes.seeds)} seeds, texts as units"
    later = sizes.later_steps
    yield _more(
        f"in the time of {sizes.flat_steps} steps of the flat model with positions, the pooled model ({sizes.pooled_steps} steps) spells more "
        f"words right ({seeds})",
        pooled,
        runs.right[FLAT, sizes.flat_steps],
        "flat, positions",
        paper="over 300 % above all flat models",
    )
    yield _more(
        f"after {later} steps the released flat model without positions spells {MARGIN:.0%} of the words less right than the one with them",
        runs.right[FLAT, later],
        runs.right[BARE, later],
        "flat, no positions",
        least=MARGIN,
    )
    yield _more(
        f"with {runs.positions[POOLED]:.0f} positions in its trunk the pooled model is ahead of a flat one with 24, in equal steps",
        pooled,
        runs.right[SHORT, sizes.pooled_steps],
        "flat, 24 positions",
    )
    solved, fewer = estimate_of_mean(pooled), runs.positions[FLAT] / runs.positions[POOLED]
    yield Claim(
        f"the pooled model solves the task (more than {SOLVED:.0%}) with at least 4 times fewer positions in its trunk",
        None,
        measured=f"{100 * solved.value:.1f} % ± {100 * solved.standard_error:.1f}, {fewer:.1f} times fewer",
        control=f"{SOLVED:.0%}, 4 times",
        verdict=all_of([shown(solved, SOLVED), exactly(fewer >= 4)]),
    )
    rare = {arm: bits[runs.rare] for arm, bits in runs.bits.items()}
    yield Claim.above(
        f"docstrings, equal compute: the pooled model needs fewer bits per byte for words that training has seen at most {RARE} times",
        rare[POOLED],
        rare[FLAT],
        "flat, positions",
        lower=True,
        spec=".3f",
        paper="30 times as accurate on rare words",
    )
    yield Claim.above(
        "where a fifth of the words before it are mistyped, the next word costs the pooled model fewer bits more",
        runs.typos[POOLED],
        runs.typos[FLAT],
        "flat, positions",
        lower=True,
        spec=".2f",
        unit=" bits",
    )


def _more(claim: str, ours: np.ndarray, theirs: np.ndarray, against: str, **options: Any) -> Claim:
    percent = {"unit": " %", **options, "least": 100 * options.get("least", 0.0)}
    return Claim.above(claim, 100 * ours, 100 * theirs, against, **percent)


def draw(figure: Figure, runs: WordRuns, sizes: WordSizes) -> None:
    """Words spelled right by each arm, and bits per byte on docstrings by how often a word was seen."""
    left, right = figure.subplots(1, 2)
    arms = {
        f"pooled\n{sizes.pooled_steps} steps": (POOLED, sizes.pooled_steps),
        f"flat\n{sizes.flat_steps} steps": (FLAT, sizes.flat_steps),
        f"flat\n{sizes.later_steps} steps": (FLAT, sizes.later_steps),
        f"no positions\n{sizes.later_steps} steps": (BARE, sizes.later_steps),
        f"24 positions\n{sizes.pooled_steps} steps": (SHORT, sizes.pooled_steps),
    }
    heights = [100 * runs.right[key].mean() for key in arms.values()]
    left.bar(range(len(arms)), heights, color=["#4477aa", *["0.6"] * 4])
    left.set_xticks(range(len(arms)), [*arms], fontsize=8)
    left.set(ylabel="words spelled right, %", title="repeated words")
    groups = {f"seen at most {RARE} times": runs.rare, "seen more often": ~runs.rare}
    for place, (arm, color) in enumerate(((POOLED, "#4477aa"), (FLAT, "0.6"))):
        values = [runs.bits[arm][mask].mean() if mask.any() else 0.0 for mask in groups.values()]
        right.bar([number + 0.4 * place for number in range(2)], values, 0.38, color=color, label=arm)
    right.set_xticks([0.2, 1.2], [*groups])
    right.set(ylabel="bits per byte", title="docstrings, equal compute")
    right.legend(frameon=False)
