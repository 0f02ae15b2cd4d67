"""Runs side by side in one folder: the plan is stored, what is finished is kept, and an interrupted job goes on where it stopped.

OUTPUT/plan.json      the settings, written once everything that could be refused has been checked
OUTPUT/data.json      a fingerprint of the data
OUTPUT/NAME/...       one run each: checkpoints, model, measurements
OUTPUT/result.json    the result of all runs
OUTPUT/.lock          held by the process that works there
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from tokenry.core.errors import UserError
from tokenry.core.io.files import read_json, write_json
from tokenry.core.io.ranks import by_first, is_first
from tokenry.core.io.workspace import Workspace
from tokenry.report.result import RESULT_FILE

PLAN_FILE = "plan.json"
_DATA_FILE = "data.json"

_Plan = TypeVar("_Plan")


class Interrupted(KeyboardInterrupt):
    """The user stopped; the message says where."""


def folder_name(name: str) -> str:
    """Write the name of a run as that of its folder."""
    return re.sub(r"[^a-z0-9.=-]+", "-", name.lower())


def require_apart(names: Iterable[str]) -> None:
    """Raise `UserError` where two runs would share a folder."""
    runs = list(names)
    if len({folder_name(name) for name in runs}) < len(runs):
        raise UserError(f"{', '.join(runs)} are too much alike to be kept apart: leave one of them out.")


@dataclass(frozen=True)
class SideBySide:
    """The folder of one job, whose runs are compared.

    Attributes:
        verb: the verb, as it is typed behind `tokenry`.
        folder: the folder; it need not exist.
    """

    verb: str
    folder: Path

    @property
    def is_begun(self) -> bool:
        """Whether the folder holds a job yet, finished or not."""
        return self._workspace({}).is_begun

    @property
    def result_file(self) -> Path:
        """The result of all runs; it exists once the job is finished."""
        return self.folder / RESULT_FILE

    def require_own(self) -> None:
        """Raise `UserError` for a folder with files of something else; logs, and what a refused job leaves, may be there."""
        if not self.folder.is_dir() or self.is_begun:
            return
        if any(
            not path.name.startswith(".") and path.suffix != ".log" and path.name != _DATA_FILE
            for path in self.folder.iterdir()
        ):
            raise UserError(
                f"{self.folder} exists already and holds no run of `tokenry {self.verb}`: name a new folder, so that nothing is "
                "overwritten."
            )

    def require_resume(self, resume: bool) -> None:
        """Raise `UserError` where a job is there, and is not asked to go on."""
        if self.is_begun and not resume:
            raise UserError(
                f"{self.folder} already holds a run: go on with it by --resume, or choose another --output for a new one."
            )

    def require_same(self, asked: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
        """Raise `UserError` where a setting that is asked for is not that of the stored job; the setting is named."""
        for name, value in asked.items():
            there = stored.get(name)
            same = value.items() <= there.items() if isinstance(value, dict) and there else value == there
            if not same:
                raise UserError(
                    f"the run in {self.folder} was made with {name}={there!r}, not {value!r}: leave it out to go on, or choose "
                    "another --output for a new run."
                )

    def require_settings(self, settings: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
        """Raise `UserError` where the settings are not those of the stored job."""
        if settings != stored:
            raise UserError(self._of_others)

    def read_plan(self, read: Callable[[dict[str, Any]], _Plan]) -> _Plan:
        """The plan of the job in the folder.

        Args:
            read: makes the plan of the stored settings.
        """
        path = self.folder / PLAN_FILE
        try:
            stored = read_json(path)
            if not isinstance(stored, dict):
                raise UserError("it holds no plan")
            return read(stored)
        except UserError as error:
            raise UserError(
                f"{path} is damaged, so the run cannot go on: choose another --output for a new one."
            ) from error

    def begin(self, settings: Mapping[str, Any], data: str, prepare: Callable[[], None]) -> None:
        """Make the folder that of a job, or go on with the job that is there.

        Args:
            data: fingerprint of its data.
            prepare: called before a new job begins: it refuses what will not work, and says what the job will cost.
        """
        path, fingerprint = self.folder / _DATA_FILE, {"fingerprint": data}
        if not self.is_begun:
            prepare()
            self._claim(settings, fingerprint)
        elif read_json(path) != fingerprint:
            raise UserError(
                f"the data has changed since the run in {self.folder} began: choose another --output for a new run."
            )

    @by_first
    def _claim(self, settings: Mapping[str, Any], fingerprint: Mapping[str, str]) -> None:
        write_json(self.folder / _DATA_FILE, fingerprint)
        self._workspace(settings).claim(self._of_others)

    @contextmanager
    def at_work(self, doing: Callable[[], str]) -> Iterator[None]:
        """Work in the folder: no second process does, and an interruption says how to go on.

        Args:
            doing: says what is being done, for an interruption that does not say it.

        Raises:
            UserError: another process is at work there, or the folder cannot be one.
            Interrupted: the user stopped; what is finished is kept.
        """
        try:
            with self._locked():
                yield
        except KeyboardInterrupt as stop:
            where = str(stop) or f"stopped while doing this: {doing()}"
            resumed = f"tokenry {self.verb} --resume --output {shlex.quote(str(self.folder))}"
            kept = f"; what is finished is kept: go on with `{resumed}`" if self.is_begun else ""
            raise Interrupted(f"{where}{kept}.") from stop

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold a lock on the folder, one for all processes of a job; a process that is killed lets it go."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock", timeout=0)
            if is_first():
                lock.acquire()
        except Timeout as error:
            raise UserError(
                f"another run is at work in {self.folder}: wait for it, or choose another --output."
            ) from error
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be a folder ({error.strerror}): choose another --output."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _workspace(self, settings: Mapping[str, Any]) -> Workspace:
        return Workspace(self.folder, settings, PLAN_FILE)

    @property
    def _of_others(self) -> str:
        return f"{self.folder} holds a run with other settings: choose another output."
