"""`tokenry tokenizer transplant MODEL NEW_TOKENIZER OUTPUT`: another tokenizer for a model, without training."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tokenry.cli.console import Json, note, print_json, print_table, progress


def transplant(
    model: Annotated[str, typer.Argument(help="`embedded`, a folder (adapters too), or a hub name.")],
    new_tokenizer: Annotated[
        str, typer.Argument(help="Folder, tokenizer.json or hub name of the new tokenizer.")
    ],
    output: Annotated[Path, typer.Argument(help="A new folder for model, tokenizer and report.")],
    method: Annotated[
        str, typer.Option(help="tokenadapt, retok, focus, omp, mean or random.")
    ] = "tokenadapt",
    auxiliary: Annotated[
        str | None,
        typer.Option(
            help="Where tokens are compared: hidden (default), embeddings, characters, or the folder of a sentence encoder."
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of TokenAdapt's softmaxes.")] = 0.3,
    top_k: Annotated[int, typer.Option(help="TokenAdapt's neighbours.")] = 3,
    global_weight: Annotated[float, typer.Option(help="Of neighbours against pieces, 0 to 1.")] = 0.3,
    threshold: Annotated[float, typer.Option(help="Cosine below which a neighbour does not count.")] = 0.0,
    atoms: Annotated[int, typer.Option(help="Tokens that omp combines.")] = 64,
    match: Annotated[str, typer.Option(help="Tokens are equal by their bytes, or as strings.")] = "bytes",
    fallback: Annotated[str, typer.Option(help="Rows of what cannot be composed: mean or random.")] = "mean",
    pad_to_multiple_of: Annotated[int, typer.Option(help="Of the rows of the matrices.")] = 128,
    carry_special_tokens: Annotated[
        bool,
        typer.Option(
            "--carry-special-tokens", help="First add the old special tokens that the new tokenizer lacks."
        ),
    ] = False,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="Measure bits per byte of this text file before and after; can be repeated.", metavar="FILE"
        ),
    ] = None,
    most_characters: Annotated[
        int, typer.Option(min=1, help="Of each text file, from its beginning.")
    ] = 20_000,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16 (default: as the weights are stored).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of random rows.")] = 0,
    json: Json = False,
) -> None:
    """Replace a model's tokenizer without training, and say what that did to it."""
    from tokenry.runs.transplant import run_transplant

    with progress() as report:
        made = run_transplant(
            model,
            new_tokenizer,
            output,
            report,
            method=method,
            auxiliary=auxiliary,
            temperature=temperature,
            top_k=top_k,
            global_weight=global_weight,
            threshold=threshold,
            atoms=atoms,
            match=match,
            fallback=fallback,
            pad_to_multiple_of=pad_to_multiple_of,
            carry_special_tokens=carry_special_tokens,
            text_files=text or (),
            most_characters=most_characters,
            dtype=dtype,
            seed=seed,
        )
    result = made.as_json()
    for remark in result["notes"]:
        note(f"note: {remark}")
    note(f"written: {output}")
    if json:
        print_json(result)
        return
    print_table(f"{model} with the tokenizer of {new_tokenizer}, by {method}", ("", ""), _rows(result))


def _rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    counts = result["counts"]
    rows = [
        ("tokens", f"{result['old_tokens']:,} → {result['new_tokens']:,} ({result['rows']:,} rows)"),
        ("copied", f"{counts['copied']:,}"),
        ("composed", f"{counts['composed']:,}"),
        *((f"  of them {name}", f"{count:,}") for name, count in result["estimates"].items()),
        ("  old pieces of each, mean", f"{result['pieces_per_token']:.2f}"),
        ("left to the fallback", f"{counts['fallback']:,}"),
        ("  these", _some(result["fallback"])),
        ("never written", f"{counts['never_written']:,}"),
        ("  these", _some(result["never_written"])),
        ("texts that do not come back", _some(result["round_trip_failures"])),
        *(
            (f"text back, {which} tokenizer", found["summary"])
            for which, found in result["text_back"].items()
        ),
    ]
    left_out = result["leave_one_out"]
    if left_out:
        rows.append(
            (
                f"1 − cosine of {left_out['tokens']:,} shared tokens left out, median",
                f"{left_out['median_cosine_error']:.3f} (mean row {left_out['median_mean_row_cosine_error']:.3f})",
            )
        )
        rows.append(("  the worst of them", _some(list(left_out["cosine_error_of"])[:8])))
    for when, loss in result["bits_per_byte"].items():
        if loss:
            error = "" if loss["standard_error"] is None else f" ± {loss['standard_error']:.3f}"
            rows.append((f"bits per byte {when}", f"{loss['value']:.3f}{error} ({loss['tokens']:,} tokens)"))
    return rows


def _some(names: list[str]) -> str:
    if not names:
        return "none"
    return ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
