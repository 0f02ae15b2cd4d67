"""`tokenry report RUN`: draw the report of a run anew from its record."""

from pathlib import Path
from typing import Annotated

import typer

from tokenry.cli.console import Json, note, print_json, show


def report(
    run: Annotated[Path, typer.Argument(help="The folder that `tokenry tune` wrote, or its result.json.")],
    output: Annotated[
        Path | None, typer.Option(help="The page (default: report.html in the folder).")
    ] = None,
    json: Json = False,
) -> None:
    """Write the self-contained HTML report of a run, and show its table."""
    from tokenry.core.files import atomic_write, require_output_file
    from tokenry.report import comparison_table, render_report
    from tokenry.runs.comparison_record import read_comparison

    require_output_file(output)
    comparison = read_comparison(run)
    page = output or (run if run.is_dir() else run.parent) / "report.html"
    with atomic_write(page) as partial:
        partial.write_text(render_report(comparison), encoding="utf-8")
    if json:
        print_json({"report": str(page)})
    else:
        show(comparison_table(comparison))
    note(f"written: {page}")
