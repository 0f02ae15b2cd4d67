"""`tokenry reproduce SLUG`: run the recipe of a paper and say, claim by claim, what it shows."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenry.cli.console import Json, note, print_json, print_table, progress
from tokenry.core.errors import UserError
from tokenry.papers import catalogue, paper
from tokenry.recipes import Scale, run_recipe

if TYPE_CHECKING:
    from tokenry.recipes.kit import Claim

_NO_FIGURE = "no such figure"


def reproduce(
    slug: Annotated[str | None, typer.Argument(help="The paper's slug; `tokenry papers` lists them.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List what can be reproduced, and stop.")] = False,
    scale: Annotated[
        Scale, typer.Option(help="laptop: minutes on two CPU cores; paper: the paper's models and data.")
    ] = "laptop",
    output: Annotated[
        Path | None, typer.Option(help="Folder for result.json and plots (default: runs/reproduce-SLUG).")
    ] = None,
    json: Json = False,
) -> None:
    """Run the recipe of a paper: its headline claim, the other claims, and what the measurement shows of each."""
    if list_:
        _list_recipes(json)
        return
    if slug is None:
        raise UserError("no paper was named: give a slug, or --list to see what can be reproduced.")
    entry = paper(slug)
    folder = output or Path("runs") / f"reproduce-{slug}"
    with progress() as report:
        reproduction = run_recipe(slug, scale, folder, report)
    if json:
        print_json(reproduction.as_json())
    else:
        print_table(
            f"{entry.title} (arXiv {entry.arxiv}): {reproduction.outcome}",
            ("claim", "paper", "measured", "control", "verdict"),
            (_row(claim, number == 0) for number, claim in enumerate(reproduction.claims)),
        )
    note(f"{reproduction.seconds:.0f} s; written to {folder}")


def _list_recipes(json: bool) -> None:
    entries = [entry for entry in catalogue() if entry.available]
    if json:
        print_json(
            [
                {
                    "number": entry.number,
                    "slug": entry.slug,
                    "title": entry.title,
                    "verdict": entry.verdict,
                    "shown": entry.shown,
                    "of": entry.of,
                }
                for entry in entries
            ]
        )
        return
    print_table(
        "tokenry reproduce SLUG",
        ("slug", "title", "stored run"),
        ((entry.slug, entry.title, entry.outcome) for entry in entries),
    )


def _row(claim: "Claim", headline: bool) -> tuple[str, ...]:
    figures = (_NO_FIGURE if claim.paper is None else claim.paper, claim.measured, claim.control)
    texts = (figure if isinstance(figure, str) else f"{figure:.4g}" for figure in figures)
    return (f"headline: {claim.claim}" if headline else claim.claim, *texts, claim.verdict)
