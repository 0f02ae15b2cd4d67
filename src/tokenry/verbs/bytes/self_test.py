"""Whether a tokenizer's tokens have bytes, and its bytes tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, plan_settings
from tokenry.report.blocks import Block, Table
from tokenry.report.result import Result
from tokenry.verbs._models import model_title
from tokenry.verbs._output import OptionalOutput

_SHOWN = 50


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Test the byte map of a tokenizer: name the tokens that cannot be represented, and the bytes that cannot be written.

    Attributes:
        tokenizer: `embedded`, a folder, or a hub name.
    """

    tokenizer: str = argument("embedded")


def run(plan: Plan, progress: Progress) -> Result:
    """Test the byte map; where it is not sound, the command ends with exit code 1."""
    from tokenry.decoding.byte_level.byte_map import check_byte_map
    from tokenry.models import load_tokenizer

    progress("reading the tokenizer", 0.0)
    found = check_byte_map(load_tokenizer(plan.tokenizer))
    data = {
        "kind": "byte map",
        "tokenizer": plan.tokenizer,
        **found.as_json(),
        "settings": plan_settings(plan),
    }
    return Result(f"Byte map of {model_title(plan.tokenizer)}", data, lay_out(data), ok=found.is_sound)


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out what was found, and what cannot be represented."""
    lists = ("misread", "missing_bytes", "same_bytes", "lossy_texts", "unlike")
    rows = [
        *((name.replace("_", " "), len(data[name])) for name in lists),
        *((name.replace("_", " "), data[name]) for name in ("tokens", "special", "cut", "never_written")),
        ("rewrites", ", ".join(data["rewrites"]) or "nothing"),
        ("read as a space", " ".join(data["unkept"]) or "nothing else"),
        ("exact probabilities", data["no_cover"] or "yes"),
    ]
    verdict = "sound" if data["is_sound"] else "NOT sound"
    blocks: list[Block] = [
        Table(f"{verdict}: byte map of {model_title(data['tokenizer'])}", ("what", "found"), rows)
    ]
    tokens = [(str(token["id"]), token["token"], token["why"]) for token in data["misread"]]
    blocks += _beginning("tokens that cannot be represented", ("id", "token", "why"), tokens)
    texts = [(repr(text["text"]), text["why"]) for text in data["unlike"]]
    return blocks + _beginning("texts that cannot be represented", ("text", "why"), texts)


def _beginning(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Block]:
    """The first rows of a table, where there are any."""
    notes = [f"The first {_SHOWN} of {len(rows):,}; the JSON has all."] if len(rows) > _SHOWN else []
    return [Table(title, columns, rows[:_SHOWN], notes)] if rows else []
