"""Dictionaries and transformers on switching sources: what a unigram over tokens costs, and how fast a transformer learns the text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tokenry.core.io.progress import Progress, in_turn, one_stage
from tokenry.theory import (
    BPETokenizer,
    LZWTokenizer,
    MarkovCurve,
    MarkovExperimentConfig,
    MarkovSource,
    exact_token_law,
    heldout_unigram_ce,
    markov_experiment,
)

TINY = 4
_SWITCH = 0.1  # of the sources that transformers read
_TEXT_SEED = 1_000_000  # no seed of an experiment


@dataclass(frozen=True)
class MarkovSizes:
    """Size of both experiments at one scale.

    Attributes:
        sources: order and switching probability of the sources of the dictionaries.
        dictionaries: sizes of the dictionaries.
        symbols: symbols that they are trained on, and as many that BPE is measured on.
        stretches: parts of the measured text, the units of its error.
        orders: orders of the sources of the transformers; they switch with probability 0.1.
        tokens: size of their BPE dictionary.
        judged_at: the step of the headline.
        training: transformer and training.
        seeds: one run of each arm for each.
    """

    sources: tuple[tuple[int, float], ...] = ((1, 0.1), (2, 0.1), (2, 0.2), (3, 0.1))
    dictionaries: tuple[int, ...] = (16, 64, 256)
    symbols: int = 60_000
    stretches: int = 20
    orders: tuple[int, ...] = (2, 4)
    tokens: int = 20
    judged_at: int = 100
    training: MarkovExperimentConfig = field(
        default_factory=lambda: MarkovExperimentConfig(steps=600, measure_at=tuple(range(0, 600, 50)))
    )
    seeds: tuple[int, ...] = (0, 1, 2, 3)


@dataclass(frozen=True)
class DictionaryCosts:
    """Costs on one source, in nats per symbol.

    Attributes:
        switch: its switching probability.
        entropy_rate: H_inf.
        symbol_entropy: H(π).
        tiny: exact cost of an LZW dictionary of four tokens.
        lzw: exact cost of each LZW dictionary, by its size.
        bpe: cost of each BPE dictionary on text it was not trained on, by stretches.
    """

    order: int
    switch: float
    entropy_rate: float
    symbol_entropy: float
    tiny: float
    lzw: Mapping[int, float]
    bpe: Mapping[int, Sequence[float]]

    @property
    def name(self) -> str:
        """The source in a few letters."""
        return f"k = {self.order}, p = {self.switch:g}"


@dataclass(frozen=True)
class Curves:
    """Transformers on one source: a curve for each seed.

    Attributes:
        entropy_rate: H_inf.
        symbol_entropy: H(π).
    """

    order: int
    entropy_rate: float
    symbol_entropy: float
    symbols: Sequence[MarkovCurve]
    tokens: Sequence[MarkovCurve]

    def excess(self, curves: Sequence[MarkovCurve], step: int) -> np.ndarray:
        """How far above the entropy rate each seed is after a step, as a share of it."""
        return np.array([curve.at(step) for curve in curves]) / self.entropy_rate - 1


def dictionary_costs(order: int, switch: float, sizes: MarkovSizes) -> DictionaryCosts:
    """Train the dictionaries on one stretch of text, and measure them."""
    source = MarkovSource.switching(order, switch, switch)
    text = source.sample(sizes.symbols, seed=_TEXT_SEED)[0]
    held_out = source.sample(sizes.symbols // sizes.stretches, sizes.stretches, seed=_TEXT_SEED + 1)

    def of_lzw(size: int) -> float:
        return exact_token_law(source, LZWTokenizer.train(text, size)).cross_entropy

    def of_bpe(size: int) -> list[float]:
        tokenizer = BPETokenizer.train(text, size)
        counted = tokenizer.encode(text)
        return [
            heldout_unigram_ce(counted, tokenizer.encode(row), len(tokenizer.dictionary), symbols=len(row))
            for row in held_out
        ]

    return DictionaryCosts(
        order,
        switch,
        source.entropy_rate(),
        source.char_entropy(),
        of_lzw(TINY),
        {size: of_lzw(size) for size in sizes.dictionaries},
        {size: of_bpe(size) for size in sizes.dictionaries},
    )


def markov_curves(sizes: MarkovSizes, progress: Progress) -> list[Curves]:
    """Train a transformer of each arm on each source, once for each seed."""
    runs = [
        (order, arm, seed) for order in sizes.orders for arm in ("symbols", "tokens") for seed in sizes.seeds
    ]
    found: dict[tuple[int, str], list[MarkovCurve]] = {}
    sources = {order: MarkovSource.switching(order, _SWITCH, _SWITCH) for order in sizes.orders}
    for (order, arm, seed), stage in in_turn(runs, progress):
        source = sources[order]
        text = source.sample(sizes.symbols // 3, seed=_TEXT_SEED)[0]
        tokenizer = BPETokenizer.train(text, sizes.tokens) if arm == "tokens" else None
        curve = markov_experiment(
            source,
            tokenizer,
            replace(sizes.training, seed=seed),
            progress=one_stage(stage, f"order {order}, {arm}, seed {seed}"),
        )
        found.setdefault((order, arm), []).append(curve)
    return [
        Curves(
            order,
            source.entropy_rate(),
            source.char_entropy(),
            found[order, "symbols"],
            found[order, "tokens"],
        )
        for order, source in sources.items()
    ]
