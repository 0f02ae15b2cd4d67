"""Contents of the cache."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from tokenry.core.io.cache import cache_entries, cache_folder
from tokenry.core.io.progress import Progress
from tokenry.report.blocks import Block, Column, Table
from tokenry.report.result import Result


@dataclass(frozen=True)
class Plan:
    """List the contents of the cache, where it is, and its size."""


def run(plan: Plan, progress: Progress) -> Result:
    """Read the cache folder."""
    data = {
        "kind": "cache list",
        "folder": str(cache_folder()),
        "entries": [asdict(entry) for entry in cache_entries()],
    }
    return Result("Cache", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """One row per entry, and their sum."""
    entries = data["entries"]
    rows = [
        (entry["name"], entry["bytes"] / 1e6, f"{datetime.fromtimestamp(entry['modified']):%Y-%m-%d}")
        for entry in entries
    ]
    total = ("in all", sum(entry["bytes"] for entry in entries) / 1e6, None)
    title = f"{data['folder']} (the environment variable TOKENRY_CACHE names another)"
    return [Table(title, ("kept", Column("size", "MB", ",.1f"), "written"), [*rows, total])]
