"""The command line: one file per verb, each a plain function that is made a command here.

A verb imports what is heavy inside its function, so that `tokenry --help` answers at once.
"""

import os
from collections.abc import Callable
from typing import Annotated

import typer

from tokenry import __version__
from tokenry.cli.compress_plan import plan
from tokenry.cli.compress_vision import vision
from tokenry.cli.console import verb
from tokenry.cli.evaluate import evaluate
from tokenry.cli.papers import papers
from tokenry.cli.report import report
from tokenry.cli.reproduce import reproduce
from tokenry.cli.score import score
from tokenry.cli.tune import tune

app = typer.Typer(
    name="tokenry",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(group: typer.Typer, *functions: Callable[..., None]) -> None:
    for function in functions:
        group.command()(verb(function))


_add(app, tune, score, report, evaluate, papers, reproduce)

_compress = typer.Typer(
    no_args_is_help=True, help="Carry fewer tokens: inside a vision encoder, and into a language model."
)
app.add_typer(_compress, name="compress")
_add(_compress, vision, plan)


def _print_version(asked: bool) -> bool:
    if asked:
        print(f"tokenry {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _tokenry(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """tokenry: fine-tune, score, compress and study language models token by token."""


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    # Every verb shows one progress bar of its own; the libraries' many are read from here when they are imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    # Threads of torch that wait by spinning make a step ten times slower as soon as another program wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    app()
