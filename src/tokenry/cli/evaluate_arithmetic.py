"""`tokenry evaluate arithmetic MODEL`: how well a model adds, by the number of digits and by how numbers are written."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tokenry.cli.console import Json, note, print_json, print_table, progress


def evaluate_arithmetic(
    model: Annotated[
        str, typer.Argument(help="`embedded`, a folder (adapters too), or a hub name.")
    ] = "embedded",
    format: Annotated[
        list[str] | None,
        typer.Option(
            help="nosep, or {comma,space,dec,hashtag,dollar,foo}_{l2r,r2l}; can be repeated (default: nosep, comma_r2l)."
        ),
    ] = None,
    answer_format: Annotated[str | None, typer.Option(help="Of the sums, where it differs.")] = None,
    repeat_format: Annotated[
        str | None, typer.Option(help="The answer first repeats the question in this format.")
    ] = None,
    signature: Annotated[
        list[str] | None,
        typer.Option(
            help="Digits of both addends and the sum, as 7,7,8; can be repeated.", metavar="L1,L2,L3"
        ),
    ] = None,
    per_signature: Annotated[int, typer.Option(help="Problems of each signature.")] = 4,
    shots: Annotated[int, typer.Option(help="Solved problems before each problem.")] = 8,
    group: Annotated[int, typer.Option(help="Digits of a group.")] = 3,
    spaces: Annotated[int, typer.Option(help="Around + and before =.")] = 0,
    trailing_spaces: Annotated[int, typer.Option(help="After =.")] = 0,
    system: Annotated[str, typer.Option(help="System message; empty for none.")] = (
        "You are a helpful assistant."
    ),
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Ask in the chat template (default: where there is one)."),
    ] = None,
    retokenize: Annotated[
        str | None, typer.Option(help="Regroup the tokenizer's numbers first: r2l, l2r or single.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per batch.")] = 16,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16 (default: what the hardware has).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of problems and shots.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")] = None,
    json: Json = False,
) -> None:
    """Let a model add the same problems in several number formats, and say what is wrong with wrong sums."""
    from tokenry.core.files import require_output_file, write_json
    from tokenry.runs.arithmetic import evaluate_arithmetic_of

    require_output_file(output)
    with progress() as report:
        result = evaluate_arithmetic_of(
            model,
            report,
            formats=format or ("nosep", "comma_r2l"),
            answer_format=answer_format,
            repeat_format=repeat_format,
            signatures=signature or (),
            per_signature=per_signature,
            shots=shots,
            group=group,
            spaces=spaces,
            trailing_spaces=trailing_spaces,
            system=system or None,
            chat=chat,
            retokenize=retokenize,
            batch_size=batch_size,
            dtype=dtype,
            seed=seed,
        )
    if output:
        write_json(output, result)
        note(f"written: {output}")
    if json:
        print_json(result)
        return
    print_table(
        f"{model}: additions, {shots} shots; it cuts numbers as {'|'.join(result['digits'])}",
        ("format", "sum", "accuracy", "± s.e.", "as asked", "one number", "n"),
        (_row(row, row["format"], row["length"]) for row in result["by_length"]),
    )
    print_table(
        "by digits of the addends and the sum",
        ("digits", "format", "accuracy", "± s.e.", "as asked", "one number", "n"),
        (_row(row, row["signature"], row["format"]) for row in result["by_signature"]),
    )
    for name, patterns in result["patterns"].items():
        if patterns:
            print_table(
                f"{name}: what is wrong with wrong sums (95 % bootstrap intervals)",
                ("pattern", "share", "interval", "by chance", "n"),
                (_pattern_row(pattern) for pattern in patterns if pattern["count"]),
            )


def _row(row: dict[str, Any], *names: str) -> tuple[str, ...]:
    error = row["standard_error"]
    return (
        *names,
        f"{row['accuracy']:.1%}",
        "–" if error is None else f"{error:.1%}",
        f"{row['formatted']:.1%}",
        f"{row['valid']:.1%}",
        str(row["problems"]),
    )


def _pattern_row(pattern: dict[str, Any]) -> tuple[str, ...]:
    chance = pattern["chance"]
    return (
        pattern["pattern"],
        f"{pattern['share']:.1%}",
        f"{pattern['low']:.1%} to {pattern['high']:.1%}",
        "–" if chance is None else f"{chance:.1%}",
        str(pattern["of"]),
    )
