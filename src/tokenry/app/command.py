"""The command that does what a form does: the verb's words, and every option that is not left at its default."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenry.core.plans import PlanOption, plan_options


def command_line(verb: str, plan: type, options: Mapping[str, Any], folder: Path) -> str:
    """Write options as they are typed; files in `folder` go by their name.

    Args:
        verb: words of the verb, such as `tokenizer compare`.
        plan: the verb's plan.
        options: values of its options by name.
        folder: folder of the job.
    """
    arguments: list[str] = []
    further: list[str] = []
    for option in plan_options(plan):
        if option.name in options and option.positional:
            arguments += _values(options[option.name], folder)
        elif option.name in options and options[option.name] != option.default:
            further += _option(option, options[option.name], folder)
    if any(argument.startswith("-") for argument in arguments):
        return shlex.join(["tokenry", *verb.split(), *further, "--", *arguments])
    return shlex.join(["tokenry", *verb.split(), *arguments, *further])


def _option(option: PlanOption, value: Any, folder: Path) -> list[str]:
    if isinstance(value, bool):
        return [option.flag if value else option.flag.replace("--", "--no-", 1)]
    values = _values(value, folder)
    if option.commas:
        values = [",".join(values)]
    # A value that begins with a dash would be taken for an option.
    return [
        word
        for value in values
        for word in ([f"{option.flag}={value}"] if value.startswith("-") else [option.flag, value])
    ]


def _values(value: Any, folder: Path) -> list[str]:
    return (
        [_written(item, folder) for item in value] if isinstance(value, tuple) else [_written(value, folder)]
    )


def _written(value: Any, folder: Path) -> str:
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    text = str(value)
    inside = f"{folder}/"
    return text.removeprefix(inside) if text.startswith(inside) else text
