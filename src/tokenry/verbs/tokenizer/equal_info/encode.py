"""A file coded in windows of equal information."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenry.core.io.files import require_output_file
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Column, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs.tokenizer.equal_info._coding import NGRAM_MODEL, SymbolModel, read_data


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Code a file in windows of equal information; it is decoded and compared before it is written.

    A job that was interrupted goes on where it was when it is started again.

    Attributes:
        file: file to code, of any bytes.
        to: the new file; by default FILE.eqi.
        window_bits: bits of a window, more than the precision.
        end: where windows end: free loses the least, delay leaves no choice to the encoder.
    """

    file: Path = argument()
    to: Path | None = option(None, metavar="FILE")
    m1: SymbolModel = NGRAM_MODEL
    window_bits: int = option(16, flag="--window", metavar="BITS")
    end: Literal["free", "delay"] = "free"


def run(plan: Plan, progress: Progress) -> Result:
    """Code the file.

    Raises:
        UserError: a file or model that cannot be read, a window that is too small, or an output that exists.
    """
    from tokenry.tokenization.equal_info.coded_file import ENDING, encode_file, require_new_file

    data = read_data(plan.file)
    to = plan.to or plan.file.with_name(plan.file.name + ENDING)
    require_new_file(to)
    require_output_file(to)
    progress("reading the model", 0.0)
    codec, units = plan.m1.codec(plan.window_bits, plan.end)
    header = encode_file(data, to, codec, units, plan.m1.model, progress)
    coded = to.stat().st_size
    found = {
        "kind": "equal-info encode",
        "file": str(plan.file),
        "to": str(to),
        "model": plan.m1.model,
        "m1": header.m1,
        "units": header.units,
        "precision": header.precision,
        "bytes": len(data),
        "symbols": sum(header.lengths),
        "windows": sum(header.windows),
        "escaped": sum(map(len, header.escaped)),
        "coded_bytes": coded,
        "bit_ratio": 8 * len(data) / (header.window_bits * sum(header.windows)),
        "settings": plan_settings(plan),
    }
    return Result(f"{plan.file.name} in windows of {plan.window_bits} bits", found, lay_out(found))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the size of the file before and after."""
    lead = f"{data['to']}: {data['windows']:,} windows, {data['bit_ratio']:.2f} bits of the file in one of theirs; it was decoded and is the same."
    rows = [
        ("bytes of the file", data["bytes"]),
        ("bytes of the coded file", data["coded_bytes"]),
        (f"symbols ({data['units']})", data["symbols"]),
        ("windows", data["windows"]),
        ("windows that end as by delay", data["escaped"]),
        ("bits of the frequencies", data["precision"]),
    ]
    return [
        Text(lead, "lead"),
        Table(
            "",
            ("what", Column("number", "", ",d")),
            rows,
            (f"M1: {data['model']}, fingerprint {data['m1']}.",),
        ),
    ]
