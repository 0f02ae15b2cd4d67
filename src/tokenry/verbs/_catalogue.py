"""All verbs by their words on the command line, and the verb that draws a stored result."""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import ModuleType

from tokenry.core.errors import UserError

ROOT = "tokenry.verbs"
_OTHERWISE_NAMED = {
    "compression plan": "compress plan",
    "next bytes": "bytes next",
    "surprisal": "bytes score",
    "generated": "bytes generate",
    "byte map": "bytes self-test",
    "optimal vocabulary": "tokenizer optimal-vocab",
    "tokenizers": "tokenizer compare",
    "evaluation": "evaluate held-out",
    "lm-eval": "evaluate held-out",
}
"""Kinds of results that are not named after their verb."""
_ABOVE: dict[str, str] = {}


def command_name(module: str) -> str:
    """The name of a verb on the command line; `list_` is `list`."""
    return module.rstrip("_").replace("_", "-")


def modules_in(package: str) -> list[pkgutil.ModuleInfo]:
    """The verbs and groups of a package, in its `ORDER`, the others after."""
    imported = importlib.import_module(package)
    public = [module for module in pkgutil.iter_modules(imported.__path__) if not module.name.startswith("_")]
    order = list(getattr(imported, "ORDER", ()))
    return sorted(
        public,
        key=lambda module: (order.index(module.name) if module.name in order else len(order), module.name),
    )


@cache
def verb_modules(package: str = ROOT) -> dict[str, str]:
    """The modules of all verbs by their words, such as `evaluate arithmetic`; imports packages only."""
    modules: dict[str, str] = {}
    for module in modules_in(package):
        path = f"{package}.{module.name}"
        inside = verb_modules(path) if module.ispkg else {"": path}
        modules |= {f"{command_name(module.name)} {name}".strip(): where for name, where in inside.items()}
    return modules


def add_verbs(modules: Mapping[str, str]) -> None:
    """Register verbs of the layers above, by their words, so that their results are drawn too."""
    _ABOVE.update(modules)


def all_verbs() -> dict[str, str]:
    """The modules of all verbs, including those of the layers above."""
    return {**verb_modules(), **_ABOVE}


def verb_of(kind: str) -> ModuleType:
    """The module of the verb that writes results of this kind: `arithmetic` is `evaluate arithmetic`."""
    modules = all_verbs()
    kind = _OTHERWISE_NAMED.get(kind, kind)
    words = [kind, *(words for words in modules if words.endswith(f" {kind}"))]
    path = next((modules[name] for name in words if name in modules), None)
    if path is None:
        raise UserError(f"results of the kind {kind!r} are not known: were they written by another version?")
    return importlib.import_module(path)
