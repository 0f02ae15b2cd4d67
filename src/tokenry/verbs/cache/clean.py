"""Free the cache."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tokenry.core.errors import UserError
from tokenry.core.io.cache import cache_entries, remove_entry
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument
from tokenry.report.blocks import Block, Column, Table
from tokenry.report.result import Result


@dataclass(frozen=True)
class Plan:
    """Remove entries of the cache; all of them can be made again.

    Attributes:
        names: entries to remove, by the names of `tokenry cache list`; all if none is named.
    """

    names: tuple[str, ...] = argument(())


def run(plan: Plan, progress: Progress) -> Result:
    """Remove entries of the cache."""
    entries = {entry.name: entry for entry in cache_entries()}
    if unknown := [name for name in plan.names if name not in entries]:
        raise UserError(
            f"the cache holds nothing called {unknown[0]!r}: it holds {', '.join(entries) or 'nothing'}."
        )
    removed = [entries[name] for name in plan.names or entries]
    for entry in removed:
        remove_entry(entry)
    data = {"kind": "cache clean", "removed": [asdict(entry) for entry in removed]}
    return Result("Cache", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """What was removed."""
    rows = [(entry["name"], entry["bytes"] / 1e6) for entry in data["removed"]]
    return [
        Table(
            "removed",
            ("entry", Column("size", "MB", ",.1f")),
            [*rows, ("in all", sum(row[1] for row in rows))],
        )
    ]
