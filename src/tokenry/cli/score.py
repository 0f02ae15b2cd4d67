"""`tokenry score TEXT`: what a model makes of every token of a text or a data set."""

from pathlib import Path
from typing import Annotated

import typer

from tokenry.cli.console import Json, note, print_json, progress, show


def score(
    source: Annotated[
        str,
        typer.Argument(metavar="TEXT_OR_FILE", help="A text, a text file, or a file of data as for `tune`."),
    ],
    signals: Annotated[
        str | None,
        typer.Option(
            help="Of nll, entropy, prompt_attention, content_attention, reference_nll, excess_nll. \\[default: nll,entropy, and "
            "excess_nll with --reference]",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="`embedded`, a folder, or a hub name.")] = "embedded",
    reference: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A second model, of the same tokenizer.")
    ] = None,
    layers: Annotated[str, typer.Option(help="Attention layers: -1, `deep`, or 10,20.")] = "-1",
    max_length: Annotated[int, typer.Option(help="Most tokens of a sample.")] = 2048,
    samples: Annotated[int, typer.Option(min=1, help="Most samples of a data set.")] = 20,
    chat_template: Annotated[str | None, typer.Option(help="open-instruct, or a jinja file.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for scores.json and scores.html.")] = Path(
        "runs/score"
    ),
    json: Json = False,
) -> None:
    """Score the tokens of a text or data set, and draw them as heat-maps in the terminal and on a page."""
    from tokenry.core.files import atomic_write, require_output_folder, write_json
    from tokenry.report import render_scores, signal_table, terminal_heatmap
    from tokenry.runs.scoring import parse_layers, score_source

    require_output_folder(output)
    signals = signals or ("nll,entropy" if reference is None else "nll,entropy,excess_nll")
    names = [name.strip() for name in signals.split(",") if name.strip()]
    with progress() as report:
        scores = score_source(
            source,
            names,
            model,
            report,
            layers=parse_layers(layers),
            max_length=max_length,
            samples=samples,
            chat_template=chat_template,
            reference=reference,
        )
    examples = scores.examples
    record = [example.model_dump(mode="json") for example in examples]
    write_json(output / "scores.json", record)
    with atomic_write(output / "scores.html") as partial:
        settings = {"model": model, "signals": signals, "layers": layers}
        settings |= {} if reference is None else {"reference": reference}
        page = render_scores(f"Scores by {model}", examples, settings=settings, notes=scores.notes)
        partial.write_text(page, encoding="utf-8")
    if json:
        print_json(record)
    else:
        for example in examples[:3]:
            show(terminal_heatmap(example, names[0]))
        show(signal_table(examples))
        for sentence in scores.notes:
            show(f"data: {sentence}")
    note(f"written: {output / 'scores.json'} and {output / 'scores.html'}")
