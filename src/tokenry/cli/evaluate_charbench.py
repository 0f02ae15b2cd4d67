"""`tokenry evaluate charbench MODEL…`: character-level questions about words, and what tokenization has to do with the answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenry.cli.console import Json, note, print_json, print_table, progress
from tokenry.core.errors import require_one_of

if TYPE_CHECKING:
    from pandas import Series

    from tokenry.evaluation.charbench import CharBenchReport


def charbench(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="`embedded` (default), folders, or hub names; errors are compared."),
    ] = None,
    words: Annotated[
        Path | None, typer.Option(help="File with one word per line (default: English word lists).")
    ] = None,
    per_length: Annotated[
        int, typer.Option(help="Words of each length in the benchmark that is built, a multiple of 4.")
    ] = 25_000,
    min_length: Annotated[int, typer.Option(min=1, help="Characters of the shortest words.")] = 4,
    max_length: Annotated[int, typer.Option(help="Characters of the longest words.")] = 10,
    limit: Annotated[
        int, typer.Option(help="Items to ask, drawn evenly from tasks and lengths; 0 for all.")
    ] = 400,
    mode: Annotated[
        str,
        typer.Option(help="score: the likeliest answer. generate: what the model writes, as in the paper."),
    ] = "score",
    batch_size: Annotated[int, typer.Option(help="Items at a time.")] = 32,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16 (default: what the hardware has).")
    ] = None,
    nfc: Annotated[bool, typer.Option("--nfc", help="Compose the characters of --words first.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the items.")] = 42,
    output: Annotated[
        Path, typer.Option(help="Folder for result.json, predictions.csv and report.html.")
    ] = Path("runs/charbench"),
    json: Json = False,
) -> None:
    """Ask models about the characters of words, and correlate right answers with how their tokenizers cut them."""
    from tokenry.core.files import atomic_write, require_output_folder, write_json
    from tokenry.evaluation.charbench import charbench_report, join_records
    from tokenry.evaluation.charbench.evaluate import MODES
    from tokenry.evaluation.charbench.measure import ask_models, choose_items
    from tokenry.report.charbench_page import render_charbench

    require_one_of(mode, MODES, "--mode")
    require_output_folder(output)
    items, source = choose_items(words, per_length, min_length, max_length, limit or None, seed, nfc)
    with progress() as report:
        predictions, features, text_back = ask_models(
            models or ["embedded"],
            items,
            mode,  # type: ignore[arg-type]
            batch_size,
            dtype,
            report,
        )
    found = charbench_report(items, predictions, features, text_back=text_back)
    settings = {
        "models": list(predictions),
        "words": source,
        "per_length": per_length,
        "items": len(items),
        "mode": mode,
        "seed": seed,
    }
    result = {"kind": "charbench", "settings": settings, **found.as_json()}
    write_json(output / "result.json", result)
    with atomic_write(output / "predictions.csv") as partial:
        join_records(items, predictions, features).to_csv(partial, index=False)
    with atomic_write(output / "report.html") as partial:
        partial.write_text(render_charbench(found, settings), encoding="utf-8")
    if json:
        print_json(result)
    else:
        _show(found)
    for sentence in found.sentences():
        note(f"note: {sentence}")
    note(f"written: result.json, predictions.csv and report.html in {output}")


def _show(found: "CharBenchReport") -> None:
    if found.text_back:
        print_table(
            "whether the tokenizer gives the words back",
            ("model", "text back"),
            ((model, back.cell) for model, back in found.text_back.items()),
        )
    for model, rows in found.accuracy.groupby("model", sort=False):
        print_table(
            str(model),
            ("task", "items", "right, %", "± s.e.", "integers, %"),
            (
                (
                    row.task,
                    f"{row.n:,}",
                    f"{100 * row.accuracy:.1f}",
                    f"{100 * row.standard_error:.1f}",
                    f"{100 * row.valid:.1f}",
                )
                for row in rows.itertuples()
            ),
        )
        table = found.correlations[found.correlations["model"] == model]
        tasks = list(dict.fromkeys(table["task"]))
        print_table(
            "correlation with right answers (* shown, adjusted for all of them)",
            ("property", *(task.replace("_", " ") for task in tasks)),
            (
                (str(name), *(_correlation(of_one[of_one["task"] == task].iloc[0]) for task in tasks))
                for name, of_one in table.groupby("property", sort=False)
            ),
        )


def _correlation(row: "Series") -> str:
    if row["r"] != row["r"]:
        return "–"
    return f"{row['r']:+.3f}{' *' if row['shown'] else ''}"
