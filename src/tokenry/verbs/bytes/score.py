"""How surprising every byte or character of a text is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tokenry.core.io.progress import Progress
from tokenry.core.plans import option, plan_settings
from tokenry.report.blocks import Block, Column, Heatmap, Section, Table, Token
from tokenry.report.result import Result
from tokenry.verbs._hardware import AS_STORED, StoredHardware
from tokenry.verbs._models import model_title
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs.bytes._prompt import PROMPT, READING, BytePrompt, ByteReading, written


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Show how surprising every byte or character of a text is, in bits: exactly, and as its tokens spread it.

    Attributes:
        model: `embedded`, a folder, or a hub name.
        per: unit of the text.
    """

    prompt: BytePrompt = PROMPT
    model: str = option("embedded", metavar="NAME")
    per: Literal["byte", "character"] = "character"
    reading: ByteReading = READING
    hardware: StoredHardware = AS_STORED


def run(plan: Plan, progress: Progress) -> Result:
    """Score the text exactly, and as its tokens spread their surprisal."""
    from tokenry.decoding.byte_level.byte_surprisal import surprisal

    text = plan.prompt.read()
    progress("reading the model", 0.0)
    lm = plan.reading.load(plan.model, plan.hardware)
    progress("scoring", 0.5)
    exact = surprisal(lm, text, plan.per)
    tokens = surprisal(lm, text, plan.per, method="tokens")
    data = {
        "kind": "surprisal",
        "model": plan.model,
        "per": plan.per,
        "exact": exact.exact,
        "bits_per_byte": exact.bits_per_byte,
        "bits_per_byte_of_tokens": tokens.bits_per_byte,
        "units": [
            {"text": written(unit), "bits": float(bits), "bits_of_tokens": float(spread)}
            for unit, bits, spread in zip(exact.units, exact.bits, tokens.bits, strict=True)
        ],
        "settings": plan_settings(plan),
    }
    return Result(f"Surprise of a text to {model_title(plan.model)}", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay the bits out: the text coloured by them, and a row for every unit."""
    exactly = "exact" if data["exact"] else "not exact"
    title = f"{data['bits_per_byte']:.4f} bits per byte ({exactly}), {data['bits_per_byte_of_tokens']:.4f} by tokens"
    tokens = [
        Token(unit["text"], signals={"bits": unit["bits"], "by tokens": unit["bits_of_tokens"]})
        for unit in data["units"]
    ]
    columns = (data["per"], Column("bits", format=".3f"), Column("bits, tokens spread", format=".3f"))
    rows = [(repr(unit["text"]), unit["bits"], unit["bits_of_tokens"]) for unit in data["units"]]
    return [Section(title, [Heatmap("The text", [("", tokens)]), Table("", columns, rows)])]
