"""Settings as people write them: YAML 1.2, in which `no` is a word and `1e-4` a number.

PyYAML reads YAML 1.1, in which `no` and `on` are truth values, `1e-4` is a text, `010` is 8, `1:30` is 90 and `2024-01-01` is a date;
none of that is meant in a setting.
"""

import re
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from tokenry.core.errors import UserError


class _Loader(yaml.SafeLoader):
    pass


_Loader.yaml_implicit_resolvers = {}  # none of YAML 1.1
_MEANINGS = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?\d[\d_]*|0o[0-7]+|0x[\da-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}
for _kind, (_pattern, _first) in _MEANINGS.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}",
        re.compile(rf"(?:{_pattern})\Z"),
        [*_first, *([""] if _kind == "null" else [])],
    )


def _whole_number(_loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "")
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


def parse_yaml(text: str, what: str) -> Any:
    """Read a YAML text; no tags that make objects.

    Args:
        what: its name in the error message.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (
        yaml.YAMLError,
        ValueError,
        AttributeError,
    ) as error:  # a tag whose value is not of its kind: !!int x
        raise UserError(f"{what} is not YAML: {' '.join(str(error).split())}.") from error


def of_kind(kind: Any, value: Any, what: str) -> Any:
    """Return `value` as an instance of the type `kind`, where it is or can be read as one; numbers are finite."""
    try:
        return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{what} cannot be {value!r}: {error.errors()[0]['msg'].lower()}.") from error
