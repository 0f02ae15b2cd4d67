"""Something that was fitted, as a JSON file: its kind, its schema, and the fields of its dataclass."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from tokenry.core.errors import UserError
from tokenry.core.io.files import read_json
from tokenry.core.io.schema import require_known_schema

Fitted = TypeVar("Fitted")


def read_record(
    path: Path,
    cls: type[Fitted],
    kind: str,
    what: str,
    command: str,
    prepared: Callable[[dict[str, Any]], Mapping[str, Any]] = dict,
) -> Fitted:
    """Read a dataclass from a file.

    Args:
        kind: its kind, as it stands in the file.
        what: the same in words, for error messages.
        command: what writes such files.
        prepared: turns stored values into those of the dataclass.

    Raises:
        UserError: the file holds something else, or is damaged.
    """
    stored = read_json(path)
    if not isinstance(stored, dict) or stored.get("kind") != kind:
        raise UserError(f"{path} holds no {what}: `{command}` writes one.")
    require_known_schema(stored, path)
    values = {name: value for name, value in stored.items() if name not in ("kind", "schema")}
    try:
        return TypeAdapter(cls).validate_python(prepared(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path} is no whole {what}: {where}: {first['msg'].lower()}.") from error
