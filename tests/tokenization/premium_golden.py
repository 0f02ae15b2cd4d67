"""The reference numbers of the premium measures and of the superword trainers."""

import json
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "golden/02-premiums"


def golden(name: str):
    return json.loads((_FOLDER / f"dev-{name}.json").read_text(encoding="utf-8"))
