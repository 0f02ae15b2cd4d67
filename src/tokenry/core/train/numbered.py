"""Batches and random numbers that depend on the number of a step alone, so that training can begin at any step."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


class TextBatches:
    """An endless sequence of batches of texts, each epoch in another order: batch `n` is always the same.

    Args:
        texts: texts in any form, such as blocks of tokens.
        batch_size: texts per batch.
    """

    def __init__(self, texts: Iterable[Any], batch_size: int, seed: int) -> None:
        self._texts, self._batch_size, self._seed = list(texts), batch_size, seed
        self._orders: dict[int, list[int]] = {}

    def __getitem__(self, number: int) -> list[Any]:
        size = len(self._texts)
        places = range(number * self._batch_size, (number + 1) * self._batch_size)
        return [self._texts[self._order(place // size)[place % size]] for place in places]

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e >= epoch - 1}
            self._orders[epoch] = torch.randperm(
                len(self._texts), generator=step_generator(self._seed, epoch, "order")
            ).tolist()
        return self._orders[epoch]


def step_generator(seed: int, number: int, what: str) -> torch.Generator:
    """Random numbers for one purpose of one step."""
    mixed = torch.Generator().manual_seed(seed)
    salt = int.from_bytes(what.encode()[:6], "little")
    first = int(torch.randint(2**62, (1,), generator=mixed))
    return torch.Generator().manual_seed(
        (first ^ (salt * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9)) % 2**63
    )


def mixed(numbers: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Scatter integers over all 64 bits (SplitMix64): neighbours become as unlike as any two; the same on every device."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        numbers = (numbers ^ _shifted(numbers, shift)) * factor
    return numbers ^ _shifted(numbers, 31)


def uniform_numbers(
    keys: Int[Tensor, "*rows"], places: Int[Tensor, "*rows places"]
) -> Float[Tensor, "*rows places"]:
    """Random numbers in [0, 1), each of which follows from the key of its row and its place in it, and from nothing else."""
    bits = _shifted(mixed(keys[..., None] + (places + 1) * -0x61C8864680B583EB), 40)
    return bits.float() / (1 << 24)


def _shifted(numbers: Int[Tensor, "*shape"], by: int) -> Int[Tensor, "*shape"]:
    """Shift to the right without the sign."""
    return (numbers >> by) & ((1 << (64 - by)) - 1)
