"""`tokenry tokenizer numbers TOKENIZER`: how a tokenizer cuts numbers, and the same tokenizer with other groups."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from tokenry.cli.console import Json, note, print_json, print_table


def numbers(
    tokenizer: Annotated[
        str, typer.Argument(help="A folder, a tokenizer.json, or a hub name; it must know groups of digits.")
    ],
    mode: Annotated[
        Literal["r2l", "l2r", "single"],
        typer.Option(help="Groups counted from the right, from the left, or digit by digit."),
    ] = "r2l",
    group: Annotated[int, typer.Option(help="Digits of a group.")] = 3,
    text: Annotated[
        list[str] | None, typer.Option(help="Show how this text is cut. Can be repeated.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="A new folder for the regrouped tokenizer; without it nothing is saved."),
    ] = None,
    json: Json = False,
) -> None:
    """Regroup the numbers of a tokenizer, without training: the same vocabulary, all other text as before."""
    from tokenry.runs.regrouped_numbers import regroup_numbers

    result = regroup_numbers(tokenizer, mode, group, text or (), output)
    for remark in result["notes"]:
        note(f"note: {remark}")
    if output:
        note(f"written: {output}")
    if json:
        print_json(result)
        return
    print_table(
        f"{tokenizer}: numbers {mode}, groups of {group}",
        ("text", "before", "after", "text back"),
        (
            (row["text"], "|".join(row["before"]), "|".join(row["after"]), row["text_back"])
            for row in result["texts"]
        ),
    )
