"""Names that others have written down, and that must not go: public names, and the fields of every verb's `result.json`.

`pytest tests/verbs tests/test_public_names.py --store-names` writes tests/frozen/ anew, for the verbs whose tests it runs: look at what it removes before you commit it.
A field is a path, `runs[].steps`; only those are kept that every result of its kind had in the run.
"""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenry.core.io.files import write_json

FOLDER = Path(__file__).parent / "frozen"
NAMES, FIELDS = FOLDER / "names.json", FOLDER / "fields.json"
PUBLISHED = (
    "alignment",
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


def frozen(file: Path) -> dict[str, list[str]]:
    return json.loads(file.read_text(encoding="utf-8"))


def public_names(module: str) -> list[str]:
    return sorted(importlib.import_module(f"tokenry.{module}").__all__)


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
            gone = set(frozen(FIELDS).get(kind, ())) - fields
            assert not gone, (
                f"{kind}: {', '.join(sorted(gone))} no longer in result.json (see tests/frozen.py)"
            )

    def pytest_sessionfinish(self) -> None:
        if self.storing:
            write_json(NAMES, {module: public_names(module) for module in PUBLISHED})
            seen = {kind: sorted(fields) for kind, fields in self.seen.items()}
            write_json(FIELDS, dict(sorted((frozen(FIELDS) | seen).items())))
