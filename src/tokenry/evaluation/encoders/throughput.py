"""How fast encoders read the same texts, measured fairly, and where a difference comes from.

Texts are tokenized beforehand and read in batches of about one length. One round warms up; then the encoders take turns, the device is
waited for, and the median of the rounds counts: wall-clock time, and CPU time, which other programs on the machine hardly change.

    speed-up of b over a = tokens · architecture · kernels

    tokens          b on its own tokens / b on as many tokens as a has for each text
    architecture    b / a, both on as many tokens as a has, with plain attention (`eager`)
    kernels         what is left: b gains more than a, or less, from its own attention kernel
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.stats import Estimate, estimate_of_mean
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.models.text_classifier import TextClassifier, length_sorted

_PLAIN = "eager"


@dataclass(frozen=True)
class Throughput:
    """Speed of one encoder on texts.

    Attributes:
        tokens: tokens of all texts, without padding.
        seconds: wall-clock seconds, the median of the rounds.
        cpu_seconds: CPU seconds of the process, likewise.
        rounds: seconds of every round that ratios are made of: CPU time where the CPU computes, else wall-clock time.
        device: where it was read, such as `cpu` or `cuda`.
        peak_bytes: highest memory in use, where the device is `cuda`.
    """

    texts: int
    tokens: int
    seconds: float
    cpu_seconds: float
    rounds: tuple[float, ...]
    device: str
    peak_bytes: int | None = None

    @property
    def texts_per_second(self) -> float:
        """Texts per second of wall-clock time."""
        return self.texts / self.seconds

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of wall-clock time."""
        return self.tokens / self.seconds

    @property
    def busy_seconds(self) -> float:
        """Median of the rounds that ratios are made of."""
        return float(np.median(self.rounds))

    def times_as_fast_as(self, other: "Throughput") -> Estimate:
        """Speed-up over another encoder that took turns with this one, over the rounds."""
        return estimate_of_mean(np.divide(other.rounds, self.rounds))


@dataclass(frozen=True)
class SpeedUp:
    """How many times as fast an encoder is as the baseline, and the three factors of it."""

    tokens: float
    architecture: float
    kernels: float

    @property
    def total(self) -> float:
        """Product of the factors."""
        return self.tokens * self.architecture * self.kernels


@dataclass(frozen=True)
class _Reading:
    """An encoder and the rows of token ids that it reads."""

    classifier: TextClassifier
    rows: Sequence[Sequence[int]]
    plain: bool = False


def throughput(
    classifiers: Mapping[str, TextClassifier],
    texts: Sequence[str],
    batch_size: int = 32,
    rounds: int = 5,
    progress: Progress = lambda what, share: None,
) -> dict[str, Throughput]:
    """Time encoders by turns, each on its own tokens of the same texts."""
    readings = {
        name: _Reading(classifier, classifier.encode(texts)) for name, classifier in classifiers.items()
    }
    return _timed(readings, batch_size, rounds, progress)


def speed_ups(
    classifiers: Mapping[str, TextClassifier],
    texts: Sequence[str],
    batch_size: int = 32,
    rounds: int = 5,
    progress: Progress = lambda what, share: None,
) -> tuple[dict[str, Throughput], dict[str, SpeedUp]]:
    """Time encoders by turns, and split the speed-up of each over the first one into its three factors."""
    first, *others = classifiers
    rows = {name: classifier.encode(texts) for name, classifier in classifiers.items()}
    lengths = [len(row) for row in rows[first]]
    readings: dict[Any, _Reading] = {name: _Reading(classifiers[name], rows[name]) for name in classifiers}
    readings[first, _PLAIN] = _Reading(classifiers[first], rows[first], plain=True)
    for name in others:
        same = as_long_as(rows[name], lengths, classifiers[name].max_length)
        readings[name, first] = _Reading(classifiers[name], same)
        readings[name, _PLAIN] = _Reading(classifiers[name], same, plain=True)
    taken = _timed(readings, batch_size, rounds, progress)
    seconds = {name: found.busy_seconds for name, found in taken.items()}
    split = {}
    for name in others:
        architecture = seconds[first, _PLAIN] / seconds[name, _PLAIN]
        split[name] = SpeedUp(
            tokens=seconds[name, first] / seconds[name],
            architecture=architecture,
            kernels=seconds[first] / seconds[name, first] / architecture,
        )
    return {name: taken[name] for name in classifiers}, split


def as_long_as(rows: Sequence[Sequence[int]], lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Rows of other lengths: each is repeated or cut."""
    return [
        list(islice(cycle(row), min(length, max_length))) for row, length in zip(rows, lengths, strict=True)
    ]


def _timed(
    readings: Mapping[Any, _Reading], batch_size: int, rounds: int, progress: Progress
) -> dict[Any, Throughput]:
    require_at_least(1, batch_size=batch_size, rounds=rounds)
    steps = {name: _step(reading, batch_size) for name, reading in readings.items()}
    taken: dict[Any, list[tuple[float, float]]] = {name: [] for name in readings}
    for number in range(rounds + 1):
        progress("speed", number / (rounds + 1))
        turn = number % len(steps)  # no encoder always follows the same one
        for name, step in [*steps.items()][turn:] + [*steps.items()][:turn]:
            seconds = step()
            if number:
                taken[name].append(seconds)
    return {name: _throughput(reading, taken[name], steps[name]) for name, reading in readings.items()}


def _throughput(
    reading: _Reading, taken: Sequence[tuple[float, float]], step: Callable[[], tuple[float, float]]
) -> Throughput:
    """What was timed; the memory is that of one more reading, so that nothing but the clock runs beside the others."""
    device, peak = reading.classifier.model.device, None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        peak = torch.cuda.max_memory_allocated(device)
    wall, cpu = zip(*taken, strict=True)
    return Throughput(
        texts=len(reading.rows),
        tokens=sum(map(len, reading.rows)),
        seconds=float(np.median(wall)),
        cpu_seconds=float(np.median(cpu)),
        rounds=cpu if device.type == "cpu" else wall,
        device=device.type,
        peak_bytes=peak,
    )


def _step(reading: _Reading, batch_size: int) -> Callable[[], tuple[float, float]]:
    """Read all rows once: wall-clock and CPU seconds."""
    classifier = reading.classifier
    places = length_sorted([len(row) for row in reading.rows], batch_size)
    batches: list[dict[str, Tensor]] = [
        classifier.padded([reading.rows[place] for place in batch]) for batch in places
    ]

    @torch.no_grad()
    def step() -> tuple[float, float]:
        with (
            evaluation_mode(classifier.model),
            plain_attention(classifier) if reading.plain else nullcontext(),
        ):
            wait(classifier.model.device)
            wall, cpu = time.perf_counter(), time.process_time()
            for batch in batches:
                classifier.model(**batch)
            wait(classifier.model.device)
            return time.perf_counter() - wall, time.process_time() - cpu

    return step


def wait(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def plain_attention(classifier: TextClassifier) -> Iterator[None]:
    """Compute attention step by step for a while, without a fused kernel.

    Raises:
        UserError: the model has no such attention.
    """
    model, before = classifier.model, classifier.model.config._attn_implementation
    model.set_attn_implementation(_PLAIN)
    if model.config._attn_implementation != _PLAIN:
        raise UserError(
            f"{type(model).__name__} cannot be switched to plain attention, with which kernels are compared: compare throughput alone."
        )
    try:
        yield
    finally:
        model.set_attn_implementation(before)
