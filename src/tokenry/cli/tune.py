"""`tokenry tune`: fine-tune on the tokens that matter, beside the controls, and report what came of each."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tokenry.cli.console import Json, note, print_json, progress, show

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Any argument of TRL's SFTConfig, or lora.rank and the like."
    ),
]


def tune(
    model: Annotated[
        str | None, typer.Argument(help="`embedded` (default), a folder, or a hub name.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Argument(help="`demo` (default), a JSONL, JSON, CSV or Parquet file, a folder, or a hub name."),
    ] = None,
    weighing: Annotated[
        str | None,
        typer.Option(help="sstoken (default), small-loss, token-cleaning, … or NAME:option=value,…"),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            help="Controls trained beside it, such as full,random; the first is the one compared with."
        ),
    ] = None,
    share: Annotated[float | None, typer.Option(help="Share of the response tokens to learn from.")] = None,
    balance: Annotated[
        float | None, typer.Option(help="ssToken: loss signal against attention, in [0, 1].")
    ] = None,
    held_out: Annotated[
        str | None, typer.Option(help="Data for evaluation (default: a tenth is set aside).")
    ] = None,
    trusted: Annotated[
        str | None,
        typer.Option(help="A few dozen clean samples: the reference model's data, and training data."),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="A reference model, where there is no trusted set.")
    ] = None,
    full_weights: Annotated[
        bool, typer.Option("--full-weights", help="Train all weights, without LoRA.")
    ] = False,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16 (default: what the hardware has).")
    ] = None,
    chat_template: Annotated[str | None, typer.Option(help="open-instruct, or a jinja file.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Most tokens of a sample.")] = None,
    too_long: Annotated[str | None, typer.Option(help="Longer samples: truncate, drop or error.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of data, adapter and order.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file with any of these, and training arguments.")
    ] = None,
    set_: Set = None,
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/tune"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --output, if there is one.")
    ] = False,
    json: Json = False,
) -> None:
    """Fine-tune a language model on the tokens that matter, beside plain fine-tuning, and say which was better."""
    from tokenry.core.descriptions import split_descriptions
    from tokenry.core.files import atomic_write
    from tokenry.report import comparison_table, render_report
    from tokenry.runs.comparison import compare as carry_out
    from tokenry.runs.plan import add_settings, parse_settings, resume_or_start

    given: dict[str, Any] = {
        "model": model,
        "data": data,
        "weighing": weighing,
        "compare": None if compare is None else split_descriptions(compare),
        "share": share,
        "balance": balance,
        "held_out": held_out,
        "trusted": trusted,
        "reference": reference,
        "dtype": dtype,
        "chat_template": chat_template,
        "max_length": max_length,
        "too_long": too_long,
        "seed": seed,
    }
    options = {name: value for name, value in given.items() if value is not None}
    options |= {"lora": None} if full_weights else {}
    plan = resume_or_start(output, add_settings(options, parse_settings(set_ or [])), config, resume)
    with progress() as report:
        comparison = carry_out(plan, output, report)
    page = output / "report.html"
    with atomic_write(page) as partial:
        partial.write_text(render_report(comparison), encoding="utf-8")
    if json:
        print_json(comparison.model_dump(mode="json"))
    else:
        show(comparison_table(comparison))
    note(f"written: {output / 'result.json'} and {page}")
