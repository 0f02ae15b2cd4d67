"""`tokenry evaluate MODEL DATA`: held-out NLL, bits per byte, and verified answers of any model."""

from pathlib import Path
from typing import Annotated

import typer

from tokenry.cli.console import Json, deliver, print_table, progress, show


def evaluate(
    model: Annotated[
        str, typer.Argument(help="`embedded`, a folder (adapters too), or a hub name.")
    ] = "embedded",
    data: Annotated[
        str, typer.Argument(help="`demo`, or a file, folder or hub name as for `tokenry tune`.")
    ] = "demo",
    max_length: Annotated[int, typer.Option(help="Most tokens of a sample.")] = 2048,
    chat_template: Annotated[str | None, typer.Option(help="open-instruct, or a jinja file.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16 (default: what the hardware has).")
    ] = None,
    answers: Annotated[
        int, typer.Option(min=0, help="Items answered and verified, where the data has verifiers.")
    ] = 45,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the demo data.")] = 42,
    lm_eval: Annotated[
        str | None,
        typer.Option("--lm-eval", metavar="TASKS", help="Hand these tasks to lm-evaluation-harness."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")] = None,
    json: Json = False,
) -> None:
    """Measure a model on data: NLL per response token, bits per byte, accuracy by the data's own verifiers."""
    from tokenry.core.files import require_output_file
    from tokenry.runs.evaluation import evaluate_model, evaluate_with_harness

    require_output_file(output)
    if lm_eval is not None:
        result = evaluate_with_harness(model, lm_eval.split(","))
    else:
        with progress() as report:
            result = evaluate_model(
                model,
                data,
                report,
                max_length=max_length,
                chat_template=chat_template,
                dtype=dtype,
                answers=answers,
                seed=seed,
            )
    if deliver(result, output, json):
        return
    print_table(
        f"{model} on {lm_eval or data}",
        ("measure", "value", "± s.e.", "n"),
        (
            (row["measure"], f"{row['value']:.4g}", _error(row), str(row.get("samples") or "–"))
            for row in result["measures"]
        ),
    )
    for sentence in result.get("notes", ()):
        show(f"data: {sentence}")


def _error(row: dict) -> str:
    return "–" if row.get("standard_error") is None else f"{row['standard_error']:.2g}"
