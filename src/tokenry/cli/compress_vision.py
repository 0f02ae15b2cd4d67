"""`tokenry compress vision`: carry fewer tokens through an image encoder, on own images, beside the unpatched model."""

from pathlib import Path
from typing import Annotated

import typer

from tokenry.cli.console import Json, note, print_json, progress, show


def vision(
    model: Annotated[str, typer.Option(help="A folder, or a hub name: ViT, DeiT, DINOv2, CLIP, SigLIP.")],
    images: Annotated[Path, typer.Option(help="A folder of images (folders in it too).")],
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="tome, pitome (default), diffrate, zero-tprune, random, norm, class-attention, or NAME:option=value,… Can be repeated."
        ),
    ] = None,
    ratio: Annotated[float | None, typer.Option(help="Share of its tokens that each layer keeps.")] = None,
    r: Annotated[
        str | None, typer.Option("--r", help="Tokens that each layer removes: 13, or 16,16,8,… per layer.")
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="DiffRate: a JSON file, or a published schedule such as deit-small@2.9."),
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="All methods side by side, from 80 to 35 % of the FLOPs.")
    ] = False,
    labels: Annotated[
        Path | None, typer.Option(help="A CSV file, file,label: accuracy is measured too.")
    ] = None,
    every_layer: Annotated[
        bool, typer.Option("--every-layer", help="Draw the tokens after every layer, not only the last.")
    ] = False,
    pictures: Annotated[int, typer.Option(help="How many images to draw.")] = 8,
    limit: Annotated[
        int | None, typer.Option(help="Most images to look at, taken at equal distances.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images per forward (default: 8 on a CPU, 64 on an accelerator).")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds of the timing (default: 5; in a sweep 3).")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16 (default: what the hardware has).")
    ] = None,
    restore_length: Annotated[
        bool | None,
        typer.Option(help="Give the head all tokens again (default: where it reads patch tokens)."),
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="0.5,0.5,0.5: with --std, where the model has no image processor.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Of the colours, as --mean.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for result.json and report.html.")] = Path(
        "runs/compress-vision"
    ),
    json: Json = False,
) -> None:
    """Carry fewer tokens through an image encoder, and see on your own images what is kept, saved and lost."""
    from tokenry.core.files import atomic_write
    from tokenry.report.vision_page import render_vision
    from tokenry.report.vision_table import vision_table
    from tokenry.runs.vision.run import compress_vision
    from tokenry.runs.vision.settings import VisionPlan

    plan = VisionPlan(
        model=model,
        images=images,
        methods=tuple(method or ()),
        r=r,
        ratio=ratio,
        schedule=schedule,
        labels=labels,
        sweep=sweep,
        every_layer=every_layer,
        pictures=pictures,
        limit=limit,
        batch_size=batch_size,
        rounds=rounds,
        dtype=dtype,
        restore_length=restore_length,
        mean=mean,
        std=std,
    )
    with progress() as report:
        record = compress_vision(plan, output, report)
    page = output / "report.html"
    with atomic_write(page) as partial:
        partial.write_text(render_vision(record), encoding="utf-8")
    if json:
        print_json(record.model_dump(mode="json", exclude={"pictures"}))
    else:
        show(vision_table(record))
    note(f"written: {output / 'result.json'} and {page}")
