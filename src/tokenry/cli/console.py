"""What every verb of the command line shares: results on stdout, all else on stderr, errors in one sentence.

A verb is a plain function; `verb` makes a command of it, with `--quiet` and `--debug`.
Exit codes: 0 ok, 1 failed or stopped by the user, 2 bad usage or bad input (`UserError`).
"""

import contextlib
import functools
import inspect
import json
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tokenry.core.errors import UserError
from tokenry.core.files import write_json

Json = Annotated[bool, typer.Option("--json", help="Print nothing but JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes, only the result.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the stack trace of an error.")]


_EXTRAS = {
    "reasoning_gym": "demo",
    "gguf": "demo",
    "gradio": "app",
    "wordfreq": "words",
    "english_words": "words",
    "ray": "ray",
    "lm_eval": "lm-eval",
}
"""The extra that installs a package."""


@dataclass(frozen=True)
class _Streams:
    results: TextIO
    quiet: bool


_streams: ContextVar[_Streams] = ContextVar("streams")


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a plain function.

    While it runs, stdout belongs to results (`print_json`, `print_table`, `show`): what libraries print goes to stderr.
    What tokenry logs are notes; libraries' warnings are for developers, and shown under `--debug` only.
    """

    @functools.wraps(function)
    def command(*args: Any, quiet: bool = False, debug: bool = False, **options: Any) -> None:
        token = _streams.set(_Streams(results=sys.stdout, quiet=quiet))
        try:
            with (
                contextlib.redirect_stdout(sys.stderr),
                _notes_from_log(),
                _warnings_shown(debug),
                _mistakes_named(),
            ):
                function(*args, **options)
        except UserError as error:
            _complain(f"error: {error}", debug)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as stop:
            _complain(str(stop) or "stopped.", debug)
            raise typer.Exit(1) from stop
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            hint = "" if debug else " (--debug shows where)"
            _complain(f"failed: {type(error).__name__}: {error}{hint}", debug)
            raise typer.Exit(1) from error
        finally:
            _streams.reset(token)

    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in (("quiet", Quiet), ("debug", Debug))
    ]
    signature = inspect.signature(function, eval_str=True)
    setattr(  # noqa: B010  (mypy knows no __signature__ on a function)
        command, "__signature__", signature.replace(parameters=[*signature.parameters.values(), *shared])
    )
    command.__annotations__ = {**command.__annotations__, "quiet": Quiet, "debug": Debug}
    return command


def print_json(content: Any) -> None:
    """Print `content` to stdout as JSON; a value that JSON does not know is a failure, never `NaN`."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=float)
    print(text, file=_streams.get().results, flush=True)


def deliver(result: Any, output: Path | None, as_json: bool) -> bool:
    """Write a result to a JSON file where that is wanted, print it as JSON where that is, and tell whether it was printed."""
    if output:
        write_json(output, result)
        note(f"written: {output}")
    if as_json:
        print_json(result)
    return as_json


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table to stdout, as wide as the terminal; its cells are shown as they are."""
    table = Table(show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    show(title)
    show(table)


def show(renderable: RenderableType) -> None:
    """Print a rich table or text to stdout, as a result; plain strings are shown as they are."""
    Console(file=_streams.get().results, markup=False, highlight=False).print(renderable)


def note(text: str) -> None:
    """Say something that is not a result, on stderr; nothing under `--quiet`."""
    if not _streams.get().quiet:
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str, float], None]]:
    """Show a bar with elapsed and remaining time on stderr; yields `report(what, share_done)`.

    Where stderr is no terminal, each new `what` is a line of its own.
    """
    terminal = Console(stderr=True)
    if _streams.get().quiet or not terminal.is_terminal:
        said: list[str] = []

        def report_lines(what: str, share: float) -> None:
            if what not in said[-1:]:
                said.append(what)
                note(f"{share:4.0%}  {what}")

        yield report_lines
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # The remaining time is told from the whole time that went: stages differ in speed.
    with Progress(*columns, console=terminal, speed_estimate_period=1e9) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(f"note: {record.getMessage()}")


@contextlib.contextmanager
def _notes_from_log() -> Iterator[None]:
    logger, notes = logging.getLogger("tokenry"), _Notes()
    before = logger.level, logger.propagate
    logger.addHandler(notes)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(notes)
        logger.level, logger.propagate = before


@contextlib.contextmanager
def _warnings_shown(shown: bool) -> Iterator[None]:
    with warnings.catch_warnings():
        if not shown:
            warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _mistakes_named() -> Iterator[None]:
    """A package that is not installed and a path that cannot be used are the user's to put right, wherever they show.

    Raises:
        UserError: in place of both.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "tokenry"):
            raise
        install = f"'tokenry[{_EXTRAS[package]}]'" if package in _EXTRAS else package
        raise UserError(
            f"the package {package} is needed and not installed: `pip install {install}`."
        ) from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        if error.filename is None:
            raise
        raise UserError(f"{error.filename} cannot be used ({error.strerror}): name another path.") from error


def _complain(sentence: str, debug: bool) -> None:
    if debug:
        traceback.print_exc(file=sys.stderr)
    print(f"tokenry: {sentence}", file=sys.stderr, flush=True)
