"""The reduction methods by the names under which the command line knows them.

`make_reducer("pitome:energy=paper", ratio=0.9)` is `PiToMe(energy="paper", ratio=0.9)`.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from tokenry.compression.vision.controls import ClassAttentionDrop, NormDrop, RandomDrop
from tokenry.compression.vision.diffrate import DiffRate, Schedule
from tokenry.compression.vision.pitome import PiToMe
from tokenry.compression.vision.reducer import TokenReducer
from tokenry.compression.vision.tome import ToMe
from tokenry.compression.vision.zero_tprune import ZeroTPrune, ZeroTPruneConfig
from tokenry.core.descriptions import nearest, parse_description
from tokenry.core.errors import UserError
from tokenry.core.settings import of_kind, parse_yaml


@dataclass(frozen=True)
class Method:
    """How a method is made.

    Attributes:
        options: the dataclass whose fields are its options.
        make: makes it from options; the kind of an option that it annotates itself goes before that of the field.
    """

    options: Any
    make: Callable[..., TokenReducer]

    def kinds(self) -> dict[str, Any]:
        """The type of each option."""
        known = get_type_hints(self.options) | get_type_hints(self.make)
        return {field.name: known[field.name] for field in fields(self.options)}


def _diffrate(schedule: str | Schedule = "", **options: Any) -> DiffRate:
    if isinstance(schedule, Schedule):
        return DiffRate(schedule, **options)
    if not schedule:
        raise UserError(
            "diffrate needs a schedule: give the JSON file that Schedule.save wrote (search_rates learns one), or a published one such "
            "as deit-small@2.9."
        )
    model, published, gflops = schedule.partition("@")
    if published and not Path(schedule).exists():
        return DiffRate(Schedule.load_published(model, of_kind(float, gflops, "the GFLOPs")), **options)
    return DiffRate(Schedule.load(Path(schedule)), **options)


def _zero_tprune(**options: Any) -> ZeroTPrune:
    return ZeroTPrune(ZeroTPruneConfig(**options))


REDUCERS: dict[str, Method] = {
    "tome": Method(ToMe, ToMe),
    "pitome": Method(PiToMe, PiToMe),
    "diffrate": Method(DiffRate, _diffrate),
    "zero-tprune": Method(ZeroTPruneConfig, _zero_tprune),
    "random": Method(RandomDrop, RandomDrop),
    "norm": Method(NormDrop, NormDrop),
    "class-attention": Method(ClassAttentionDrop, ClassAttentionDrop),
}


def make_reducer(description: str, **options: Any) -> TokenReducer:
    """Make a reduction method from `name` or `name:option=value,...`; values are YAML.

    Args:
        description: what is asked for.
        **options: more of its options.

    Raises:
        UserError: an unknown method or option (the nearest is suggested), an option given twice, or a value of the wrong kind or out of
            range.
    """
    name, given = named_options(description)
    if twice := sorted(given.keys() & options.keys()):
        raise UserError(f"{twice[0]} is given twice: once is enough.")
    given |= options
    method = REDUCERS[name]
    kinds = method.kinds()
    for option in given:
        if option not in kinds:
            raise UserError(
                f"{name} has no option {option!r}{nearest(option, kinds)}; it has {', '.join(kinds)}."
            )
    made = {
        option: of_kind(kinds[option], _as_tuple(value), f"{name}:{option}")
        for option, value in given.items()
    }
    return method.make(**made)


def named_options(description: str) -> tuple[str, dict[str, Any]]:
    """Split `name:option=value,...` into the name and the options.

    Raises:
        UserError: there is no such method (the nearest is suggested), or an option is not written so.
    """
    name, written = parse_description(description)
    if name not in REDUCERS:
        raise UserError(
            f"there is no method {name!r}{nearest(name, REDUCERS)}; there are {', '.join(REDUCERS)}."
        )
    return name, {option: parse_yaml(value, f"{name}:{option}") for option, value in written.items()}


def _as_tuple(value: Any) -> Any:
    # As a list, [13, -1.0] would be read as two whole numbers, and not as r with its inflection.
    return tuple(value) if isinstance(value, list) else value
