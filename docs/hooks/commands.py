"""Writes the command reference from the verbs' plans: `<!-- commands -->` becomes a section per verb.

What `--help` says and what stands here is one sentence, written once, in the plan.
"""

import importlib
import re
import types
import typing
from collections.abc import Iterator
from html import escape
from typing import Any

from tokenry.cli import WITH_RECIPES
from tokenry.core.plans import PlanOption, plan_options, summary
from tokenry.verbs._catalogue import verb_modules

PLACEHOLDER = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the placeholder of one page (called by mkdocs)."""
    return markdown.replace(PLACEHOLDER, commands()) if PLACEHOLDER in markdown else markdown


def commands() -> str:
    """A section per verb: what it does, how it is called, its options."""
    return "\n".join(section(words, module) for words, module in (verb_modules() | WITH_RECIPES).items())


def section(words: str, module: str) -> str:
    """The section of one verb."""
    plan = importlib.import_module(module).Plan
    options = plan_options(plan)
    arguments = [option for option in options if option.positional]
    usage = " ".join(["tokenry", words, *map(_usage, arguments), "[OPTIONS]"])
    rows = "\n".join(_row(option) for option in [*arguments, *(o for o in options if not o.positional)])
    table = f"\n| option | | default |\n| --- | --- | --- |\n{rows}\n" if rows else ""
    return f"### Options of `tokenry {words}`\n\n{summary(plan)}\n\n```text\n{usage}\n```\n{table}"


def _usage(option: PlanOption) -> str:
    name = option.metavar or option.flag
    name = f"{name}…" if typing.get_origin(option.kind) is tuple else name
    return name if option.required else f"[{name}]"


def _row(option: PlanOption) -> str:
    name = option.metavar or option.flag if option.positional else " ".join([option.flag, *_value(option)])
    cells = (f"`{name}`", _sentence(option.help), _default(option))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _value(option: PlanOption) -> Iterator[str]:
    """What stands for the value of an option: its words, or the kind of value."""
    kinds = {bool, types.NoneType}
    if option.kind is bool or set(typing.get_args(option.kind)) == kinds:
        return
    yield option.metavar or _kind(option.kind)


def _kind(kind: Any) -> str:
    inner = [part for part in typing.get_args(kind) if part not in (types.NoneType, Ellipsis)]
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(map(str, typing.get_args(kind)))
    if inner:
        return "|".join(dict.fromkeys(map(_kind, inner)))
    return {"str": "TEXT", "int": "NUMBER", "float": "NUMBER", "Path": "PATH"}.get(
        kind.__name__, kind.__name__
    )


def _sentence(text: str) -> str:
    return re.sub(
        r"`[^`]*`|[^`]+",
        lambda part: part[0] if part[0].startswith("`") else escape(part[0], quote=False),
        text,
    )


def _default(option: PlanOption) -> str:
    if option.required or option.default is None or option.default is False or option.default in ("", ()):
        return ""
    value = option.default
    return f"`{', '.join(map(str, value)) if isinstance(value, tuple) else 'on' if value is True else value}`"
