"""The jobs of all pages: each has a folder under a name that nobody can guess, in which its files and its result are."""

import secrets
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenry.app.fields import Desk
from tokenry.app.forms import Form, Prepared
from tokenry.app.jobs import Jobs, QueuedJob
from tokenry.app.panel import Beside, panel
from tokenry.core.errors import UserError
from tokenry.core.io.files import require_output_folder
from tokenry.core.io.progress import Progress
from tokenry.report.result import PAGE_FILE, RESULT_FILE

MOST_KEPT = 40
"""Finished jobs whose files are kept; those of older ones are removed."""

Place = tuple[str, str]
"""A page and one of its forms: a form has one job at a time, the newest."""


@dataclass(eq=False)
class Watched:
    """A job, and what is shown beside it."""

    job: QueuedJob
    jobs: Jobs
    beside: Beside

    def drawn(self) -> str:
        """The job as HTML."""
        ahead = self.jobs.ahead(self.job) if self.job.state == "waiting" else 0
        return panel(self.job, ahead, self.beside)


class Desks:
    """Starts and stops jobs, and finds their files.

    Args:
        kept: folder of the runs that stay, so that they can be resumed.
    """

    def __init__(self, kept: Path) -> None:
        require_output_folder(kept)
        self.kept = kept
        self.folder = Path(tempfile.mkdtemp(prefix="tokenry-app-"))
        self.jobs = Jobs()
        self._of_place: dict[Place, QueuedJob] = {}
        self._results: OrderedDict[str, Path] = OrderedDict()
        self._last: dict[tuple[str, str], Path] = {}

    def start(self, place: Place, form: Form, values: Sequence[Any]) -> Watched:
        """Put the job of a form into the queue; the one that the form had before is stopped.

        Raises:
            UserError: too many wait.
        """
        self.stop(place)
        key = secrets.token_urlsafe(16)
        folder = self.folder / key

        def work(progress: Progress) -> None:
            try:
                folder.mkdir()
            except OSError as error:
                raise UserError(
                    f"{folder} cannot be made ({error.strerror}): free some space, and start the app again."
                ) from error
            desk = Desk(folder, lambda verb: self._last.get((place[0], verb)))
            prepared = form.prepare(values, desk, self.kept)
            watched.beside = Beside(f"jobs/{key}", prepared.command, "", form.resumes)
            title = prepared.run(progress).title
            self._keep(key, (place[0], form.verb), prepared)
            watched.beside = Beside(f"jobs/{key}", prepared.command, title, form.resumes)

        watched = Watched(QueuedJob(work), self.jobs, Beside(f"jobs/{key}", resumes=form.resumes))
        self.jobs.add(watched.job)
        self._of_place[place] = watched.job
        return watched

    def has_newer(self, place: Place, job: QueuedJob) -> bool:
        """Whether the form has another job since: the panel is that one's."""
        return self._of_place.get(place, job) is not job

    def stop(self, place: Place) -> None:
        """Stop the job of a form, if it has one."""
        if place in self._of_place:
            self._of_place.pop(place).stop()

    def _keep(self, key: str, run: tuple[str, str], prepared: Prepared) -> None:
        self._results[key] = prepared.output
        self._last[run] = prepared.output
        while len(self._results) > MOST_KEPT:
            oldest, _ = self._results.popitem(last=False)
            shutil.rmtree(self.folder / oldest, ignore_errors=True)

    def file(self, key: str, name: str) -> Path | None:
        """A file of a finished job; None for anything else."""
        folder = self._results.get(key)
        return folder / name if folder is not None and name in (RESULT_FILE, PAGE_FILE) else None

    def close(self) -> None:
        """Remove the files of all jobs."""
        shutil.rmtree(self.folder, ignore_errors=True)
