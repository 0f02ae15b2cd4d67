"""Training tokenizers: seven vocabulary sizes at once, and superwords, beside `tokenizers` on the same text.

The text is the source of the Python standard library, code and prose, paragraph by paragraph, in an order drawn once.

Seven sizes, half of the grid's, for which this text is large enough: one BPE training and one replay for all counts, against seven
trainings with `tokenizers` and seven encodings of the evaluation text. Superwords: all of SuperBPE's second stage (reading the text
with the merges of the first, merging on, building the tokenizer) against training plain BPE to the same vocabulary; both over the
tokens of the first stage. Memory: the most that stage 2 needs beyond what is resident before it, at one, two and four times the text.
"""

import os
import random
import sysconfig
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers
from _measure import Step, interleaved, peak_memory
from _report import Result, note, result, run, speedup

from tokenry.core.text.token_counts import corpus_token_count, utf8_bytes
from tokenry.tokenization.premiums.grid_config import SIZES
from tokenry.tokenization.premiums.many_sizes import ctc_curve
from tokenry.tokenization.training.byte_level_training import train_bpe
from tokenry.tokenization.training.superbpe import extend_to_superwords

AT_LEAST_SIZES = 3.0
AT_MOST_SUPERWORDS = 5.0
# Linear: four times the text needs no more memory per token than the text once; a tenth is left for the noise of the allocator.
AT_MOST_MEMORY = 1.1
VOCABULARY = 16384
TRANSITION = 13107
EVALUATED = 2000


def measure(smoke: bool) -> Iterator[Result]:
    """Seven sizes, the second stage, and its memory."""
    megabytes = 0.2 if smoke else 8.0
    yield from seven_sizes(megabytes, [size // (100 if smoke else 2) for size in SIZES], smoke)
    vocabulary, transition = (700, 560) if smoke else (VOCABULARY, TRANSITION)
    yield from second_stage(megabytes, vocabulary, transition, smoke)
    yield memory(megabytes / 4, vocabulary, transition)


def seven_sizes(megabytes: float, sizes: list[int], smoke: bool) -> Iterator[Result]:
    """Counts at all sizes, from one training and from seven."""
    sizes = [max(257 + place, size) for place, size in enumerate(sizes)]
    texts = corpus(megabytes)
    train, evaluated = texts[EVALUATED:], texts[:EVALUATED]
    found: dict[str, dict[int, int]] = {}

    def once() -> None:
        found["one training"] = ctc_curve(train, evaluated, sizes)

    def seven_times() -> None:
        found["seven trainings"] = {
            size: corpus_token_count(train_bpe(train, size), evaluated) for size in sizes
        }

    seconds = interleaved(
        {"one training": once, "seven trainings": seven_times}, rounds=1 if smoke else 2, threads=1
    )
    assert found["one training"] == found["seven trainings"]
    yield speedup(
        "counts at seven vocabulary sizes: seven trainings with tokenizers / one training",
        seconds["seven trainings"].cpu / seconds["one training"].cpu,
        AT_LEAST_SIZES,
        sizes=list(sizes),
        train_bytes=utf8_bytes(train),
        evaluated_texts=len(evaluated),
        counts=list(found["one training"].values()),
        cpu_seconds={name: round(each.cpu, 3) for name, each in seconds.items()},
        tokenizers=tokenizers.__version__,
    )


def second_stage(megabytes: float, vocabulary: int, transition: int, smoke: bool) -> Iterator[Result]:
    """Stage 2 of SuperBPE beside plain BPE."""
    texts = corpus(megabytes)
    stage1 = train_bpe(texts, transition)
    tokens = corpus_token_count(stage1, texts)
    steps: dict[str, Step] = {
        "stage 2": lambda: _drop(extend_to_superwords(stage1, texts, vocabulary)),
        "tokenizers BPE": lambda: _drop(train_bpe(texts, vocabulary)),
    }
    seconds = interleaved(steps, rounds=1 if smoke else 3, threads=1)
    yield result(
        "SuperBPE stage 2 / plain BPE with tokenizers, per corpus token",
        seconds["stage 2"].cpu / seconds["tokenizers BPE"].cpu,
        AT_MOST_SUPERWORDS,
        vocab_size=vocabulary,
        transition=transition,
        bytes=utf8_bytes(texts),
        corpus_tokens=tokens,
        microseconds_per_token={name: round(1e6 * each.cpu / tokens, 3) for name, each in seconds.items()},
        cpu_seconds={name: round(each.cpu, 3) for name, each in seconds.items()},
        tokenizers=tokenizers.__version__,
    )


def memory(megabytes: float, vocabulary: int, transition: int) -> Result:
    """Peak memory of stage 2 per corpus token, at one, two and four times the text."""
    times = (1, 2, 4)
    peaks = peak_memory(
        {f"{each} x": partial(prepared, each * megabytes, vocabulary, transition) for each in times}
    )
    tokens = {
        f"{each} x": corpus_token_count(
            train_bpe(corpus(each * megabytes), transition), corpus(each * megabytes)
        )
        for each in times
    }
    per_token = {name: 1e6 * peaks[name] / tokens[name] for name in peaks}
    return result(
        "memory of SuperBPE stage 2 per corpus token, four times the text / once",
        per_token["4 x"] / per_token["1 x"],
        AT_MOST_MEMORY,
        megabytes={name: round(peak, 1) for name, peak in peaks.items()},
        corpus_tokens=tokens,
        bytes_per_token={name: round(each, 1) for name, each in per_token.items()},
        vocab_size=vocabulary,
        transition=transition,
    )


def prepared(megabytes: float, vocabulary: int, transition: int) -> Step:
    """Stage 2, with the text and the first stage at hand."""
    texts = corpus(megabytes)
    stage1 = train_bpe(texts, transition)
    corpus_token_count(stage1, texts[:1000])
    return lambda: _drop(extend_to_superwords(stage1, texts, vocabulary))


def corpus(megabytes: float) -> list[str]:
    """The first paragraphs that together have so many characters."""
    chosen, left = [], megabytes * 1e6
    for paragraph in paragraphs():
        if left <= 0:
            break
        chosen.append(paragraph)
        left -= len(paragraph)
    if left > 0:
        note(f"there is no more text than {megabytes - left / 1e6:.1f} MB")
    return chosen


@cache
def paragraphs() -> tuple[str, ...]:
    """All of the library's source text, cut at empty lines; without tables of characters, and tests that are mostly such."""
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "test", "tests", "encodings"}
    found: list[str] = []
    for file in sorted(root.rglob("*.py")):
        if not left_out & set(file.relative_to(root).parts):
            text = file.read_text(encoding="utf-8", errors="ignore")
            found += [part for part in text.split("\n\n") if part.strip()]
    random.Random(0).shuffle(found)
    return tuple(found)


def _drop(made: object) -> None:
    """A step returns nothing: what it made is freed within it."""


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
