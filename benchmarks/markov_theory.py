"""Sampling a Markov source, greedy matching and BPE training, against the loops that they replace.

The loops do the same in plain Python: one symbol at a time, every slice of the text looked up in a set of tuples, every pair counted
anew for each merge. Results are compared first; a part is timed and scaled where every part takes as long.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from _measure import interleaved
from _report import Result, run, speedup

from tokenry.theory import BPETokenizer, LZWTokenizer, MarkovSource


def measure(smoke: bool) -> Iterator[Result]:
    """The ratios in CPU time of one thread."""
    symbols, batch, size, rounds = (400, 8, 16, 1) if smoke else (20_000, 1024, 256, 5)
    source = MarkovSource.switching(4, 0.1, 0.1)
    text = source.sample(symbols, seed=1)[0]
    yield sampling(source, batch, 200, rounds)
    first, second = MarkovSource.switching(1, 0.1, 0.1).sample(10 * symbols, batch=2, seed=2)
    tokenizer = LZWTokenizer.train(first, 16 * size)
    tokenizer.encode(first)
    yield matching(tokenizer, second.reshape(-1, symbols), rounds)
    yield training(text, size, rounds)


def sampling(source: MarkovSource, batch: int, length: int, rounds: int) -> Result:
    """Many chains at once, against one symbol after another."""
    generator = np.random.default_rng(0)
    cumulative = source.transition.cumsum(axis=1)

    def one_by_one(chains: int = 4) -> None:
        for _ in range(chains):
            state = int(generator.choice(len(source.stationary), p=source.stationary))
            for _ in range(length - source.order):
                symbol = int(np.searchsorted(cumulative[state], generator.random(), side="right"))
                state = (state * source.alphabet + symbol) % len(cumulative)

    seconds = interleaved(
        {"tokenry": lambda: source.sample(length, batch) is None, "loop": one_by_one}, rounds, threads=1
    )
    by_loop = seconds["loop"].cpu * batch / 4
    return speedup(
        "many chains of a Markov source: one symbol after another / tokenry",
        by_loop / seconds["tokenry"].cpu,
        100,
        threads=1,
        chains=batch,
        symbols=length,
        cpu_milliseconds=_milliseconds(seconds["tokenry"].cpu, by_loop),
    )


def matching(tokenizer: LZWTokenizer, texts: np.ndarray, rounds: int) -> Result:
    """The longest token at each place, against slices looked up in a set; every round reads a text that was not read before, behind that of the training."""
    ids = {token: number for number, token in enumerate(tokenizer.dictionary)}
    longest = max(map(len, ids))

    def loop(symbols: list[int]) -> list[int]:
        found, place = [], 0
        while place < len(symbols):
            for length in range(min(longest, len(symbols) - place), 0, -1):
                number = ids.get(tuple(symbols[place : place + length]))
                if number is not None:
                    found.append(number)
                    place += length
                    break
        return found

    assert loop(texts[0].tolist()) == tokenizer.encode(texts[0]).tolist()
    unread, listed = iter(texts[1:]), iter(texts[1:].tolist())
    seconds = interleaved(
        {
            "tokenry": lambda: tokenizer.encode(next(unread)) is None,
            "loop": lambda: loop(next(listed)) and None,
        },
        rounds,
        threads=1,
    )
    return speedup(
        "greedy matching: slices in a set of tuples / tokenry",
        seconds["loop"].cpu / seconds["tokenry"].cpu,
        20,
        threads=1,
        symbols=texts.shape[1],
        tokens=len(ids),
        longest_token=longest,
        cpu_milliseconds=_milliseconds(seconds["tokenry"].cpu, seconds["loop"].cpu),
    )


def training(text: np.ndarray, size: int, rounds: int) -> Result:
    """Counting and merging whole arrays, against counting every pair anew."""

    def loop() -> list[tuple[int, int]]:
        ids, merges = text.tolist(), []
        for new in range(2, size):
            counts: Counter[tuple[int, int]] = Counter()
            previous, overlaps = None, False
            for pair in pairwise(ids):
                overlaps = pair == previous and pair[0] == pair[1] and not overlaps
                counts[pair] += not overlaps
                previous = pair
            best = min(counts, key=lambda pair: (-counts[pair], pair))
            if counts[best] < 2:
                break
            merges.append(best)
            merged, place = [], 0
            while place < len(ids):
                is_pair = place + 1 < len(ids) and (ids[place], ids[place + 1]) == best
                merged.append(new if is_pair else ids[place])
                place += 2 if is_pair else 1
            ids = merged
        return merges

    assert loop() == BPETokenizer.train(text, size).merges
    seconds = interleaved(
        {"tokenry": lambda: BPETokenizer.train(text, size) is None, "loop": lambda: loop() and None},
        rounds,
        threads=1,
    )
    return speedup(
        "BPE training: every pair counted anew / tokenry",
        seconds["loop"].cpu / seconds["tokenry"].cpu,
        20,
        threads=1,
        symbols=len(text),
        tokens=size,
        cpu_milliseconds=_milliseconds(seconds["tokenry"].cpu, seconds["loop"].cpu),
    )


def _milliseconds(ours: float, loop: float) -> dict[str, float]:
    return {"tokenry": round(1000 * ours, 1), "loop": round(1000 * loop, 1)}


if __name__ == "__main__":
    run(measure, str(__doc__))
