"""The schema that every JSON of tokenry names, beside its `kind`: results of verbs, and what was fitted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenry.core.errors import UserError

SCHEMA = 1
"""Raised when a field goes or changes its meaning, not when one comes. A file that names none is of the first."""


def require_known_schema(stored: Mapping[str, Any], path: Path) -> None:
    """Raise `UserError` where a newer version wrote the file."""
    schema = stored.get("schema", SCHEMA)
    if schema not in range(1, SCHEMA + 1):
        raise UserError(
            f"{path} has schema {schema!r}, and this tokenry reads schemas up to {SCHEMA}: install a newer tokenry."
        )
