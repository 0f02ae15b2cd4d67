"""`tokenry compress plan [SCORES]`: how large a model and how many visual tokens, for a budget of FLOPs per query."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tokenry.cli.console import Json, deliver, print_table, show
from tokenry.core.errors import UserError


def plan(
    scores: Annotated[
        Path | None,
        typer.Argument(
            help="CSV or JSON with size (billions of parameters), tokens and score (0 to 1); the paper's if left out."
        ),
    ] = None,
    table: Annotated[
        Literal["reasoning", "ocr"] | None,
        typer.Option(help="The paper's table to fit instead of a file (default: reasoning)."),
    ] = None,
    budget: Annotated[
        list[float] | None, typer.Option(help="FLOPs per query, such as 2e12; several are allowed.")
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(help="Models to choose from, billions of parameters: 0.5,7,14 (default: the table's)."),
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(help="Visual tokens to choose from: 1,16,576 (default: the table's).")
    ] = None,
    text_tokens: Annotated[int, typer.Option(help="Prompt tokens that no cache holds.")] = 0,
    decode_tokens: Annotated[int, typer.Option(help="Tokens of the answer; the paper counts none.")] = 0,
    fix_d: Annotated[
        float | None, typer.Option(help="Hold the irreducible error D here instead of fitting it.")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Samples behind the intervals; 0 for none.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")] = None,
    json: Json = False,
) -> None:
    """Fit the scaling law of a table of scores and choose model size and visual tokens under each budget."""
    from tokenry.compression.vision.vlm_scaling import published_scores
    from tokenry.core.files import require_output_file
    from tokenry.runs.compression_plan import plan_compression, read_scores

    if scores is not None and table is not None:
        raise UserError(f"give a file of scores or --table, not both: got {scores} and --table {table}.")
    require_output_file(output)
    result = plan_compression(
        published_scores(table or "reasoning") if scores is None else read_scores(scores),
        budgets=budget or [1e10, 1e11, 1e12, 1e13],
        sizes=_numbers(sizes, "--sizes", float),
        tokens=_numbers(tokens, "--tokens", int),
        text_tokens=text_tokens,
        decode_tokens=decode_tokens,
        fix_d=fix_d,
        bootstrap=bootstrap,
        seed=seed,
    )
    result["scores"] = str(scores) if scores else f"paper: {table or 'reasoning'}"
    if deliver(result, output, json):
        return
    _show(result)
    for warning in result["warnings"]:
        show(f"Mind: {warning}")


def _show(result: dict[str, Any]) -> None:
    print_table(
        f"error = A / N^alpha / V^beta + D, {result['points']} points of {result['scores']}, RMSE {result['rmse']:.4f}",
        ("constant", "value", "95 % interval"),
        (
            (each["name"].replace("_", " / ", 1).replace("_", " "), _figure(each["value"]), _interval(each))
            for each in result["constants"]
        ),
    )
    free = result["tokens_at_any_size"]
    print_table(
        f"best choice with {result['text_tokens']} text and {result['decode_tokens']} answer tokens; "
        f"if any size could be had: {'as many visual tokens as there are' if free is None else f'{free:.3g} visual tokens'}",
        ("budget, FLOPs", "model", "visual tokens", "error", "FLOPs"),
        (_choice(each) for each in result["choices"]),
    )


def _choice(each: dict[str, Any]) -> tuple[str, ...]:
    best = each["best"]
    if best is None:
        return (f"{each['budget_flops']:.3g}", "nothing fits", "–", "–", "–")
    return (
        f"{each['budget_flops']:.3g}",
        f"{best['n_billion']:g}B",
        str(best["visual_tokens"]),
        f"{best['error']:.4f}",
        f"{best['flops']:.3g}",
    )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _interval(each: dict[str, Any]) -> str:
    return "–" if each["low"] is None else f"{each['low']:.3g} to {each['high']:.3g}"


def _numbers(listed: str | None, option: str, kind: type) -> list[Any]:
    try:
        return [kind(each) for each in listed.split(",")] if listed is not None else []
    except ValueError as error:
        raise UserError(
            f"{option} takes numbers separated by commas, such as 1,4,16, got {listed!r}."
        ) from error
