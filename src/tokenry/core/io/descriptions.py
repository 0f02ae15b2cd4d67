"""A method with its options in one word: `name:option=value,option=value`, as the command line and run files write it."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from tokenry.core.errors import UserError

# A comma inside brackets belongs to a list: sstoken:layers=[10,20],share=0.5
_COMMA = re.compile(r",(?![^\[]*\])")


def parse_description(description: str) -> tuple[str, dict[str, str]]:
    """Split `name:option=value,...` into the name and the text of each option.

    Raises:
        UserError: a part is not option=value.
    """
    name, _, written = description.partition(":")
    options: dict[str, str] = {}
    for part in filter(None, _COMMA.split(written)):
        option, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise UserError(f"{part!r} in {description!r} is not option=value.")
        options[option] = value
    return name.strip(), options


def split_descriptions(written: str) -> list[str]:
    """Split `full,token-cleaning:dropped_weight=0.1,share=0.5` into descriptions: at the commas before names, not before options."""
    descriptions: list[str] = []
    for part in filter(None, (piece.strip() for piece in _COMMA.split(written))):
        if "=" in part and ":" not in part.partition("=")[0] and descriptions:
            descriptions[-1] += f",{part}"
        else:
            descriptions.append(part)
    return descriptions


def describe(method: Any) -> str:
    """Name a method, a dataclass, with every option that differs from its default."""
    changed = [
        f"{field.name}={getattr(method, field.name)!r}"
        for field in fields(method)
        if getattr(method, field.name) != field.default
    ]
    return f"{type(method).__name__}({', '.join(changed)})"


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that was perhaps meant, as words for an error sentence; empty when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
