"""Runs the recipe of every paper at laptop scale, one process each, and says how many headlines are shown.

    python experiments/reproduce_all.py [--output runs/reproduce] [SLUG …]

A recipe whose result.json stands in the output is not run again: an interrupted run goes on where it was. table.md is written after
every recipe. Ends with exit code 1 where a recipe came to no verdict.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenry.core.io.files import atomic_write, read_json
from tokenry.papers import catalogue
from tokenry.recipes.kit.overview import overview
from tokenry.report.markdown import markdown_table
from tokenry.report.result import RESULT_FILE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is left, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slugs", nargs="*", metavar="SLUG", help="papers; by default all")
    parser.add_argument("--output", type=Path, default=Path("runs/reproduce"), metavar="FOLDER")
    given = parser.parse_args(arguments)
    slugs = given.slugs or [paper.slug for paper in catalogue() if paper.available]
    for number, slug in enumerate(slugs, 1):
        if not result_of(given.output, slug):
            print(f"{number} of {len(slugs)}: {slug}", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "tokenry", "reproduce", slug, "--output", given.output / slug]
            subprocess.run([*map(str, command), "--quiet"], stdout=subprocess.DEVNULL)
        with atomic_write(given.output / "table.md") as partial:
            partial.write_text(table(given.output, slugs), encoding="utf-8")
    print(table(given.output, slugs))
    return int(not all(result_of(given.output, slug) for slug in slugs))


def result_of(output: Path, slug: str) -> dict[str, Any]:
    """The stored result of a recipe; empty where there is none."""
    path = output / slug / RESULT_FILE
    return read_json(path) if path.exists() else {}


def table(output: Path, slugs: Sequence[str]) -> str:
    """One row a paper, and how many headlines came out which way."""
    made = overview({slug: result_of(output, slug) for slug in slugs})
    return f"{made.title}\n\n{markdown_table(made)}"


if __name__ == "__main__":
    sys.exit(main())
