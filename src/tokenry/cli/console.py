"""Shared by every command: results on stdout, all else on stderr, errors in one sentence.

`command` wraps a plain function with `--quiet`, `--debug` and `--log-file`; `run_verb` runs a verb, saves its result and prints it.
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
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console, RenderableType

from tokenry.cli.progress import progress
from tokenry.core.errors import UserError
from tokenry.core.io.files import require_output, require_output_file
from tokenry.core.io.progress import Progress
from tokenry.core.io.quiet import quiet_libraries
from tokenry.core.io.ranks import is_first
from tokenry.verbs._mistakes import mistakes_named

if TYPE_CHECKING:
    from tokenry.report.result import Result

Json = Annotated[bool, typer.Option("--json", help="Print only JSON on stdout.", rich_help_panel="Output")]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Print only the result: no progress, no notes.", rich_help_panel="Output"
    ),
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show the stack trace of an error.", rich_help_panel="Output")
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        "--log-file",
        metavar="FILE",
        help="Append the complete log to this file, with timestamps.",
        rich_help_panel="Output",
    ),
]
_SHARED = {"quiet": (Quiet, False), "debug": (Debug, False), "log_file": (LogFile, None)}


@dataclass(frozen=True)
class _Streams:
    results: TextIO
    quiet: bool


_streams: ContextVar[_Streams] = ContextVar("streams")


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a plain function.

    While it runs, stdout belongs to results (`print_json`, `show`): what libraries print goes to stderr. What tokenry logs are
    notes; libraries' warnings are for developers, and shown under `--debug` only.
    """

    @functools.wraps(function)
    def wrapped(
        *args: Any, quiet: bool = False, debug: bool = False, log_file: Path | None = None, **options: Any
    ) -> None:
        token = _streams.set(_Streams(results=sys.stdout, quiet=quiet or not is_first()))
        try:
            with (
                contextlib.redirect_stdout(sys.stderr),
                _notes_from_log(log_file),
                _warnings_shown(debug),
                mistakes_named(),
            ):
                function(*args, **options)
        except UserError as error:
            if is_first():  # what a user did wrong, all processes of a job find alike
                _complain(f"error: {error}", debug)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as stop:
            if is_first():
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
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _SHARED.items()
    ]
    signature = inspect.signature(function, eval_str=True)
    setattr(  # noqa: B010  (mypy knows no __signature__ on a function)
        wrapped, "__signature__", signature.replace(parameters=[*signature.parameters.values(), *shared])
    )
    wrapped.__annotations__ = {
        **function.__annotations__,
        **{name: annotation for name, (annotation, _) in _SHARED.items()},
    }
    return wrapped


def run_verb(run: "Callable[[Any, Progress], Result]", plan: Any, as_json: bool) -> None:
    """Run a verb, save its result where the plan's `output` says, and print it.

    A warning stands in the result, and is said once: under `--json`, where nobody may read the result, on stderr.

    Raises:
        UserError: the output cannot be written, or what the verb refuses.
        typer.Exit: with code 1 where the result says that something failed.
    """
    from tokenry.report.blocks import warnings_in

    output = getattr(plan, "output", None)
    require_output(output)
    with quiet_libraries(), progress(_streams.get().quiet) as report:
        result = run(plan, report)
    if not is_first():
        return
    if getattr(plan, "dry_run", False):
        output = None
    written = result.save(output) if output is not None else []
    if as_json:
        print_json(result.printed)
        for warning in warnings_in(result.blocks):
            note(f"warning: {warning}")
    else:
        show_blocks(result.blocks)
    if written:
        note(f"written: {' and '.join(map(str, written))}")
    if not result.ok:
        raise typer.Exit(1)


def show_blocks(blocks: Iterable[Any]) -> None:
    """Draw blocks on stdout, as wide as the terminal."""
    from tokenry.report.terminal import terminal_blocks

    terminal = Console(file=_streams.get().results)
    for renderable in terminal_blocks(blocks, terminal.width, coloured=terminal.color_system is not None):
        show(renderable)


def print_json(content: Any) -> None:
    """Print `content` to stdout as JSON; a value that JSON does not know is a failure, never `NaN`."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=float)
    print(text, file=_streams.get().results, flush=True)


def show(renderable: RenderableType) -> None:
    """Print a rich table or text to stdout, as a result; plain strings are shown as they are."""
    Console(file=_streams.get().results, markup=False, highlight=False).print(renderable)


def note(text: str) -> None:
    """Say something that is not a result, on stderr; nothing under `--quiet`."""
    if not _streams.get().quiet:
        print(text, file=sys.stderr, flush=True)


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(f"note: {record.getMessage()}")


@contextlib.contextmanager
def _notes_from_log(log_file: Path | None) -> Iterator[None]:
    logger, handlers = logging.getLogger("tokenry"), [_Notes(), *_log_to(log_file)]
    before = logger.level, logger.propagate
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.level, logger.propagate = before


def _log_to(log_file: Path | None) -> list[logging.Handler]:
    if log_file is None or not is_first():
        return []
    require_output_file(log_file)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log_file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return [handler]


@contextlib.contextmanager
def _warnings_shown(shown: bool) -> Iterator[None]:
    with warnings.catch_warnings():
        if not shown:
            warnings.simplefilter("ignore")
        yield


def _complain(sentence: str, debug: bool) -> None:
    if debug:
        traceback.print_exc(file=sys.stderr)
    print(f"tokenry: {sentence}", file=sys.stderr, flush=True)
