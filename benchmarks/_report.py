"""How a benchmark speaks: `--json` prints a list of objects, without it a table; progress and notes go to stderr.

Each object: `name`, `ratio` (ours / the peer's; below 1 = tokenry takes less), `target`, `holds` (ratio <= target, both as printed) and
`settings` (everything the figure depends on, with the two figures themselves). A speed-up is the ratio the other way round (theirs /
ours, above 1 = tokenry is faster) and holds from its target on; it says so by `at_least`.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

Result = dict[str, Any]


def result(name: str, ratio: float, target: float, **settings: Any) -> Result:
    """Round the ratio to what can be measured and compare it with the target."""
    rounded = round(ratio, 3)
    return {
        "name": name,
        "ratio": rounded,
        "target": target,
        "holds": rounded <= target,
        "settings": settings,
    }


def speedup(name: str, ratio: float, target: float, **settings: Any) -> Result:
    """The same for theirs / ours, which must be at least the target."""
    turned = result(name, ratio, target, **settings)
    return {**turned, "holds": turned["ratio"] >= target, "at_least": True}


def run(measure: Callable[[bool], Iterable[Result]], description: str) -> None:
    """Run a benchmark from the command line; `measure` is told whether tiny sizes will do."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print a list of objects instead of a table")
    parser.add_argument(
        "--smoke", action="store_true", help="tiny sizes: shows that it runs, measures nothing"
    )
    arguments = parser.parse_args()
    with redirect_stdout(sys.stderr):
        before = load_average()
        results = list(measure(arguments.smoke))
        machine = {**environment(), "load_average": [before, load_average()]}
    for measured in results:
        measured["settings"] |= machine
    print(json.dumps(results, indent=2) if arguments.json else as_table(results))


def environment() -> dict[str, str]:
    """Name the processor and the versions that a ratio depends on."""
    packages = ("torch", "transformers", "trl", "liger-kernel", "tokenry")
    return {"processor": processor(), **{name: installed_version(name) for name in packages}}


def installed_version(package: str) -> str:
    """Version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """Name the processor with the number of cores this process may use."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(os.sched_getaffinity(0))} cores"


def load_average() -> float:
    """Load average of the last minute."""
    return round(os.getloadavg()[0], 1)


def note(text: str) -> None:
    """Print a note on the progress."""
    print(text, file=sys.stderr, flush=True)


def dtype_name(dtype: torch.dtype) -> str:
    """`float32`, not `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def as_table(results: Iterable[Result]) -> str:
    """Lay the ratios out for a terminal."""
    table = Table("what", "ratio", "target", "holds")
    for measured in results:
        table.add_row(
            measured["name"],
            f"{measured['ratio']:.3f}",
            f"{'>=' if measured.get('at_least') else '<='} {measured['target']:.4g}",
            "yes" if measured["holds"] else "no",
        )
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
