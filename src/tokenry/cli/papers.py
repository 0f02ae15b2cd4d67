"""`tokenry papers`: the forty papers, and which of them can be reproduced today."""

from dataclasses import asdict
from typing import Annotated

import typer

from tokenry.cli.console import Json, print_json, print_table
from tokenry.papers import catalogue


def papers(
    available: Annotated[bool, typer.Option("--available", help="Only those with a recipe.")] = False,
    json: Json = False,
) -> None:
    """List the forty papers and say which of them can be reproduced."""
    listed = [paper for paper in catalogue() if paper.available or not available]
    if json:
        print_json([asdict(paper) for paper in listed])
        return
    print_table(
        f"{sum(paper.available for paper in listed)} of {len(listed)} can be reproduced: tokenry reproduce SLUG",
        ("no.", "slug", "title", "arXiv", "available", "stored run"),
        (
            (
                f"{paper.number:02d}",
                paper.slug,
                paper.title,
                paper.arxiv,
                "yes" if paper.available else "not yet",
                paper.outcome,
            )
            for paper in listed
        ),
    )
