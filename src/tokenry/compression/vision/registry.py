"""The reduction methods by the names under which the command line knows them.

`make_reducer("pitome:energy=paper", ratio=0.9)` is `PiToMe(energy="paper", ratio=0.9)`.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, get_type_hints

from tokenry.compression.vision.controls import ClassAttentionDrop, NormDrop, RandomDrop
from tokenry.compression.vision.pitome import PiToMe
from tokenry.compression.vision.reducer import TokenReducer
from tokenry.compression.vision.tome import ToMe
from tokenry.core.errors import UserError
from tokenry.core.settings import of_kind, parse_yaml

REDUCERS: dict[str, Any] = {
    "tome": ToMe,
    "pitome": PiToMe,
    "random": RandomDrop,
    "norm": NormDrop,
    "class-attention": ClassAttentionDrop,
}

# A comma inside brackets belongs to a list: tome:r=[16,16,8]
_COMMA = re.compile(r",(?![^\[{]*[\]}])")


def make_reducer(description: str, **options: Any) -> TokenReducer:
    """Make a reduction method from `name` or `name:option=value,...`; values are YAML.

    Args:
        description: what is asked for.
        **options: more of its options.

    Raises:
        UserError: an unknown method or option (the nearest is suggested), an option given twice, or a value of the wrong kind or out of
            range.
    """
    name, _, written = description.partition(":")
    kind = find_reducer(name.strip())
    known = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    given = dict(options)
    for part in filter(None, _COMMA.split(written)):
        option, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise UserError(f"{part!r} in {description!r} is not option=value.")
        if option in given:
            raise UserError(f"{option} is given twice: once is enough.")
        given[option] = parse_yaml(value, f"{name}:{option}")
    for option in given:
        if option not in names:
            raise UserError(
                f"{name} has no option {option!r}{nearest(option, names)}; it has {', '.join(names)}."
            )
    return kind(
        **{option: of_kind(known[option], value, f"{name}:{option}") for option, value in given.items()}
    )


def find_reducer(name: str) -> Any:
    """Find the class of a method.

    Raises:
        UserError: there is no such method; the nearest name is suggested.
    """
    if name not in REDUCERS:
        raise UserError(
            f"there is no method {name!r}{nearest(name, REDUCERS)}; there are {', '.join(REDUCERS)}."
        )
    return REDUCERS[name]


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest what may have been meant by an unknown name; empty when nothing comes near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
