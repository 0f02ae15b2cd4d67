"""What others have written down, and what must not go: public names, options of verbs, and the fields of every verb's `result.json`.

tests/public_api.txt holds one a line:

    import tokenry.finetuning.SSToken
    option tokenry tune --weighing
    field tune: runs[].steps

`pytest tests/verbs tests/test_public_names.py --store-names` writes it anew, the fields for the verbs whose tests it runs: look at what it
removes before you commit it. A field is a path; only those are kept that every result of its kind had in the run.
"""

import importlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from tokenry.cli import WITH_RECIPES
from tokenry.core.plans import plan_options
from tokenry.verbs._catalogue import verb_modules

FILE = Path(__file__).parent / "public_api.txt"
What = Literal["import", "option", "field"]
Lists = Mapping[str, set[str]]
"""Public names by module, options by command, or fields by kind of result."""
PUBLISHED = (
    "alignment",
    "architectures",
    "attribution",
    "compression",
    "compression.text",
    "compression.vision",
    "data",
    "decoding",
    "evaluation",
    "evaluation.arithmetic",
    "evaluation.charbench",
    "evaluation.encoders",
    "finetuning",
    "generation",
    "models",
    "pretraining",
    "recipes",
    "theory",
    "tokenization",
    "tokenization.equal_info",
    "tokenization.transplant",
    "tokenization.zett",
)
"""The modules whose names are public: those of the sheets, and what they are used with."""

OF_THE_DATA = ("overlap.", "texts.", "text_back.", "furthest_shared_tokens.", "runs[].curves[].")
"""Where the keys are those of a user's models, files and runs."""


@cache
def frozen(what: What) -> Lists:
    """What the file holds."""
    lists: dict[str, set[str]] = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        kind, _, path = line.partition(" ")
        if kind == what:
            holder, name = (
                path.split(": ", 1) if what == "field" else path.rsplit("." if what == "import" else " ", 1)
            )
            lists.setdefault(holder, set()).add(name)
    return lists


def store(names: Lists, options: Lists, fields: Lists) -> None:
    """Write the file anew."""
    lines = {f"import {module}.{name}" for module, held in names.items() for name in held}
    lines |= {f"option {command} {flag}" for command, held in options.items() for flag in held}
    lines |= {f"field {kind}: {path}" for kind, held in fields.items() for path in held}
    FILE.write_text("".join(f"{line}\n" for line in sorted(lines)), encoding="utf-8")
    frozen.cache_clear()


def public_names() -> Lists:
    """The names of every published module."""
    modules = (f"tokenry.{module}" for module in PUBLISHED)
    return {module: set(importlib.import_module(module).__all__) for module in modules}


def options() -> Lists:
    """The options and arguments of every verb."""
    verbs = {**verb_modules(), **WITH_RECIPES}
    return {
        f"tokenry {verb}": {option.flag for option in plan_options(importlib.import_module(module).Plan)}
        for verb, module in verbs.items()
    }


def fields_of(value: Any, path: str = "") -> Iterator[str]:
    """The paths of everything in a result; a list has those that are in all its items."""
    if isinstance(value, dict):
        for name, part in value.items():
            inside = f"{path}.{name}" if path else name
            yield inside
            yield from fields_of(part, inside)
    elif isinstance(value, list) and value:
        yield from sorted(set.intersection(*(set(fields_of(item, f"{path}[]")) for item in value)))


class FrozenFields:
    """Looks at every result that is saved; stores what all of a kind have in common when the session ends.

    Args:
        storing: whether to write names and fields anew, not to compare with what is stored.
    """

    def __init__(self, storing: bool) -> None:
        self.storing = storing
        self.seen: dict[str, set[str]] = {}

    def look_at(self, result: dict[str, Any]) -> None:
        found = fields_of(json.loads(json.dumps(result, default=str)))
        kind, fields = result["kind"], {path for path in found if not path.startswith(OF_THE_DATA)}
        self.seen[kind] = self.seen.get(kind, fields) & fields
        if not self.storing:
            gone = frozen("field").get(kind, set()) - fields
            assert not gone, (
                f"{kind}: {', '.join(sorted(gone))} no longer in result.json (see tests/frozen.py)"
            )

    def pytest_sessionfinish(self) -> None:
        if self.storing:
            store(public_names(), options(), {**frozen("field"), **self.seen})
