"""`tokenry tokenizer premiums [TOKENIZER…]`: what the same text costs in each language, with given tokenizers or with the grid."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenry.cli.console import Json, note, print_json, print_table, progress
from tokenry.core.errors import UserError

if TYPE_CHECKING:
    from tokenry.tokenization.premiums.premium_table import PremiumTable


def premiums(
    tokenizers: Annotated[
        list[str] | None,
        typer.Argument(help="Models, folders or tokenizer.json files, each used for all languages."),
    ] = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="Instead, train tokenizers for each language over the whole grid.")
    ] = False,
    parallel: Annotated[
        Path | None,
        typer.Option(
            help="Folder of parallel text, one LANGUAGE.txt each, line by line (default: the Universal Declaration of Human Rights)."
        ),
    ] = None,
    train: Annotated[
        Path | None, typer.Option(help="Grid: folder of training text, one LANGUAGE.txt each.")
    ] = None,
    languages: Annotated[
        str | None, typer.Option(help="Those to measure: eng,deu_1996,hin (default: all there are).")
    ] = None,
    reference: Annotated[str, typer.Option(help="The language that premiums are relative to.")] = "eng",
    algorithm: Annotated[
        list[str] | None,
        typer.Option(
            help="Grid: bpe, unigram, superbpe or boundless (default: the first three). Can be repeated."
        ),
    ] = None,
    vocab_sizes: Annotated[
        str | None, typer.Option(help="Grid: increasing, 512,1024,… (default: 8192 to 114688).")
    ] = None,
    amount: Annotated[
        list[str] | None,
        typer.Option(
            help="Grid: scaled (same content), unscaled (same bytes) or both (default). Can be repeated."
        ),
    ] = None,
    train_bytes: Annotated[
        int | None,
        typer.Option(help="Grid: training text of the reference (default: what all languages have)."),
    ] = None,
    min_frequency: Annotated[
        int, typer.Option(min=0, help="Grid: pairs seen less often are not merged.")
    ] = 0,
    save_tokenizers: Annotated[
        bool, typer.Option("--save-tokenizers", help="Grid: keep the tokenizers too.")
    ] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Grid: run on a Ray cluster (extra ray).")] = False,
    output: Annotated[
        Path, typer.Option(help="Folder for result.json and report.html; a stopped grid goes on there.")
    ] = Path("runs/premiums"),
    json: Json = False,
) -> None:
    """Measure how many tokens the same text costs in each language, with intervals."""
    from tokenry.core.files import atomic_write, require_output_folder, write_json
    from tokenry.report.premium_page import render_premiums
    from tokenry.tokenization.premiums.many_sizes import SIZES
    from tokenry.tokenization.premiums.parallel_text import (
        load_for_measuring,
        load_train_and_parallel,
        names_of,
    )
    from tokenry.tokenization.premiums.premium_table import grid_premiums, measure_premiums
    from tokenry.tokenization.premiums.tokenizer_grid import AMOUNTS, GridConfig, run_grid
    from tokenry.tokenization.tokenizer_files import load_any_tokenizer

    if bool(tokenizers) == grid:
        raise UserError("name tokenizers to measure, or give --grid to train them: one of the two.")
    require_output_folder(output)
    chosen = languages.split(",") if languages else None
    settings: dict[str, object] = {"reference": reference, "text": str(parallel or "UDHR")}
    if grid:
        config = GridConfig(
            algorithms=tuple(algorithm) if algorithm else GridConfig.algorithms,
            vocab_sizes=numbers(vocab_sizes, "--vocab-sizes") or SIZES,
            amounts=tuple(amount) if amount else AMOUNTS,
            reference=reference,
            train_bytes=train_bytes,
            min_frequency=min_frequency,
            save_tokenizers=save_tokenizers,
        )
        texts, evaluation = load_train_and_parallel(train, parallel, chosen)
        with progress() as report:
            cells = run_grid(texts, evaluation, output / "grid", config, report, ray)
        wanted = [
            cell
            for cell in cells
            if cell.algorithm in config.algorithms
            and cell.amount in config.amounts
            and cell.vocab_size in config.vocab_sizes
        ]
        tables = grid_premiums(wanted, evaluation, reference)
        settings |= {"grid": output / "grid", "cells": len(wanted)}
    else:
        loaded = {name: load_any_tokenizer(name) for name in tokenizers or ()}
        evaluation = load_for_measuring(parallel, chosen)
        tables = measure_premiums(loaded, evaluation, reference)
        settings["tokenizers"] = list(loaded)
    names = names_of(evaluation) if parallel is None else {}
    segments = len(evaluation[reference])
    result = {
        "kind": "premiums",
        "reference": reference,
        "segments": segments,
        "names": names,
        "tables": [table.as_json() for table in tables],
    }
    write_json(output / "result.json", result)
    page = output / "report.html"
    with atomic_write(page) as partial:
        partial.write_text(render_premiums(tables, reference, segments, names, settings), encoding="utf-8")
    if json:
        print_json(result)
    else:
        for table in () if grid else tables:
            _show_languages(table, names)
        _show_spread(tables)
    for table in tables:
        for sentence in table.sentences(names):
            note(f"note: {sentence}")
    note(f"written: {output / 'result.json'} and {page}")


def _show_languages(table: "PremiumTable", names: Mapping[str, str]) -> None:
    print_table(
        table.name,
        ("language", "tokens", "premium", "95 % interval", "byte premium", "bytes per token", "text back"),
        (
            (
                names.get(row.language, row.language),
                f"{row.tokens:,}",
                f"{row.premium.value:.2f}",
                f"{row.premium.low:.2f} to {row.premium.high:.2f}",
                f"{row.byte_premium:.2f}",
                f"{row.bytes_per_token:.2f}",
                "–" if row.text_back is None else row.text_back.cell,
            )
            for row in table.languages
        ),
    )


def _show_spread(tables: "Sequence[PremiumTable]") -> None:
    # The spread is over all languages, those too whose count is that of another text.
    lossy = ("languages not given back",) if any(table.not_given_back for table in tables) else ()
    print_table(
        f"spread over {len(tables[0].languages)} languages",
        ("tokenizers", "mean count", "s.d.", "s.d. / mean", "dearest / cheapest", *lossy),
        (
            (
                ", ".join(filter(None, (table.group, table.name))),
                f"{table.spread['mean'].value:,.1f}",
                f"{table.spread['std'].value:,.1f}",
                f"{table.spread['cv'].value:.3f}",
                f"{table.spread['max_min'].value:.2f} ({table.spread['max_min'].low:.2f} to {table.spread['max_min'].high:.2f})",
                *(str(len(table.not_given_back)) for _ in lossy),
            )
            for table in tables
        ),
    )


def numbers(listed: str | None, option: str) -> tuple[int, ...]:
    """Read whole numbers separated by commas; none where nothing is given.

    Raises:
        UserError: something else.
    """
    try:
        return tuple(int(each) for each in listed.split(",")) if listed is not None else ()
    except ValueError as error:
        raise UserError(
            f"{option} takes whole numbers separated by commas, such as 512,1024, got {listed!r}."
        ) from error
