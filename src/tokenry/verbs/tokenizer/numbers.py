"""How a tokenizer cuts numbers, and the same tokenizer with other groups of digits."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import new_folder, require_folder_name, require_new
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._models import model_title

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

TEXTS = ("8302080+3529456=", "about 1234567.89 in 2024", "0007")


@dataclass(frozen=True)
class Plan:
    """Regroup the numbers of a tokenizer without training: same vocabulary, all other text as before.

    Attributes:
        tokenizer: a folder, a tokenizer.json, or a hub name; its vocabulary must hold groups of digits.
        mode: groups counted from the right, from the left, or digit by digit.
        group: digits of a group.
        texts: a text to show before and after; can be repeated; by default a few with numbers.
        output: a new folder for the regrouped tokenizer, result.json and report.html; nothing is written without it.
    """

    tokenizer: str = argument()
    mode: Literal["r2l", "l2r", "single"] = "r2l"
    group: int = 3
    texts: tuple[str, ...] = option((), flag="--text", metavar="TEXT")
    output: Path | None = None

    def __post_init__(self) -> None:
        require_at_least(1, group=self.group)
        require_folder_name(self.output, "the tokenizer")


def run(plan: Plan, progress: Progress) -> Result:
    """Regroup the numbers, show the texts before and after, and save the tokenizer where a folder is named."""
    from tokenry.core.text.number_tokens import token_texts
    from tokenry.core.text.round_trip import round_trip
    from tokenry.tokenization.numbers.retokenize_numbers import retokenize_numbers
    from tokenry.tokenization.tokenizer_files import load_any_tokenizer
    from tokenry.tokenization.training.boundless_bpe import BoundlessBPE

    if plan.output is not None:
        require_new(plan.output)
    progress("regrouping numbers", 0.0)
    old = load_any_tokenizer(plan.tokenizer)
    if isinstance(old, BoundlessBPE):
        raise UserError(
            f"{plan.tokenizer} is a BoundlessBPE tokenizer, whose tokens cross the ends of pieces, so numbers cannot be regrouped: give another."
        )
    new = retokenize_numbers(old, plan.mode, plan.group)
    shown = list(plan.texts or TEXTS)
    back = {"before": round_trip(old, shown), "after": round_trip(new, shown)}
    rows = [
        {
            "text": text,
            "before": token_texts(old, text),
            "after": token_texts(new, text),
            "text_back": found.cell if (found := round_trip(new, [text])) else "–",
        }
        for text in shown
    ]
    if plan.output is not None:
        _save(new, plan.output)
    data = {
        "kind": "tokenizer numbers",
        "tokenizer": plan.tokenizer,
        "mode": plan.mode,
        "group": plan.group,
        "texts": rows,
        "text_back": {when: found and found.as_json() for when, found in back.items()},
        "notes": [
            found.sentence(f"the tokenizer {when}")
            for when, found in back.items()
            if found and not found.gives_back
        ],
        "output": None if plan.output is None else str(plan.output),
        "settings": plan_settings(plan) | {"texts": shown},
    }
    return Result(f"Numbers of {model_title(plan.tokenizer)}", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay the texts out as they are cut before and after."""
    groups = "digit by digit" if data["mode"] == "single" else f"{data['mode']}, groups of {data['group']}"
    rows = [
        (row["text"], "|".join(row["before"]), "|".join(row["after"]), row["text_back"])
        for row in data["texts"]
    ]
    return [
        *(Text(sentence, "warning") for sentence in data["notes"]),
        Table(f"{data['tokenizer']}: numbers {groups}", ("text", "before", "after", "text back"), rows),
    ]


def _save(tokenizer: "Tokenizer | PreTrainedTokenizerBase", folder: Path) -> None:
    from tokenizers import Tokenizer

    from tokenry.tokenization.tokenizer_files import save_tokenizer

    with new_folder(folder) as partial:
        if isinstance(tokenizer, Tokenizer):
            save_tokenizer(tokenizer, partial)
        else:
            tokenizer.save_pretrained(partial)
