"""Where a verb writes its result, if it is asked to."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class OptionalOutput:
    """A verb whose result need not be written.

    Attributes:
        output: folder for result.json and report.html, or a .json or .html file; nothing is written without it.
    """

    output: Path | None = None
