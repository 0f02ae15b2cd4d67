"""How a long job reports its progress: `progress("training", 0.4)`."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")

Progress = Callable[[str, float], None]
"""Called with the name of the current stage and the share of the whole that is done, in [0, 1]."""

DETAILS = " · "
"""Separates a stage from details that change at every call: `training · step 3 of 99, loss 1.210`."""


def part(progress: Progress, begin: float, end: float) -> Progress:
    """Progress of a part of a job that goes from `begin` to `end` of the whole."""
    return lambda what, share: progress(what, begin + (end - begin) * share)


def in_turn(
    items: Iterable[_Item], progress: Progress, begin: float = 0.0, end: float = 1.0
) -> Iterator[tuple[_Item, Progress]]:
    """Each item with the progress of its own part of a job that goes from `begin` to `end`; all parts are equally long."""
    every = list(items)
    edges = [begin + (end - begin) * number / len(every) for number in range(len(every) + 1)] if every else []
    for item, edge in zip(every, itertools.pairwise(edges), strict=True):
        yield item, part(progress, *edge)


def named(progress: Progress, what: str) -> Callable[[float], None]:
    """Progress of a job that only knows its share, under one name."""
    return lambda share: progress(what, share)


def one_stage(progress: Progress, what: str) -> Progress:
    """Progress of a job that is a single stage of the whole: its own stages go unnamed."""
    return lambda stage, share: progress(what, share)
