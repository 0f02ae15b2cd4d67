"""The tree of commands: every file in `tokenry.verbs` is a verb, every package in it a group.

A verb's file is imported when that verb is requested; its line in the help is read from the file.
"""

import ast
import importlib
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from tokenry.cli.commands import plan_app
from tokenry.verbs._catalogue import command_name, modules_in

SETTINGS = {"help_option_names": ["-h", "--help"]}


class Verb(TyperCommand):
    """A command that knows its one line of help, and becomes the real one when it is asked for."""

    def __init__(self, name: str, module: str) -> None:
        super().__init__(name=name, help=_first_line(module), callback=None)
        self.module = module

    def loaded(self) -> Any:
        """The command itself."""
        verb = importlib.import_module(self.module)
        return get_command(plan_app(self.name or "", verb.Plan, verb.run, **SETTINGS))

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse the arguments with the real command."""
        return self.loaded().make_context(info_name, args, parent=parent, **extra)


class Verbs(TyperGroup):
    """A group made of a package: its modules are verbs, its packages groups.

    Args:
        package: import name of the package.
        further: commands beside those of the package.
        **settings: settings of a typer group.
    """

    def __init__(self, package: str, further: Mapping[str, Verb] | None = None, **settings: Any) -> None:
        found = importlib.import_module(package)
        settings = {"no_args_is_help": True, "context_settings": SETTINGS, **settings}
        settings["help"] = settings.get("help") or (found.__doc__ or "").strip().partition("\n\n")[0]
        settings["commands"] = {**_commands(package), **(further or {})}
        super().__init__(**settings)
        self.default = getattr(found, "DEFAULT", None)
        if self.default:
            verb = self.commands[self.default]
            verb.help = f"{verb.help} This verb is the default."

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order in which the package names them, the others after."""
        return list(self.commands)

    def get_params(self, ctx: Any) -> list[Any]:
        """The options; a flag takes no value, so none is shown beside it."""
        options = super().get_params(ctx)
        for option in options:
            if getattr(option, "is_flag", False):
                option.metavar = ""
        return options

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default verb in, where the group has one and no other verb is named."""
        if self.default and args and args[0] not in {*self.commands, "--help", "-h"}:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def _commands(package: str) -> dict[str, Any]:
    names = {command_name(module.name): module for module in modules_in(package)}
    return {
        name: (
            Verbs(f"{package}.{module.name}", name=name)
            if module.ispkg
            else Verb(name, f"{package}.{module.name}")
        )
        for name, module in names.items()
    }


@cache
def _first_line(module: str) -> str:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    plan = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Plan")
    return (ast.get_docstring(plan) or "").partition("\n\n")[0].replace("\n", " ")
