"""What a verb hands back: its measurements as JSON, and the blocks that lay them out.

`--json` prints the measurements and `result.json` holds them; everything that is drawn can be laid out again from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenry.core.files import atomic_write, write_json
from tokenry.report.blocks import Block

RESULT_FILE, PAGE_FILE = "result.json", "report.html"


@dataclass(frozen=True)
class Result:
    """The outcome of a verb.

    Attributes:
        title: what was measured on what; heading of the page.
        data: the measurements as JSON knows them: `kind`, `settings` and whatever the verb measured.
        blocks: the measurements laid out.
        ok: False where what was examined failed; the command then ends with exit code 1.
    """

    title: str
    data: Mapping[str, Any]
    blocks: Sequence[Block]
    ok: bool = True

    @property
    def as_json(self) -> dict[str, Any]:
        """What `--json` prints and `result.json` holds."""
        return {"kind": self.kind, "title": self.title, **self.data}

    @property
    def kind(self) -> str:
        """Name of the verb that measured it."""
        return str(self.data["kind"])

    @property
    def settings(self) -> dict[str, Any]:
        """Everything it was measured with: options, software and machine."""
        return {**self.data.get("settings", {}), **self.data.get("environment", {})}

    def save(self, output: Path) -> list[Path]:
        """Write `result.json` and `report.html` into the folder `output`; only one of both where it names a .json or .html file.

        Returns:
            The files written.
        """
        if output.suffix == ".json":
            write_json(output, self.as_json)
            return [output]
        if output.suffix == ".html":
            return [self._save_page(output)]
        write_json(output / RESULT_FILE, self.as_json)
        return [output / RESULT_FILE, self._save_page(output / PAGE_FILE)]

    def _save_page(self, file: Path) -> Path:
        with atomic_write(file) as partial:
            partial.write_text(self.page(), encoding="utf-8")
        return file

    def page(self) -> str:
        """The result as one self-contained HTML page."""
        from tokenry.report.html import (
            page,  # matplotlib takes most of a second, and is not needed for --help
        )

        return page(self.kind, self.title, self.blocks, self.settings)
