"""The text of a file that was coded in windows of equal information."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenry.core.errors import UserError
from tokenry.core.io.files import require_output_file
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, embedded, option, plan_settings
from tokenry.report.blocks import Block, Text
from tokenry.report.result import Result
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs.tokenizer.equal_info._coding import NGRAM_MODEL, SymbolModel


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Decode a file of equal-info windows, all windows of a part in one batch; give the model that it was coded with.

    Attributes:
        file: the coded file.
        to: the new file; by default FILE without .eqi.
    """

    file: Path = argument()
    to: Path | None = option(None, metavar="FILE")
    m1: SymbolModel = embedded(NGRAM_MODEL, only=("model", "corpus", "order", "device"))


def run(plan: Plan, progress: Progress) -> Result:
    """Decode the file; window, precision and units stand in it.

    Raises:
        UserError: a file that is torn, damaged or coded with another model, or an output that exists.
    """
    from dataclasses import replace

    from tokenry.tokenization.equal_info.coded_file import (
        ENDING,
        decode_file,
        read_coded_file,
        require_new_file,
    )

    header, _ = read_coded_file(plan.file)
    if plan.to is None and plan.file.suffix != ENDING:
        raise UserError(f"{plan.file} does not end in {ENDING}: name the new file with --to.")
    to = plan.to or plan.file.with_suffix("")
    require_new_file(to)
    require_output_file(to)
    progress("reading the model", 0.0)
    stored: dict[str, Any] = {"units": header.units, "precision": header.precision}
    codec, units = replace(plan.m1, **stored).codec(header.window_bits, header.end_of_window)
    data = decode_file(plan.file, to, codec, units, progress)
    found = {
        "kind": "equal-info decode",
        "file": str(plan.file),
        "to": str(to),
        "model": plan.m1.model,
        "bytes": len(data),
        "windows": sum(header.windows),
        "window_bits": header.window_bits,
        "settings": plan_settings(plan),
    }
    return Result(f"{to.name}, decoded", found, lay_out(found))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out what was written."""
    return [
        Text(
            f"{data['to']}: {data['bytes']:,} bytes from {data['windows']:,} windows of {data['window_bits']} bits; its hash is that of the "
            "file that was coded.",
            "lead",
        )
    ]
