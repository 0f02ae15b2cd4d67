"""A verb's plan: one frozen dataclass whose fields are the options, their help, their validation and the recorded settings.

A field is documented once, under `Attributes:`. A field that holds another config dataclass is unfolded: its fields become options
of the verb, with that config's words and the defaults of the instance that the plan holds. Options that several verbs share stand in
a base of their plans, behind those that the plan itself declares.
"""

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tokenry.core.errors import UserError
from tokenry.core.io.settings import of_kind

_DOCUMENTED = re.compile(r"^    (\w+): (.*(?:\n {8,}\S.*)*)", re.M)


@dataclass(frozen=True)
class PlanOption:
    """One option of a verb.

    Attributes:
        flag: the option as a user types it; the name of the argument where it is positional.
        kind: type of its value.
        default: its default; `dataclasses.MISSING` where the user must give it.
        positional: whether it is an argument, not an option.
        metavar: what stands for its value in the help; empty for the usual.
        commas: whether several values are typed as one, `512,1024`, instead of by repeating the option.
        holder: names of the fields that lead to the config it belongs to.
    """

    name: str
    flag: str
    kind: Any
    default: Any
    help: str
    positional: bool
    metavar: str
    commas: bool = False
    holder: tuple[str, ...] = ()

    @property
    def required(self) -> bool:
        """Whether the user must give it."""
        return self.default is dataclasses.MISSING


def argument(default: Any = dataclasses.MISSING, metavar: str = "") -> Any:
    """Declare a field of a plan that is a positional argument, of the command and of the plan."""
    return dataclasses.field(
        default=default, kw_only=False, metadata={"positional": True, "metavar": metavar}
    )


def option(
    default: Any = dataclasses.MISSING, flag: str = "", metavar: str = "", commas: bool = False
) -> Any:
    """Declare a field of a plan whose flag or placeholder is not made from its name, or whose values are typed with commas."""
    return dataclasses.field(default=default, metadata={"flag": flag, "metavar": metavar, "commas": commas})


def setting(default: Any = None) -> Any:
    """Declare a field of a plan that is no option: a verb that reads settings of its own fills it."""
    return dataclasses.field(default=default, metadata={"hidden": True})


def embedded(config: Any, only: tuple[str, ...], prefix: str = "") -> Any:
    """Declare a field of a plan that holds a config of which only some fields are options.

    Args:
        config: the instance whose values are the defaults.
        only: names of the fields that are options, in their order; fields of configs inside it too.
        prefix: begins the help of each of them.
    """
    return dataclasses.field(default=config, metadata={"only": only, "prefix": prefix})


@cache
def plan_options(plan: type) -> tuple[PlanOption, ...]:
    """The options of a plan in the order of its fields, configs unfolded.

    Raises:
        TypeError: a field has no documentation, or two have one name.
    """
    options = tuple(_options(plan, None))
    names = [option.name for option in options]
    if twice := {name for name in names if names.count(name) > 1}:
        raise TypeError(f"{plan.__qualname__} has several options named {', '.join(sorted(twice))}")
    return options


def _options(
    plan: type, instance: Any, holder: tuple[str, ...] = (), prefix: str = ""
) -> Iterator[PlanOption]:
    hints, words = typing.get_type_hints(plan), _documented(plan)
    own = [*plan.__annotations__]
    fields = dataclasses.fields(plan)
    for field in sorted(fields, key=lambda field: own.index(field.name) if field.name in own else len(own)):
        if not field.init or field.metadata.get("hidden"):
            continue
        default = getattr(instance, field.name) if instance is not None else _default(field)
        if dataclasses.is_dataclass(hints[field.name]):
            inside = _options(
                hints[field.name],
                _instance(default),
                (*holder, field.name),
                field.metadata.get("prefix", prefix),
            )
            options = {option.name: option for option in inside}
            yield from (options[name] for name in field.metadata.get("only", options))
            continue
        if field.name not in words:
            raise TypeError(f"{plan.__qualname__}.{field.name} has no documentation under Attributes:")
        told = field.metadata
        dashed = field.name.rstrip("_").replace("_", "-")
        positional = bool(told.get("positional"))
        yield PlanOption(
            name=field.name,
            flag=told.get("flag") or (dashed.upper() if positional else f"--{dashed}"),
            kind=hints[field.name],
            default=default,
            help=_sentence(prefix + words[field.name]),
            positional=positional,
            metavar=told.get("metavar", ""),
            commas=bool(told.get("commas")),
            holder=holder,
        )


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _instance(default: Any) -> Any:
    """The config that a field holds by default; None where the config itself has options that must be given."""
    return None if default is dataclasses.MISSING else default


def _documented(plan: type) -> dict[str, str]:
    """The entries under `Attributes:` of a plan's docstring, and of those of its bases."""
    bodies = [(inspect.getdoc(part) or "").partition("Attributes:")[2] for part in reversed(plan.__mro__)]
    return {name: " ".join(text.split()) for body in bodies for name, text in _DOCUMENTED.findall(body)}


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def summary(plan: type) -> str:
    """What the verb does: the docstring of its plan up to `Attributes:`."""
    return (inspect.getdoc(plan) or "").partition("Attributes:")[0].strip()


def build_plan(plan: type, values: Mapping[str, Any]) -> Any:
    """Make a plan from the values of its options.

    Raises:
        UserError: a value is refused; the sentence names options as they are typed.
    """
    try:
        return _built(plan, None, values)
    except UserError as error:
        raise UserError(as_typed(str(error), plan)) from error


def _built(plan: type, instance: Any, values: Mapping[str, Any]) -> Any:
    hints, arguments = typing.get_type_hints(plan), {}
    for field in dataclasses.fields(plan):
        if not field.init:
            continue
        default = getattr(instance, field.name) if instance is not None else _default(field)
        if dataclasses.is_dataclass(hints[field.name]):
            only = field.metadata.get("only", values)
            given = {name: value for name, value in values.items() if name in only}
            arguments[field.name] = _built(hints[field.name], _instance(default), given)
        else:
            arguments[field.name] = values.get(field.name, default)
    return plan(**arguments)


def values_for(config: type, plan: Any) -> dict[str, Any]:
    """The values of a plan's fields that a config has by the same name, for a config that also takes what a plan decides."""
    names = {field.name for field in dataclasses.fields(config)}
    return {
        field.name: getattr(plan, field.name)
        for field in dataclasses.fields(plan)
        if field.init and field.name in names
    }


def plan_settings(plan: Any, without: tuple[str, ...] = ("output",)) -> dict[str, Any]:
    """The values of all options as JSON knows them, for the record of a run."""
    settings = {}
    for option in plan_options(plan.__class__):
        value = plan
        for name in (*option.holder, option.name):
            value = getattr(value, name)
        if option.name not in without:
            settings[option.name] = _plain(value)
    return settings


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def read_commas(option: PlanOption, text: str) -> tuple[Any, ...]:
    """Read the values of an option that are typed with commas.

    Raises:
        UserError: one is missing, or is no number where numbers are asked for.
    """
    if not text:
        return ()
    kind = typing.get_args(option.kind)[0]
    parts = [part.strip() for part in text.split(",")]
    try:
        if all(parts):
            return tuple(map(kind, parts))
    except ValueError:
        pass
    what = {int: "whole numbers", float: "numbers"}.get(kind, "names")
    raise UserError(
        f"{option.flag} takes {what} separated by commas, such as {option.metavar or '1,2'}, got {text!r}."
    )


def read_values(plan: type, content: Any, where: str) -> dict[str, Any]:
    """Check the values of a settings file against a plan's options.

    Args:
        content: what the file holds.
        where: name of the file, for the error messages.

    Raises:
        UserError: no mapping, an unknown option, or a value of another kind.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{where} must hold option: value, one per line, got {type(content).__name__}.")
    options = {option.flag.strip("-").replace("_", "-").lower(): option for option in plan_options(plan)}
    options |= {option.name.replace("_", "-"): option for option in plan_options(plan)}
    values = {}
    for key, value in content.items():
        option = options.get(str(key).replace("_", "-"))
        if option is None:
            raise UserError(
                f"{where} names the unknown option {key!r}: known are {', '.join(sorted(options))}."
            )
        if option.commas and isinstance(value, str):
            value = value.split(",")
        values[option.name] = of_kind(option.kind, value, f"{key} in {where}")
    return values


def as_typed(sentence: str, plan: type) -> str:
    """Name options in an error sentence as they are typed on the command line: `batch_size must` becomes `--batch-size must`."""
    for option in sorted(plan_options(plan), key=lambda option: -len(option.name)):
        if option.positional:
            continue
        name = re.escape(option.name)
        if option.kind is bool:
            sentence = re.sub(rf"\b{name}=True\b", option.flag, sentence)
            sentence = re.sub(rf"\b{name}=False\b", option.flag.replace("--", "--no-", 1), sentence)
        sentence = re.sub(rf"(?<![\w.\-'/]){name}=(?=\S)", f"{option.flag} ", sentence)
        if "_" in option.name:
            sentence = re.sub(rf"(?<![\w.\-'/]){name}(?![\w.(/'])", option.flag, sentence)
        else:
            sentence = re.sub(rf"^{name}(?= (must|cannot|is not|takes)\b)", option.flag, sentence)
    return sentence
