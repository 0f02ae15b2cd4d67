"""Time and memory of interchangeable steps: timed by turns in one process, memory in a process of its own for each.

seconds  = CPU seconds of the process (what other programs on the machine do hardly counts) and wall seconds, least of the rounds
memory   = highest resident memory during one step − resident memory just before it (model loaded, no gradients yet)
"""

import ctypes
import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path

import torch
from _report import note

Step = Callable[[], None]

# Returned memory goes back to the system at once, for all variants alike: the peak is then that of the living tensors.
_MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}


@dataclass(frozen=True)
class Seconds:
    """Of one round, or the least of several."""

    cpu: float
    wall: float


def by_turns(steps: Mapping[str, Step], rounds: int, threads: int) -> dict[str, list[Seconds]]:
    """Time every step once per round, by turns, after one round that warms up; all rounds in order."""
    before = torch.get_num_threads()
    gc.collect()
    gc.freeze()  # what is loaded stays: the collections between the steps look at the steps only
    torch.set_num_threads(threads)
    taken: dict[str, list[Seconds]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        note(f"{threads} thread(s): round {number} of {rounds}")
        turn = number % len(steps)  # nobody always follows the same neighbour
        for name, step in [*steps.items()][turn:] + [*steps.items()][:turn]:
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            seconds = Seconds(time.process_time() - cpu, time.perf_counter() - wall)
            if number:
                taken[name].append(seconds)
    torch.set_num_threads(before)
    gc.unfreeze()
    return taken


def interleaved(steps: Mapping[str, Step], rounds: int, threads: int) -> dict[str, Seconds]:
    """Time the steps by turns; the least of each."""
    return {
        name: Seconds(min(seconds.cpu for seconds in taken), min(seconds.wall for seconds in taken))
        for name, taken in by_turns(steps, rounds, threads).items()
    }


def peak_memory(prepare: Mapping[str, Callable[[], Step]]) -> dict[str, float]:
    """Megabytes that one step of each variant needs beyond what is resident before it.

    Args:
        prepare: loads a model and returns a step; picklable. Called in a fresh process, with one thread.
    """
    os.environ |= _MALLOC
    if (
        multiprocessing.parent_process()
    ):  # itself a fork of a process that has imported everything, in the tests
        context: BaseContext = multiprocessing.get_context("fork")
    else:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tokenry.finetuning"])  # imported once for all of them
    peaks = {}
    for name, load in prepare.items():
        note(f"memory of {name}")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_peak_of_one_step, args=(load, sender))
        process.start()
        sender.close()
        try:
            peaks[name] = receiver.recv()
        except EOFError as error:
            raise RuntimeError(f"the process that measured the memory of {name} failed") from error
        finally:
            process.join()
    return peaks


def _peak_of_one_step(load: Callable[[], Step], sender: multiprocessing.connection.Connection) -> None:
    torch.set_num_threads(1)
    step = load()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far (loading) is forgotten
    before = resident("VmRSS")
    step()
    sender.send((resident("VmHWM") - before) / 1e6)


def resident(what: str, process: int | str = "self") -> int:
    """Bytes of a process that are in memory: now (VmRSS), or at most (VmHWM)."""
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f"{what}:"))
