"""Text that every user has: the docstrings of installed packages, read from their sources without importing them.

Whole files are held out, so that no held-out text stands in the same file as a training text.
"""

import ast
import importlib.util
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tokenry.core.errors import UserError

_SHORTEST = 200


@dataclass(frozen=True)
class Docstrings:
    """Docstrings of some packages.

    Attributes:
        train: docstrings of most files.
        held_out: docstrings of the other files that do not occur in the training files.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def read_docstrings(
    packages: Sequence[str], held_out_share: float = 0.05, seed: int = 0, most_files: int | None = None
) -> Docstrings:
    """Read the docstrings of at least 200 characters of installed packages, without their tests.

    Args:
        packages: names of packages, or of modules that are a file.
        seed: random seed of the files that are held out.
        most_files: number of files of a package that are read, at equal distances; None for all.
    """
    files = [docstrings for package in packages for docstrings in _of_package(package, most_files)]
    random.Random(seed).shuffle(files)
    aside = round(held_out_share * len(files))
    train = tuple(text for file in files[aside:] for text in file)
    known = set(train)
    held_out = tuple(dict.fromkeys(text for file in files[:aside] for text in file if text not in known))
    return Docstrings(train, held_out)


def _of_package(package: str, most_files: int | None) -> tuple[tuple[str, ...], ...]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"the package {package} is not installed, and its docstrings are needed: pip install {package}."
        )
    origin = Path(spec.origin)
    return _of_sources(origin.parent if spec.submodule_search_locations else origin, most_files)


@cache
def _of_sources(root: Path, most_files: int | None) -> tuple[tuple[str, ...], ...]:
    """Those of a folder or a file, file by file; installed sources stay as they are while a process runs."""
    inside = [root] if root.is_file() else sorted(root.rglob("*.py"))
    paths = [path for path in inside if "tests" not in path.relative_to(root).parts]
    apart = -(-len(paths) // most_files) if most_files else 1
    files = [tuple(text for text in _of_file(path) if len(text) >= _SHORTEST) for path in paths[::apart]]
    return tuple(filter(None, files))


def _of_file(path: Path) -> Iterator[str]:
    """Those of a file; none of one that is written for a newer Python than the one that runs."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    try:
        tree = ast.parse(path.read_bytes())  # which heeds the encoding that a file declares
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield text
