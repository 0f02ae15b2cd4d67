"""The result of a verb: its measurements as JSON, and the blocks that lay them out.

`--json` prints the measurements and `result.json` holds them; everything that is drawn can be laid out again from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenry.core.io.files import atomic_write, write_json
from tokenry.core.io.schema import SCHEMA
from tokenry.report.blocks import Block

RESULT_FILE, PAGE_FILE = "result.json", "report.html"


@dataclass(frozen=True)
class Result:
    """The outcome of a verb.

    Attributes:
        title: subject of the measurement; heading of the page.
        data: the measurements as JSON knows them: `kind`, `settings` and whatever the verb measured.
        blocks: the measurements laid out.
        ok: False if the examined thing failed; the command then ends with exit code 1.
        files: further files of the folder, text by name.
        only_saved: names in `data` that `--json` leaves out, such as pictures.
        printed_part: the one name in `data` whose list `--json` prints, with the schema in each of its objects; empty where it prints all.
    """

    title: str
    data: Mapping[str, Any]
    blocks: Sequence[Block]
    ok: bool = True
    files: Mapping[str, str] = field(default_factory=dict)
    only_saved: Sequence[str] = ()
    printed_part: str = ""

    @property
    def as_json(self) -> dict[str, Any]:
        """What `result.json` holds."""
        return {"schema": SCHEMA, "kind": self.kind, "title": self.title, **self.data}

    @property
    def printed(self) -> Any:
        """What `--json` prints."""
        if self.printed_part:
            return [{"schema": SCHEMA, **listed} for listed in self.data[self.printed_part]]
        return {name: value for name, value in self.as_json.items() if name not in self.only_saved}

    @property
    def kind(self) -> str:
        """Name of the verb that measured it."""
        return str(self.data["kind"])

    @property
    def settings(self) -> dict[str, Any]:
        """Options, software and hardware of the measurement."""
        return {**self.data.get("settings", {}), **self.data.get("environment", {})}

    def save(self, output: Path) -> list[Path]:
        """Write `result.json`, `report.html` and further files into the folder `output`; one alone where it names a .json or .html file.

        Returns:
            The files written; a folder where it holds several.
        """
        if output.suffix == ".json":
            write_json(output, self.as_json)
            return [output]
        if output.suffix == ".html":
            return [_write(output, self.page())]
        texts = {PAGE_FILE: self.page(), **self.files}
        write_json(output / RESULT_FILE, self.as_json)
        for name, text in texts.items():
            _write(output / name, text)
        return [output / RESULT_FILE, *dict.fromkeys(output / name.partition("/")[0] for name in texts)]

    def page(self) -> str:
        """The result as one self-contained HTML page."""
        from tokenry.report.html import (
            page,  # matplotlib takes most of a second, and is not needed for --help
        )

        return page(self.kind, self.title, self.blocks, self.settings)


def _write(file: Path, text: str) -> Path:
    with atomic_write(file) as partial:
        partial.write_text(text, encoding="utf-8")
    return file
