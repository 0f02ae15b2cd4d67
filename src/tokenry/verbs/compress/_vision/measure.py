"""Time and memory of one model with different reductions, and without: taken by turns in one process, on one batch.

    speed-up = wall time unpatched / wall time patched, round by round: their median and quartiles

Wall time is what a user waits for. CPU time, which other programs on the machine hardly change, is reported beside it.
"""

import gc
import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tokenry.compression.reducer import Attention, LayerReducer, TokenReducer, Tokens
from tokenry.core.tensors.attention import AttentionCall
from tokenry.core.tensors.patching import Encoder
from tokenry.models.image_encoders import ImageEncoder
from tokenry.verbs.compress._vision.records import Speed, Spread

Patched = Callable[[], AbstractContextManager[Any]]
"""Patches the model while it is entered."""


@dataclass(frozen=True)
class Seconds:
    """Seconds of one forward pass."""

    wall: float
    cpu: float


def take_turns(
    forward: Callable[[], object], variants: Mapping[str, Patched], rounds: int, tell: Callable[[float], None]
) -> dict[str, list[Seconds]]:
    """Time one forward pass of every variant in each round, in turns, after a round that warms up.

    Args:
        forward: runs the model once.
        variants: by name, how the model is patched; patching is not timed.
        rounds: timed rounds.
        tell: called with the share that is done.
    """
    taken: dict[str, list[Seconds]] = {name: [] for name in variants}
    names = list(variants)
    with _no_collections():
        for number in range(rounds + 1):
            turn = number % len(names)  # no variant always follows the same neighbour
            for place, name in enumerate(names[turn:] + names[:turn]):
                tell((number + place / len(names)) / (rounds + 1))
                with variants[name]():
                    seconds = _timed(forward)
                if number:
                    taken[name].append(seconds)
    return taken


@contextmanager
def _no_collections() -> Iterator[None]:
    """Python's garbage collector waits, so that no forward pass pays for what another left."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _timed(forward: Callable[[], object]) -> Seconds:
    _wait_for_device()
    wall, cpu = time.perf_counter(), time.process_time()
    forward()
    _wait_for_device()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def _wait_for_device() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def speed(taken: Sequence[Seconds], images: int, peak_memory_mb: float) -> Speed:
    """Medians over the rounds of one variant."""
    return Speed(
        images_per_second=images / statistics.median(seconds.wall for seconds in taken),
        images_per_cpu_second=images / max(1e-9, statistics.median(seconds.cpu for seconds in taken)),
        peak_memory_mb=peak_memory_mb,
    )


def speedup(unpatched: Sequence[Seconds], patched: Sequence[Seconds]) -> tuple[Spread, float]:
    """Speed-ups round by round: the spread in wall time, and the median in CPU time."""
    rounds = list(zip(unpatched, patched, strict=True))
    lower, median, upper = np.percentile([one.wall / other.wall for one, other in rounds], [25, 50, 75])
    cpu = statistics.median(one.cpu / max(1e-9, other.cpu) for one, other in rounds)
    return Spread(median=float(median), lower=float(lower), upper=float(upper)), cpu


# --- memory --------------------------------------------------------------------------------------------------------------------------


def peak_memory(forward: Callable[[], object], device: torch.device) -> float:
    """Megabytes of tensors that one forward pass needs at once, beyond those that are there before it.

    On CUDA the allocator counts. Elsewhere the storages that operations make are counted while they live, which is exact but for the
    workspace inside kernels; the memory of the process would include what an allocator keeps for later.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        forward()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    with _LivingStorages() as living:
        forward()
    return living.most / 1e6


class _LivingStorages(TorchDispatchMode):
    """Counts the bytes of storages that were made under it and still live."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._now = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        before = {self._storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and self._storage(leaf) not in before:
                self._count(leaf.untyped_storage())
        return made

    @staticmethod
    def _storage(tensor: Tensor) -> int:
        return tensor.untyped_storage().data_ptr()

    def _count(self, storage: torch.UntypedStorage) -> None:
        self._now += storage.nbytes()
        self.most = max(self.most, self._now)
        weakref.finalize(storage, self._release, storage.nbytes())

    def _release(self, size: int) -> None:
        self._now -= size


# --- where the time goes -------------------------------------------------------------------------------------------------------------


def reduction_share(
    forward: Callable[[], object],
    patched: Callable[[TokenReducer], AbstractContextManager[Any]],
    reducer: TokenReducer,
) -> float:
    """Share of a patched model's time that goes into choosing, merging and dropping tokens.

    Args:
        forward: runs the model once; it has run before, so nothing happens for the first time.
        patched: patches the model with a method while it is entered.
    """
    timed = TimedReducer(reducer)
    with patched(timed):
        whole = _timed(forward)
    return min(1.0, timed.seconds / whole.wall)


@dataclass
class TimedReducer:
    """A `TokenReducer` that counts the seconds another one takes to choose, merge and drop."""

    reducer: TokenReducer
    seconds: float = 0.0

    @property
    def proportional_attention(self) -> bool:
        """That of the method."""
        return self.reducer.proportional_attention

    def layer_reducers(self, encoder: Encoder) -> list[LayerReducer | None]:
        """Those of the method, each with a clock."""
        reducers = self.reducer.layer_reducers(encoder)
        return [reducer and _TimedLayer(reducer, self) for reducer in reducers]


class _TimedLayer(LayerReducer):
    def __init__(self, reducer: LayerReducer, clock: TimedReducer) -> None:
        self.after = reducer.after
        self._reducer, self._clock = reducer, clock

    def attend(self, call: AttentionCall, tokens: Tokens) -> tuple[Tensor, Tensor | None]:
        return self._reducer.attend(call, tokens)

    def reduce(self, hidden_states: Tensor, tokens: Tokens, attention: Attention) -> tuple[Tensor, Tokens]:
        _wait_for_device()
        start = time.perf_counter()
        reduced = self._reducer.reduce(hidden_states, tokens, attention)
        _wait_for_device()
        self._clock.seconds += time.perf_counter() - start
        return reduced


# --- what the head reads -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def reads_patches(encoder: ImageEncoder, pixels: Float[Tensor, "batch 3 height width"]) -> bool:
    """Whether the output depends on the patch tokens that leave the last layer, and not on the special ones alone.

    A head that reads patches needs all of them: merged ones would count too little, and their number would change its mean.
    """
    special = encoder.encoder.special_tokens

    def without_patches(module: nn.Module, arguments: Any, hidden_states: Tensor) -> Tensor:
        return torch.cat([hidden_states[:, :special], torch.zeros_like(hidden_states[:, special:])], dim=1)

    with encoder.encoder.layers[-1].register_forward_hook(without_patches):
        without = encoder(pixels)
    return not torch.allclose(without, encoder(pixels), rtol=1e-3, atol=1e-5)
