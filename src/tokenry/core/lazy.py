"""Packages that import their public names when these are asked for: a command's help reads a config without loading torch.

The `__init__` of such a package imports its names under `if TYPE_CHECKING:`, where type checkers and editors find them, and ends with
`export_lazily(__name__)`.
"""

import ast
import importlib
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any


def export_lazily(package: str) -> None:
    """Let a package import each name of its `if TYPE_CHECKING:` block when it is asked for."""
    sys.modules[package].__class__ = _LazyPackage


class _LazyPackage(ModuleType):
    def __getattr__(self, name: str) -> Any:
        home = _homes(self.__name__).get(name)
        if home is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__dict__[name] = getattr(importlib.import_module(home), name)
        return self.__dict__[name]

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing a submodule binds it to its package, where a function may have its name.
        if not (isinstance(value, ModuleType) and name in _homes(self.__name__)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_homes(self.__name__)})


@cache
def _homes(package: str) -> dict[str, str]:
    """The module that each name of a package comes from."""
    tree = ast.parse(Path(sys.modules[package].__dict__["__file__"]).read_text(encoding="utf-8"))
    imports = [node for block in tree.body if isinstance(block, ast.If) for node in block.body]
    return {
        alias.name: node.module or ""
        for node in imports
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
