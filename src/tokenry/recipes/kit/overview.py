"""What came of many recipes in one table: how many headlines are shown, and how long each recipe took."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tokenry.papers import outcome
from tokenry.report.blocks import Table

MOST_SECONDS = 300
"""What a recipe may take at laptop scale on two idle cores."""


def overview(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row per paper, under a title that counts the verdicts.

    Whether five minutes are enough is judged by the CPU time where that is less than the time on the clock: on idle cores nothing else
    would have been waited for.

    Args:
        results: what `result.json` holds, by slug; empty where a recipe came to no verdict.
    """
    rows = [(slug, *_row(result)) for slug, result in results.items()]
    verdicts = Counter(result.get("verdict", "no verdict") for result in results.values())
    counted = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    shown, claims = (sum(result.get(name, 0) for result in results.values()) for name in ("shown", "of"))
    title = f"Headlines of {len(results)} papers: {counted}. Claims: {shown} of {claims} shown."
    return Table(title, ("paper", "outcome", "seconds", "CPU seconds", "in five minutes"), rows)


def _row(result: Mapping[str, Any]) -> tuple[str, int | None, int | None, str]:
    if not result:
        return "no verdict", None, None, "no"
    seconds, used = result["seconds"], result.get("cpu_seconds")
    soon = min(seconds, math.inf if used is None else used) <= MOST_SECONDS
    said = outcome(result["verdict"], result["shown"], result["of"])
    return said, round(seconds), None if used is None else round(used), "yes" if soon else "no"
