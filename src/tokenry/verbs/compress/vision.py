"""Fewer tokens through an image encoder, on a user's own images, beside the unpatched model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.plans import option, plan_settings
from tokenry.core.stats import Estimate
from tokenry.report.blocks import (
    Block,
    Cell,
    Column,
    Figure,
    Findings,
    Patches,
    Section,
    Series,
    Table,
    Text,
    Value,
)
from tokenry.report.result import Result
from tokenry.report.writing import plural, setting_pairs
from tokenry.verbs._hardware import Hardware

if TYPE_CHECKING:
    from tokenry.verbs.compress._vision.records import Panel, Picture, Reduced, Unpatched, VisionRun

    _Measured = Sequence[tuple[Column, Sequence[Value | Cell]]]

UNPATCHED = "unpatched"


@dataclass(frozen=True)
class Plan:
    """Carry fewer tokens through an image encoder, and see on your own images what is kept, saved and lost.

    Attributes:
        model: a folder, or a hub name: ViT, DeiT, DINOv2, CLIP, SigLIP.
        images: a folder of images; folders inside it count too.
        methods: reduction method: tome, pitome (default), diffrate, zero-tprune, random, norm, class-attention, or NAME:option=value,…; can be repeated.
        ratio: share of its tokens that each layer keeps.
        r: tokens that each layer removes: 13, or 16,16,8,… per layer.
        schedule: DiffRate's schedule, a JSON file or a published one such as deit-small@2.9.
        sweep: all methods side by side, from 80 to 35 % of the FLOPs.
        labels: CSV file with the columns file and label; accuracy is measured too.
        every_layer: draw the tokens after every layer, not only the last.
        pictures: number of images to draw.
        limit: maximum number of images to look at, taken at equal distances.
        batch_size: images per forward pass; by default 8 on a CPU, 64 on an accelerator.
        rounds: rounds of the timing; by default 5, in a sweep 3.
        restore_length: give the head all tokens again; by default where it reads patch tokens.
        mean: mean of the colours, such as 0.5,0.5,0.5; with --std, for a model without image processor.
        std: standard deviation of the colours, as --mean.
        output: folder for result.json and report.html, or a .json or .html file.
    """

    model: str
    images: Path
    methods: tuple[str, ...] = option((), flag="--method", metavar="NAME")
    ratio: float | None = None
    r: str | None = None
    schedule: str | None = None
    sweep: bool = False
    labels: Path | None = None
    every_layer: bool = False
    pictures: int = 8
    limit: int | None = None
    batch_size: int | None = None
    rounds: int | None = None
    hardware: Hardware = Hardware()
    restore_length: bool | None = None
    mean: str | None = None
    std: str | None = None
    output: Path | None = Path("runs/compress-vision")

    def __post_init__(self) -> None:
        require_at_least(1, batch_size=self.batch_size, limit=self.limit)
        require_at_least(2, rounds=self.rounds)
        require_at_least(0, pictures=self.pictures)

    @property
    def timed_rounds(self) -> int:
        """Rounds of the timing."""
        return self.rounds or (3 if self.sweep else 5)


def run(plan: Plan, progress: Progress) -> Result:
    """Measure the model with every setting; whatever can be checked without the model is checked before it is loaded."""
    import datetime

    import torch

    from tokenry.core.io.images import find_images, pick_readable
    from tokenry.models import preferred_dtype
    from tokenry.models.image_encoders import load_image_encoder
    from tokenry.verbs._environment import environment
    from tokenry.verbs.compress._vision.bench import VisionBench
    from tokenry.verbs.compress._vision.findings import sweep_findings
    from tokenry.verbs.compress._vision.labels import match_labels, read_label_rows
    from tokenry.verbs.compress._vision.records import VisionRun
    from tokenry.verbs.compress._vision.settings import check_methods, parse_colours

    check_methods(plan)
    mean, std = parse_colours(plan.mean, "mean"), parse_colours(plan.std, "std")
    notes: list[str] = []
    known = find_images(plan.images)
    files = pick_readable(known, plan.limit, notes.append)
    if plan.sweep and len(pick_readable(files, 2, note=lambda words: None)) < 2:
        raise UserError("a sweep compares how often the model says the same: give at least two images.")
    rows = None if plan.labels is None else read_label_rows(plan.labels)
    device = plan.hardware.place()
    progress("reading the model", 0.0)
    # Random reductions draw from torch's generator: a run can be repeated, and leaves the caller's draws unchanged.
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        dtype = plan.hardware.dtype or preferred_dtype(device)
        encoder = load_image_encoder(plan.model, dtype, mean=mean, std=std)
        encoder.model.to(device)
        labels: Sequence[int | None] = [None] * len(files)
        if rows:
            labels = match_labels(rows, files, known, encoder.classes, notes.append)
        bench = VisionBench(plan, encoder, files, labels, notes.append, progress)
        unpatched, results, pictures = bench.measure()
    decided = {
        "device": str(device),
        "dtype": str(encoder.model.dtype).removeprefix("torch."),
        "batch_size": bench.batch_size,
        "restore_length": bench.restore_length,
        "rounds": plan.timed_rounds,
    }
    measured = VisionRun(
        model=plan.model,
        images=str(plan.images),
        number_of_images=bench.images_seen,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        agreement_of=bench.agreement_of,
        swept=plan.sweep,
        settings=plan_settings(plan) | decided,
        environment=environment(device),
        notes=notes,
        unpatched=unpatched,
        results=results,
        findings=(
            sweep_findings(results, unpatched.flops, bench.agreement_of)
            if plan.sweep
            else [(variant.name, variant.finding) for variant in results]
        ),
        pictures=pictures,
    )
    data = {"kind": "compress vision", **asdict(measured)}
    return Result(f"{plan.model} on {plan.images}", data, lay_out(data), only_saved=("pictures",))


# --- layout --------------------------------------------------------------------------------------------------------------------------


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay a run out: its outcome, its cost, and the tokens left of each image."""
    from tokenry.verbs.compress._vision.records import read_run

    run = read_run(data)
    beside = "All methods at the same FLOPs" if run.swept else "Each setting"
    lead = (
        f"{plural(run.number_of_images, 'image')}, {run.unpatched.tokens:,} tokens each, {run.created[:10]}. {beside} beside the "
        "unpatched model, timed by turns."
    )
    blocks: list[Block] = [
        Text(lead, "lead"),
        Findings(run.findings),
        *(Text(note, "warning") for note in run.notes),
    ]
    if run.swept:
        blocks.append(Section("What is left at which cost", [Text(_TRADE_OFF), *_trade_offs(run)]))
    blocks.append(Section("Every setting", _settings(run)))
    if run.pictures:
        blocks.append(Section("Which tokens are left", [Text(_PICTURES), *map(_picture, run.pictures)]))
    return blocks


_TRADE_OFF = (
    "Every line starts at the unpatched model: once against the multiply-adds of the layers, once against the time measured on this "
    "machine in the same run, where methods that cost time themselves fall back. Bars are standard errors over the images. DiffRate "
    "runs a uniform schedule, not a searched one."
)
_MEASURES = (
    "A value ± its standard error over the images. Speed-up is the median over the rounds, with its quartiles; images per second are "
    "those of wall time. FLOPs are multiply-adds of the layers for one image; peak memory is what one forward pass needs beyond the "
    "weights; reducing is the part of the time that choosing, merging and dropping tokens takes."
)
_PICTURES = (
    "As the model sees the images. A patch that is a token by itself shows the image, merged patches have one outline and their mean "
    "colour, dropped patches are faded. Point at a token to see all its patches, wherever they are."
)
_AGREEMENT = {"top-1": Column("same class", "%"), "features": Column("cosine", "of features")}


def _settings(run: "VisionRun") -> list[Block]:
    dense = run.unpatched
    blocks: list[Block] = [Text(_MEASURES)]
    variants: list[Unpatched | Reduced] = [dense, *run.results]
    outcome: _Measured = [
        (Column("FLOPs", "%"), [variant.flops / dense.flops for variant in variants]),
        (Column("speed-up", "× wall time", ".2f"), [1.0, *map(_speedup, run.results)]),
        (Column("speed-up", "× CPU time", ".2f"), [1.0, *(variant.cpu_speedup for variant in run.results)]),
        (_AGREEMENT[run.agreement_of], [None, *(variant.agreement for variant in run.results)]),
        (Column("accuracy", "%"), [variant.accuracy for variant in variants]),
        (Column("change", "points", "+.1f"), [None, *map(_change, run.results)]),
    ]
    cost: _Measured = [
        (Column("tokens", "in"), [dense.tokens, *(variant.token_counts[0] for variant in run.results)]),
        (Column("tokens", "out"), [dense.tokens, *(variant.token_counts[-1] for variant in run.results)]),
        (Column("FLOPs", "G", ".3g"), [variant.flops / 1e9 for variant in variants]),
        (
            Column("images", "per second", ",.1f"),
            [variant.speed.images_per_second for variant in variants],
        ),
        (
            Column("images", "per CPU s", ",.1f"),
            [variant.speed.images_per_cpu_second for variant in variants],
        ),
        (Column("memory", "peak, MB", ",.1f"), [variant.speed.peak_memory_mb for variant in variants]),
        (Column("reducing", "%"), [None, *(variant.reduction_share for variant in run.results)]),
    ]
    blocks += [_table(run, "Outcome", outcome), _table(run, "Cost", cost, folded=run.swept)]
    blocks += [] if run.swept or not run.results else [_token_counts(run)]
    options = [
        (variant.name, ", ".join(f"{name} {value}" for name, value in setting_pairs(variant.options)))
        for variant in run.results
    ]
    return [*blocks, Table("Options of every setting", ("setting", "options"), options, folded=True)]


def _table(
    run: "VisionRun",
    title: str,
    columns: "_Measured",
    folded: bool = False,
) -> Table:
    """Rows of settings, the unpatched model first; a measure that the run does not have is left out."""
    measured = [(column, cells) for column, cells in columns if any(cell is not None for cell in cells)]
    names = [UNPATCHED, *(variant.name for variant in run.results)]
    rows = zip(names, *(cells for _, cells in measured), strict=True)
    return Table(title, ("setting", *(column for column, _ in measured)), list(rows), folded=folded)


def _speedup(setting: "Reduced") -> Cell:
    return Cell(setting.speedup.median, f"{setting.speedup.lower:.2f} to {setting.speedup.upper:.2f}")


def _change(setting: "Reduced") -> Estimate | None:
    return None if setting.accuracy_change is None else setting.accuracy_change.scaled(100)


def _token_counts(run: "VisionRun") -> Figure:
    layers = list(range(len(run.results[0].token_counts)))
    dense = Series(UNPATCHED, layers, [run.unpatched.tokens] * len(layers))
    series = [Series(variant.name, layers, variant.token_counts) for variant in run.results]
    summary = "; ".join(
        f"{variant.name}: {variant.token_counts[0]} to {variant.token_counts[-1]}" for variant in run.results
    )
    return Figure(
        "Tokens after each layer", "lines", [dense, *series], "layer", "tokens", f"tokens: {summary}"
    )


def _trade_offs(run: "VisionRun") -> list[Figure]:
    """What is left of accuracy and agreement against the FLOPs saved and against the measured speed-up, a line per method."""
    dense = run.unpatched
    # From many FLOPs to few: measured speed may go to and fro, and the line shows it.
    variants = sorted(run.results, key=lambda variant: -variant.flops)
    agreement = {
        "top-1": ("same class as unpatched", "same class, %", 100.0),
        "features": ("cosine to the unpatched features", "cosine", 1.0),
    }[run.agreement_of]
    measures = [
        ("accuracy", "accuracy, %", 100.0, dense.accuracy, [variant.accuracy for variant in variants]),
        (*agreement, None, [variant.agreement for variant in variants]),
    ]
    axes = [
        ("FLOPs saved, %", 0.0, [100 * (1 - variant.flops / dense.flops) for variant in variants]),
        ("times as fast, measured", 1.0, [variant.speedup.median for variant in variants]),
    ]
    figures = []
    for what, unit, factor, unpatched, measured in measures:
        for axis, origin, places in axes:
            start = (origin, Estimate(unpatched.value if unpatched else 1.0, 0.0, 1))
            lines = [
                _line(method, [start, *points], factor)
                for method in dict.fromkeys(variant.method for variant in run.results)
                if (
                    points := [
                        (place, estimate)
                        for variant, place, estimate in zip(variants, places, measured, strict=True)
                        if variant.method == method and estimate is not None
                    ]
                )
            ]
            if lines:
                figures.append(Figure(f"{what} by {axis.partition(',')[0]}", "lines", lines, axis, unit))
    return figures


def _line(method: str, points: Sequence[tuple[float, Estimate]], factor: float) -> Series:
    estimates = [estimate.scaled(factor) for _, estimate in points]
    return Series(
        method,
        [place for place, _ in points],
        [estimate.value for estimate in estimates],
        [estimate.value - estimate.standard_error for estimate in estimates],
        [estimate.value + estimate.standard_error for estimate in estimates],
    )


def _picture(picture: "Picture") -> Patches:
    several = len({panel.setting for panel in picture.panels}) > 1
    by_layer = len({panel.layer for panel in picture.panels}) > 1

    def caption(panel: "Panel") -> str:
        if not by_layer:
            return panel.setting
        layer = f"after layer {panel.layer}"
        return f"{panel.setting}, {layer}" if several else layer

    panels = [(caption(panel), panel.places) for panel in picture.panels]
    return Patches(picture.title, picture.image, picture.rows, picture.columns, panels)
