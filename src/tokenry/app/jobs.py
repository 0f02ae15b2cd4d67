"""One job at a time, in the order in which they were asked for; a job that nobody watches any longer stops at its next step.

A job runs in one thread of its own. It learns that it is to stop where it reports its progress: `Stopped` is raised there, and is to a
verb what Ctrl-C is in a terminal, so that what can be resumed is kept.
"""

import contextvars
import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress
from tokenry.core.io.quiet import quiet_libraries
from tokenry.verbs._mistakes import mistakes_named

MOST_WAITING = 16
UNWATCHED_SECONDS = 30.0
"""How long a job goes on after the last look at it, where a page went without saying so: one that is open looks several times a second."""

logger = logging.getLogger(__name__)


class Stopped(KeyboardInterrupt):
    """The user stopped the job, or closed the page."""


@dataclass(eq=False)
class QueuedJob:
    """A job, and all that a page shows of it.

    Attributes:
        work: what it does; receives where it reports its progress.
        state: `waiting`, `running`, or how it ended.
        stage: name of the present stage.
        share: share of the whole that is done.
        said: what there was to tell: the error where it was refused or failed, where it was stopped.
        notes: what the verb noted meanwhile.
        begun: when it began, in seconds of the monotonic clock.
    """

    work: Callable[[Progress], None]
    state: Literal["waiting", "running", "done", "refused", "failed", "stopped"] = "waiting"
    stage: str = "starting"
    share: float = 0.0
    said: str = ""
    notes: list[str] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)
    _stop: threading.Event = field(default_factory=threading.Event)
    _looked_at: float = field(default_factory=time.monotonic)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state not in ("waiting", "running")

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.begun

    def stop(self) -> None:
        """Let it end at its next step."""
        self._stop.set()

    def look(self) -> None:
        """Say that somebody still waits for it."""
        self._looked_at = time.monotonic()

    @property
    def is_given_up(self) -> bool:
        """Whether it was stopped, or nobody waits for it."""
        return self._stop.is_set() or time.monotonic() - self._looked_at > UNWATCHED_SECONDS

    def report(self, stage: str, share: float) -> None:
        """Receive the progress of the work.

        Raises:
            Stopped: it is not wanted any longer.
        """
        if self.is_given_up:
            raise Stopped("stopped.")
        self.stage, self.share = stage, share


class Jobs:
    """The queue, and the thread that works on it."""

    def __init__(self) -> None:
        self._waiting: deque[QueuedJob] = deque()
        self._running: QueuedJob | None = None
        self._changed = threading.Condition()
        # What is noted goes where the command that serves the app writes.
        work = partial(contextvars.copy_context().run, self._work)
        threading.Thread(target=work, daemon=True, name="tokenry-jobs").start()

    def add(self, job: QueuedJob) -> QueuedJob:
        """Put a job at the end of the queue; it may begin before this returns.

        Raises:
            UserError: too many wait already.
        """
        with self._changed:
            self._drop_given_up()
            if len(self._waiting) >= MOST_WAITING:
                raise UserError(f"{MOST_WAITING} jobs wait already: try again when some of them are done.")
            self._waiting.append(job)
            self._changed.notify()
        return job

    def ahead(self, job: QueuedJob) -> int:
        """The number of jobs that come before one that waits."""
        with self._changed:
            self._drop_given_up()
            before = self._waiting.index(job) if job in self._waiting else 0
            return before + (self._running is not None)

    def _drop_given_up(self) -> None:
        for job in [job for job in self._waiting if job.is_given_up]:
            job.state, job.said = "stopped", "stopped before it began."
            self._waiting.remove(job)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._running = None
                while not self._waiting:
                    self._changed.wait()
                job = self._running = self._waiting.popleft()
            if job.is_given_up:
                job.state, job.said = "stopped", "stopped before it began."
            else:
                _run(job)


def _run(job: QueuedJob) -> None:
    job.state, job.begun = "running", time.monotonic()
    try:
        with _notes_of(job), mistakes_named(), quiet_libraries():
            job.work(job.report)
    except UserError as error:
        job.state, job.said = "refused", str(error)
    except KeyboardInterrupt as stop:
        job.state, job.said = "stopped", str(stop) or "stopped."
    except Exception as error:
        logger.exception("a job failed")
        job.state, job.said = "failed", f"{type(error).__name__}: {error}"
    else:
        job.state = "done"
    finally:
        # Models hold themselves in cycles: without this, those of the last jobs would still be in memory.
        gc.collect()


class _JobNotes(logging.Handler):
    def __init__(self, notes: list[str]) -> None:
        super().__init__(logging.INFO)
        self.notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR:
            self.notes.append(record.getMessage())


@contextmanager
def _notes_of(job: QueuedJob) -> Iterator[None]:
    handler, package = _JobNotes(job.notes), logging.getLogger("tokenry")
    before = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(before)
