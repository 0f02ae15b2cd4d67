"""Another tokenizer for a model, without training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import require_at_least
from tokenry.core.io.files import require_folder_name, require_new
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, as_typed, plan_settings
from tokenry.report.blocks import Block, Cell, Table, Text
from tokenry.report.result import Result
from tokenry.tokenization.transfer.transplant.settings import TransplantSettings
from tokenry.verbs._hardware import AS_STORED, StoredHardware
from tokenry.verbs._models import model_title
from tokenry.verbs.tokenizer._new_tokenizer import NO_TEXTS, MeasuredTexts, bits_per_byte, some, text_back

if TYPE_CHECKING:
    from tokenry.tokenization.transfer.transplant.auxiliary_space import Auxiliary


@dataclass(frozen=True)
class Plan:
    """Replace a model's tokenizer without training, and report the effect.

    Attributes:
        model: `embedded`, a folder (adapters too), or a hub name.
        new_tokenizer: folder, tokenizer.json or hub name of the new tokenizer.
        output: a new folder for the model, its tokenizer, result.json and report.html.
        auxiliary: where tokens are compared: hidden (default), embeddings, characters, or the folder of a sentence encoder.
        carry_special_tokens: first add the old special tokens that the new tokenizer lacks.
    """

    model: str = argument()
    new_tokenizer: str = argument()
    output: Path = argument()
    settings: TransplantSettings = field(default_factory=TransplantSettings)
    auxiliary: str | None = None
    carry_special_tokens: bool = False
    measured: MeasuredTexts = NO_TEXTS
    hardware: StoredHardware = AS_STORED

    def __post_init__(self) -> None:
        require_at_least(0, seed=self.settings.seed)
        require_folder_name(self.output, "the model")


def run(plan: Plan, progress: Progress) -> Result:
    """Load, measure, compose, and save to the new folder."""
    from tokenry.models import load_tokenizer
    from tokenry.tokenization.tokenizer_files import load_fast_tokenizer
    from tokenry.tokenization.transfer.transplant.apply import save_transplant, transplant_tokenizer

    require_new(plan.output)
    texts = plan.measured.read()
    progress("loading", 0.0)
    old, new = load_tokenizer(plan.model), load_fast_tokenizer(plan.new_tokenizer)
    model = plan.hardware.load(plan.model)
    progress("composing rows and measuring", 0.2)
    model, report = transplant_tokenizer(
        model,
        old,
        new,
        plan.settings,
        auxiliary=_space(plan.auxiliary),
        carry_special_tokens=plan.carry_special_tokens,
        texts=texts or None,
    )
    progress("saving", 0.9)
    save_transplant(model, new, report, plan.output)
    found = report.as_json()
    data = {
        "kind": "transplant",
        "model": plan.model,
        "new_tokenizer": plan.new_tokenizer,
        **found,
        "settings": plan_settings(plan) | found["settings"],
        "notes": [as_typed(note, Plan) for note in found["notes"]],
    }
    return Result(_title(data), data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out what became of the tokens, the errors of composed shared tokens, and the cost of texts."""
    counts = data["counts"]
    rows: list[tuple[str, str | Cell]] = [
        ("tokens", f"{data['old_tokens']:,} → {data['new_tokens']:,} ({data['rows']:,} rows)"),
        ("copied", f"{counts['copied']:,}"),
        ("composed", f"{counts['composed']:,}"),
        *((f"  of them {name}", f"{count:,}") for name, count in data["estimates"].items()),
        ("  old pieces per token, mean", f"{data['pieces_per_token']:.2f}"),
        ("left to the fallback", Cell(f"{counts['fallback']:,}", some(data["fallback"], ""))),
        ("never written", Cell(f"{counts['never_written']:,}", some(data["never_written"], ""))),
        ("texts that do not come back", some(data["round_trip_failures"])),
        *text_back(data["text_back"]),
    ]
    if left_out := data["leave_one_out"]:
        medians = (
            f"{left_out['median_cosine_error']:.3f} (mean row {left_out['median_mean_row_cosine_error']:.3f})"
        )
        rows += [
            (f"1 − cosine of {left_out['tokens']:,} shared tokens left out, median", medians),
            ("  the worst of them", some(list(left_out["cosine_error_of"])[:8])),
        ]
    return [
        *(Text(note, "warning") for note in data["notes"]),
        Table(f"{_title(data)}, by {data['method']}", ("what", "found"), rows),
        *bits_per_byte(data["bits_per_byte"]),
    ]


def _title(data: Mapping[str, Any]) -> str:
    return f"{model_title(data['model'])} with the tokenizer of {data['new_tokenizer']}"


def _space(auxiliary: str | None) -> "Auxiliary | None":
    from tokenry.tokenization.transfer.transplant.auxiliary_space import NAMES, sentence_encoder

    return auxiliary if auxiliary is None or auxiliary in NAMES else sentence_encoder(auxiliary)
