"""A paper that nobody wrote, in the catalogue of a test: it has no recipe but the one that the test gives it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenry import papers, recipes

SLUG = "made-up"
ENTRY = (41, SLUG, "A Paper That Nobody Wrote", "0000.00000", "tokenry.theory")


@contextmanager
def listed() -> Iterator[None]:
    """The catalogue holds the paper."""
    entries = papers._ENTRIES
    papers._ENTRIES = (*entries, ENTRY)
    try:
        yield
    finally:
        papers._ENTRIES = entries


@contextmanager
def with_recipe(folder: Path, source: str) -> Iterator[None]:
    """The paper has a recipe, written into a folder."""
    (folder / "made_up.py").write_text(source)
    recipes.__path__.append(str(folder))
    try:
        with listed():
            yield
    finally:
        recipes.__path__.remove(str(folder))
        sys.modules.pop("tokenry.recipes.made_up", None)
