"""A command made from a verb's file: the fields of its `Plan` are its arguments and options, and `run` carries it out.

Every verb also takes `--config FILE` (YAML of its options, which the command line overrides), `--json`, `--quiet`, `--debug` and
`--log-file`. Its `Result` is saved to the plan's `output` and printed in the terminal.
"""

import inspect
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from tokenry.cli.console import Json, command, run_verb
from tokenry.core.errors import UserError
from tokenry.core.io.reading import read_text
from tokenry.core.io.settings import parse_yaml
from tokenry.core.plans import (
    PlanOption,
    as_typed,
    build_plan,
    plan_options,
    read_commas,
    read_values,
    summary,
)

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="YAML file of options; the command line overrides it.",
        rich_help_panel="Output",
    ),
]


class PlanCommand(TyperCommand):
    """A command whose options may come from a settings file: its values are defaults before anything is parsed."""

    plan: type

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse the arguments.

        Raises:
            typer.BadParameter: the settings file cannot be read, or does not fit the plan.
        """
        if not _reads_config(self.plan) and (path := _config_in(args)):
            try:
                values = read_values(self.plan, parse_yaml(read_text(path), str(path)), str(path))
            except UserError as error:
                raise typer.BadParameter(str(error)) from error
            extra["default_map"] = {
                option.name: _typed(option, values[option.name])
                for option in plan_options(self.plan)
                if option.name in values
            }
        return super().make_context(info_name, args, parent=parent, **extra)


def plan_app(name: str, plan: type, run: Callable[[Any, Any], Any], **settings: Any) -> typer.Typer:
    """Make an app with one command from a verb's `Plan` and its `run`."""
    # Without rich the help wraps words at any width, and truncates no name.
    app = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, context_settings=settings
    )
    app.command(name, cls=type("VerbCommand", (PlanCommand,), {"plan": plan}))(command_of(plan, run))
    return app


def _reads_config(plan: type) -> bool:
    """Whether a verb reads settings files itself, since they may say more than its options."""
    return any(option.flag == "--config" for option in plan_options(plan))


def _config_in(args: Sequence[str]) -> Path | None:
    for place, word in enumerate(args):
        if word == "--":
            return None
        if word == "--config" and place + 1 < len(args):
            return Path(args[place + 1])
        if word.startswith("--config="):
            return Path(word.removeprefix("--config="))
    return None


def command_of(plan: type, run: Callable[[Any, Any], Any]) -> Callable[..., None]:
    """Make the function of a command from a verb's `Plan` and its `run`."""

    def called(json: bool = False, **options: Any) -> None:
        values = {option.name: _given(option, options[option.name]) for option in plan_options(plan)}
        chosen = build_plan(plan, values)
        try:
            run_verb(run, chosen, json)
        except UserError as error:
            raise UserError(as_typed(str(error), plan)) from error

    parameters = [_parameter(option) for option in plan_options(plan)]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, annotation, default in (("config", Config, None), ("json", Json, False))
        if not (name == "config" and _reads_config(plan))
    ]
    setattr(called, "__signature__", inspect.Signature(parameters))  # noqa: B010  (mypy knows no __signature__)
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    called.__doc__ = summary(plan)
    return command(called)


def _parameter(option: PlanOption) -> inspect.Parameter:
    metavar = option.metavar or None
    if option.positional:
        info: Any = typer.Argument(help=option.help, metavar=metavar or option.flag)
    elif _is_flag(option.kind):
        info = typer.Option(
            f"{option.flag}/{option.flag.replace('--', '--no-', 1)}", help=option.help, metavar=""
        )
    else:
        info = typer.Option(option.flag, help=option.help, metavar=metavar)
    default = inspect.Parameter.empty if option.required else _typed(option, option.default)
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[_parsed_kind(option), info],
    )


def _is_flag(kind: Any) -> bool:
    return kind is bool or set(typing.get_args(kind)) == {bool, types.NoneType}


def _parsed_kind(option: PlanOption) -> Any:
    """The type that the parser reads: a tuple of any length is one text with commas, or an option that can be repeated."""
    if option.commas:
        return str
    if typing.get_origin(option.kind) is tuple and typing.get_args(option.kind)[1:] == (Ellipsis,):
        return list[typing.get_args(option.kind)[0]]  # type: ignore[misc]
    return option.kind


def _typed(option: PlanOption, value: Any) -> Any:
    if option.commas:
        return ",".join(map(str, value))
    return list(value) if isinstance(value, tuple) else value


def _given(option: PlanOption, value: Any) -> Any:
    if option.commas:
        return read_commas(option, value)
    return tuple(value) if isinstance(value, list) else value
