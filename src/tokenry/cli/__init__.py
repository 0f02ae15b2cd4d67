"""The command line: the tree of `tokenry.verbs`, and the verbs that know the recipes or the app."""

import os
from typing import Annotated, Any

import typer

from tokenry import __version__
from tokenry.cli.tree import Verb, Verbs
from tokenry.core.io.quiet import ENVIRONMENT
from tokenry.verbs._catalogue import add_verbs, command_name

# A module `app` would stand in the place of the app below.
WITH_RECIPES = {command_name(name): f"tokenry.cli.{name}" for name in ("papers", "reproduce", "app_")}
add_verbs(WITH_RECIPES)


class Tokenry(Verbs):
    """The whole tree."""

    def __init__(self, **settings: Any) -> None:
        with_recipes = {name: Verb(name, module) for name, module in WITH_RECIPES.items()}
        super().__init__("tokenry.verbs", with_recipes, **settings)


app = typer.Typer(
    name="tokenry",
    cls=Tokenry,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    # Threads of torch that wait by spinning make a step ten times slower as soon as another program wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    app()
