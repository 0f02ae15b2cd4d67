"""Settings as people write them: YAML, in which `1e-4` is a number.

YAML 1.1, which PyYAML reads, takes a number with an exponent but without a point for text.
"""

import re
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from tokenry.core.errors import UserError


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str, what: str) -> Any:
    """Read a YAML text; no tags that make objects.

    Args:
        text: the YAML.
        what: its name in the error message.

    Raises:
        UserError: it is not YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{what} is not YAML: {' '.join(str(error).split())}.") from error


def of_kind(kind: Any, value: Any, what: str) -> Any:
    """Return `value` as an instance of the type `kind`, where it is or can be read as one; numbers are finite.

    Raises:
        UserError: it cannot.
    """
    try:
        return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{what} cannot be {value!r}: {error.errors()[0]['msg'].lower()}.") from error
