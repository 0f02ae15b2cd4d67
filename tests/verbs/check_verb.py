"""What every verb must pass, given small inputs: its output is parseable, is drawn again from what is saved, and fits a terminal.

`check_verb("evaluate arithmetic", MODEL, output=folder)` runs a verb once and returns what it saved; `check_refused` runs it on bad
input; `tokenry` is the command line. What holds without running a verb is in `test_every_verb`.
"""

import importlib
import io
import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.version import Version
from rich.console import Console
from typer.testing import CliRunner

from tokenry.cli import app
from tokenry.core.io.schema import SCHEMA
from tokenry.core.plans import plan_options
from tokenry.report.blocks import Section, Table, warnings_in
from tokenry.report.html import page
from tokenry.report.markdown import markdown
from tokenry.report.result import PAGE_FILE, RESULT_FILE
from tokenry.report.terminal import terminal_blocks
from tokenry.verbs._catalogue import verb_modules, verb_of

WIDTH = 80
WIDTHS = (80, 120)


def tokenry(verb: str, *arguments: Any) -> Any:
    """Call a verb as it is typed; what it prints is piped, 80 columns wide."""
    return CliRunner().invoke(app, [*verb.split(), *map(str, arguments)], env={"COLUMNS": str(WIDTH)})


# Tables of older versions break words where columns are narrow.
KEEPS_WORDS = Version(version("rich")) >= Version("15")


def check_verb(verb: str, *arguments: Any, output: Path) -> dict[str, Any]:
    """Run a verb and check what it prints, saves and draws.

    Args:
        verb: its words, such as `evaluate arithmetic`.
        arguments: all but `--output`.
        output: folder of the result.

    Returns:
        What was saved.
    """
    log = output.parent / f"{output.name}.log"
    result = tokenry(verb, *arguments, "--output", output, "--json", "--quiet", "--log-file", log)
    assert result.exit_code == 0, result.output
    assert result.stderr == "", "nothing is said under --quiet"

    saved = json.loads((output / RESULT_FILE).read_text(encoding="utf-8"))
    printed = json.loads(result.stdout)
    assert printed == {name: saved[name] for name in printed}
    assert saved["schema"] == SCHEMA
    module = importlib.import_module(verb_modules()[verb])
    assert verb_of(saved["kind"]) is module
    recorded = {option.name for option in plan_options(module.Plan)} - {"output"}
    assert recorded <= set(saved.get("settings", {})), "every option is recorded"

    blocks = module.lay_out(saved)
    drawn = (output / PAGE_FILE).read_text(encoding="utf-8")
    settings = {**saved.get("settings", {}), **saved.get("environment", {})}
    again = page(saved["kind"], saved["title"], blocks, settings)
    assert drawn == again, "what is drawn at once is drawn again from what is saved"
    reported = tokenry("report", output)
    assert reported.exit_code == 0, reported.output
    assert (output / PAGE_FILE).read_text(encoding="utf-8") == drawn, "tokenry report draws it too"
    assert in_terminal(blocks, coloured=False).split() == reported.stdout.split()
    for width in WIDTHS:
        assert too_wide(in_terminal(blocks, width), width) == []
        broken = broken_words(blocks, width) if KEEPS_WORDS else set()
        assert broken == set(), broken
    said = log.read_text(encoding="utf-8")
    assert [warning for warning in warnings_in(blocks) if warning in said] == [], (
        "a warning stands in the result alone"
    )
    assert markdown(blocks)
    return saved


def check_refused(verb: str, *arguments: Any, words: str) -> None:
    """Run a verb on what it must refuse: one sentence, exit code 2, nothing printed."""
    result = tokenry(verb, *arguments)
    said = " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split())
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert words in said, said
    assert "Traceback" not in said


def in_terminal(blocks: Any, width: int = WIDTH, coloured: bool = True) -> str:
    """Blocks as a terminal of `width` columns shows them."""
    console = Console(file=io.StringIO(), width=width)
    for renderable in terminal_blocks(blocks, width, coloured):
        console.print(renderable)
    return console.file.getvalue()


def broken_words(blocks: Any, width: int) -> set[str]:
    """The words of tables that are cut in two at this width; those too long for any column are not counted."""
    found = list(tables(blocks))
    whole, fitted = (set(in_terminal(found, columns).split()) for columns in (10_000, width))
    return {word for word in whole - fitted if len(word) <= width // 3}


def tables(blocks: Any) -> Iterator[Table]:
    """The tables in blocks."""
    for block in blocks:
        if isinstance(block, Section):
            yield from tables(block.blocks)
        elif isinstance(block, Table):
            yield block


def too_wide(text: str, width: int = WIDTH) -> list[str]:
    """The lines that do not fit."""
    return [line for line in text.splitlines() if len(line) > width]
