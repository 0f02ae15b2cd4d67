"""The progress of a long job, on stderr: a bar in a terminal, lines elsewhere."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from tokenry.core.io.progress import DETAILS, Progress

_SILENCE = 30.0
"""Seconds after which a job that writes to no terminal says again how far it is."""


@contextlib.contextmanager
def progress(quiet: bool = False) -> Iterator[Progress]:
    """Show a bar with elapsed and remaining time on stderr; yields `report(what, share_done)`.

    Where stderr is no terminal, each new `what` is a line of its own, and after every 30 seconds of silence another line says how far
    the job is. A job that has reported anything is said to be done at its end.
    """
    terminal = Console(stderr=True)
    if quiet:
        yield lambda what, share: None
    elif terminal.is_terminal:
        with _bar(terminal) as report:
            yield report
            report("done", 1.0)
    else:
        lines = _Lines()
        try:
            yield lines.report
            if lines.stage:
                lines.report("done", 1.0)
        finally:
            lines.end()


@contextlib.contextmanager
def _bar(terminal: Console) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("remaining"),
    )
    # The remaining time is estimated from all the time that has passed: stages differ in speed.
    with Bar(*columns, console=terminal, speed_estimate_period=1e9) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)


class _Lines:
    """Progress as lines; a thread of its own speaks up when a stage reports nothing for long."""

    def __init__(self) -> None:
        self._what, self._share, self.stage = "starting", 0.0, ""
        self._begun = self._written = time.monotonic()
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._stream = sys.stderr
        threading.Thread(target=self._watch, daemon=True).start()

    def report(self, what: str, share: float) -> None:
        """Write a line where `what` is a new stage; what stands behind its details changes all the time."""
        with self._lock:
            self._what, self._share = what, share
            stage = what.partition(DETAILS)[0]
            if stage != self.stage:
                self.stage = stage
                self._write()

    def end(self) -> None:
        """Write nothing more."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(max(0.0, self._written + _SILENCE - time.monotonic())):
            with self._lock:
                if not self._ended.is_set() and time.monotonic() - self._written >= _SILENCE:
                    self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        elapsed = self._written - self._begun
        times = f", {elapsed:.0f} s elapsed" if elapsed > 5 else ""
        if times and self._share > 0:
            times += f", about {elapsed * (1 / self._share - 1):.0f} s remaining"
        print(f"{self._share:4.0%}  {self._what}{times}", file=self._stream, flush=True)
