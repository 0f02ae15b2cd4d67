"""The record of a comparison, read back from its folder; light, so that a report is drawn at once."""

import shlex
from pathlib import Path

from tokenry.core.errors import UserError
from tokenry.core.records import Comparison


def read_comparison(run: Path) -> Comparison:
    """Read the record of a finished comparison.

    Args:
        run: the folder of `tokenry tune`, or the record in it.

    Raises:
        UserError: there is no run, it is not finished, or its record is damaged.
    """
    record = run / "result.json" if run.is_dir() else run
    if not record.exists() and (record.parent / "plan.json").exists():
        finished = sorted(path.parent.name for path in record.parent.glob("*/run.json"))
        raise UserError(
            f"the run in {record.parent} is not finished (finished so far: {', '.join(finished) or 'nothing'}): go on with "
            f"`tokenry tune --resume --output {shlex.quote(str(record.parent))}`, which writes the report at its end."
        )
    return Comparison.load(record)
