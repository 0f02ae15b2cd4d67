"""Images from a generator that `images train` has trained, and how far they are from real ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import atomic_write, read_json, require_folder_name
from tokenry.core.io.progress import Progress, part
from tokenry.core.plans import argument, embedded, option, plan_settings
from tokenry.report.blocks import Block, Column, Patches, Section, Table, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._estimates import interval_cell
from tokenry.verbs._hardware import Hardware
from tokenry.verbs.images.train import SOURCE_FILE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tokenry.generation import NextXModel, Partition
    from tokenry.generation.xar.latents import Coder, LatentRows, LatentSource

_FILLED, _PANELS, _SHOWN, _SIDE, _POOLED = 3, 6, 64, 256, 256


@dataclass(frozen=True)
class Plan:
    """Sample images from a trained generator: entity after entity, each by a flow from noise.

    Attributes:
        run: folder of `images train`, or of its model.
        images: number of images, evenly over the classes.
        classes: names of the classes to sample; by default all.
        steps: flow steps of an entity.
        solver: sde, as the paper's code, or ode.
        guidance: weight of the class at the last entity; 1 for none.
        unit: what is generated at once, where the model was trained on several; by default the first.
        reference: images, which are prepared as those of the training were, or latents: how far the samples are from them.
        features: an image encoder whose features the distance is measured in, a folder or hub name; by default the latents, averaged.
        batch_size: images at once.
        seed: of the first image; each has its own.
        output: folder for samples.safetensors, the images, result.json and report.html.
    """

    run: Path = argument()
    images: int = 64
    classes: tuple[str, ...] = option((), flag="--class", metavar="CLASS")
    steps: int = 25
    solver: Literal["sde", "ode"] = "sde"
    guidance: float = 2.7
    unit: str | None = None
    reference: Path | None = None
    features: str | None = None
    batch_size: int = 64
    seed: int = 0
    hardware: Hardware = embedded(Hardware(), only=("device",))
    output: Path = Path("runs/images-sample")

    def __post_init__(self) -> None:
        require_at_least(1, images=self.images, steps=self.steps, batch_size=self.batch_size)
        require_at_least(0, guidance=self.guidance, seed=self.seed)
        if self.features is not None and self.reference is None:
            raise UserError("features measure a distance: name what it is the distance to (--reference).")
        require_folder_name(self.output, "the images")


def run(plan: Plan, progress: Progress) -> Result:
    """Sample, decode, measure, save.

    Raises:
        UserError: no model in the folder, a class or a unit that it does not know, or a reference of another shape.
    """
    from tokenry.generation import NextXSamplingConfig, generate_next_x
    from tokenry.generation.xar.latents import Coder
    from tokenry.verbs._environment import environment

    device = plan.hardware.place()
    progress("reading the model", 0.0)
    model, source = _load(plan.run)
    partition = _partition(plan, model)
    reference = None if plan.reference is None else _reference(plan, model, source)
    labels = _labels(plan, source.classes)
    coder = Coder(source.vae, device)
    latents = generate_next_x(
        model.to(device),
        labels,
        NextXSamplingConfig(plan.steps, plan.solver, plan.guidance),
        partition,
        plan.seed,
        plan.batch_size,
        progress=part(progress, 0.05, 0.85),
    ).cpu()
    progress("decoding", 0.85)
    pixels = coder.decode(latents, source)
    progress("measuring", 0.9)
    distance = None if reference is None else _distance(plan, latents, pixels, reference, coder, device)
    _save(plan, latents, labels, pixels, source)
    data = {
        "kind": "images sample",
        "model": str(plan.run),
        "unit": partition.name,
        "entities": partition.entities,
        "calls": partition.entities * plan.steps,
        "images": len(latents),
        "classes": sorted({source.classes[int(label)] for label in labels}),
        "distance": distance,
        "std": float(latents.std()),
        "pictures": _pictures(partition, labels, pixels, source),
        "settings": plan_settings(plan),
        "environment": environment(device),
    }
    return Result(f"Samples of {plan.run.name}", data, lay_out(data))


def _load(folder: Path) -> "tuple[NextXModel, LatentSource]":
    from tokenry.generation import NextXModel
    from tokenry.generation.xar.latents import LatentSource

    inside = folder / "model" if (folder / "model").is_dir() else folder
    if not (inside / SOURCE_FILE).is_file():
        raise UserError(f"{folder} holds no model of `tokenry images train`: name the folder it wrote.")
    source = LatentSource.read(read_json(inside / SOURCE_FILE))
    return NextXModel.from_pretrained(inside, local_files_only=True), source


def _partition(plan: Plan, model: "NextXModel") -> "Partition":
    known = {partition.name: partition for partition in model.partitions}
    if plan.unit is None:
        return model.partitions[0]
    if plan.unit not in known:
        raise UserError(f"the model was trained on {', '.join(known)}, not on {plan.unit!r}.")
    return known[plan.unit]


def _labels(plan: Plan, classes: tuple[str, ...]) -> "Tensor":
    import torch

    if unknown := [name for name in plan.classes if name not in classes]:
        raise UserError(f"the model knows the classes {', '.join(classes[:10])}, not {unknown[0]!r}.")
    chosen = [classes.index(name) for name in plan.classes] or list(range(len(classes)))
    return torch.tensor([chosen[number % len(chosen)] for number in range(plan.images)])


def _reference(plan: Plan, model: "NextXModel", source: "LatentSource") -> "LatentRows":
    """The latents of the reference, made as those of the training were."""
    import torch

    from tokenry.generation.xar.latents import read_latents

    assert plan.reference is not None
    config = model.config
    encoded = plan.reference.is_file() or any(plan.reference.glob("*.safetensors"))
    rows = read_latents(
        plan.reference,
        plan.output / "reference",
        None if encoded or source.vae is None else Path(source.vae),
        source.crop,
        source.scale,
        torch.device("cpu"),
        lambda what, share: None,
    )
    if rows.shape != (config.channels, config.height, config.width):
        raise UserError(
            f"the reference has latents of {' × '.join(map(str, rows.shape))}, and the model makes {config.channels} × {config.height} × "
            f"{config.width}: prepare it as the images it was trained on."
        )
    return rows


def _distance(
    plan: Plan,
    latents: "Tensor",
    pixels: "Tensor",
    reference: "LatentRows",
    coder: "Coder",
    device: "torch.device",
) -> dict[str, Any]:
    """The Fréchet distance of the samples, with all that it depends on."""
    import torch

    from tokenry.core.stats import FrechetStats, frechet_estimate

    features, known = _features(plan, device), FrechetStats()
    for start in range(0, len(reference), plan.batch_size):
        rows = reference.latents(range(start, min(start + plan.batch_size, len(reference))))
        known.update(features(rows, coder.decode(rows, reference.source) if plan.features else rows))
    size = plan.batch_size
    made = [features(*parts) for parts in zip(latents.split(size), pixels.split(size), strict=True)]
    estimate = frechet_estimate(torch.cat(made), known, seed=plan.seed)
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "reference": str(plan.reference),
        "reference_images": known.samples,
        "preparation": f"{reference.source.preparation}; grid of {' × '.join(map(str, reference.shape[1:]))}",
        "features": plan.features or "latents, averaged",
        "dimensions": len(known.mean),
    }


def _features(plan: Plan, device: "torch.device") -> "Callable[[Tensor, Tensor], Tensor]":
    """What is compared, of latents and pixels: an encoder's features of the images, or the latents in coarse cells."""
    if plan.features is None:
        return lambda latents, pixels: _coarse(latents).flatten(1)
    import torch
    from PIL import Image

    from tokenry.models.image_encoders import load_image_encoder
    from tokenry.verbs.images._pictures import visible

    encoder = load_image_encoder(plan.features)
    encoder.model.to(device)

    def features(latents: "Tensor", pixels: "Tensor") -> "Tensor":
        with torch.no_grad():
            images = [Image.fromarray(image.numpy()) for image in visible(pixels)]
            return encoder(encoder.pixels(images)).float().cpu()

    return features


def _coarse(latents: "Tensor") -> "Tensor":
    """Averages over cells, such that all channels together are at most 256 numbers."""
    from torch.nn.functional import adaptive_avg_pool2d

    channels, height, width = latents.shape[1:]
    side = max(1, int((_POOLED / channels) ** 0.5))
    return adaptive_avg_pool2d(latents, (min(side, height), min(side, width)))


def _save(plan: Plan, latents: "Tensor", labels: "Tensor", pixels: "Tensor", source: "LatentSource") -> None:
    import json
    from dataclasses import asdict

    from PIL import Image
    from safetensors.torch import save_file

    from tokenry.verbs.images._pictures import visible

    with atomic_write(plan.output / "samples.safetensors") as partial:
        save_file(
            {"latents": latents.contiguous(), "labels": labels},
            partial,
            {"source": json.dumps(asdict(source))},
        )
    if source.kind == "latents":
        return
    for number, image in enumerate(visible(pixels)):
        with atomic_write(plan.output / "images" / f"{number:05d}.png") as partial:
            Image.fromarray(image.numpy()).save(partial, "PNG")


def _pictures(
    partition: "Partition", labels: "Tensor", pixels: "Tensor", source: "LatentSource"
) -> dict[str, Any]:
    """All samples in one picture, and for a few of them which tokens are there after which entity."""
    from tokenry.verbs.images._pictures import encoded, enlarged, montage, visible

    shown = visible(pixels)
    columns = min(8, len(shown[:_SHOWN]))
    last = partition.entities - 1
    drawn = sorted({round(number * last / _PANELS) for number in range(_PANELS)} - {last})
    return {
        "samples": encoded(enlarged(montage(shown[:_SHOWN], columns), 2 * _SIDE)),
        "columns": columns,
        "rows": -(-len(shown[:_SHOWN]) // columns),
        "grid": [partition.height, partition.width],
        "filled": [
            {
                "class": source.classes[int(labels[number])],
                "image": encoded(enlarged(shown[number], _SIDE)),
                "panels": [[entity + 1, _there(partition, entity)] for entity in drawn],
            }
            for number in range(min(_FILLED, len(shown)))
        ],
    }


def _there(partition: "Partition", entity: int) -> list[int]:
    """Of each token of the grid its place if it has been generated, else −1; the coarse scales of a pyramid count when the grid is there."""
    grid = partition.height * partition.width
    there = set(partition.places[: partition.starts[entity + 1]])
    return [place if place in there else -1 for place in range(grid)]


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """The samples, their distance, and how they were filled."""
    settings, distance, pictures = data["settings"], data["distance"], data["pictures"]
    lead = (
        f"{plural(data['images'], 'image')} of {plural(len(data['classes']), 'class', 'classes')}, each in {plural(data['entities'], 'unit')} ({data['unit']}) of "
        f"{plural(settings['steps'], 'flow step')} by the {settings['solver'].upper()}, guidance {settings['guidance']:g}: "
        f"{plural(data['calls'], 'call')} of the network."
    )
    blocks: list[Block] = [Text(lead, "lead")]
    if distance is not None:
        blocks.append(_distance_table(data, distance))
    rows, columns = pictures["rows"], pictures["columns"]
    blocks.append(
        Patches(
            f"the first {rows * columns} samples" if data["images"] > rows * columns else "all samples",
            pictures["samples"],
            rows,
            columns,
            [],
        )
    )
    height, width = pictures["grid"]
    filled = [
        Patches(
            f"class {picture['class']}",
            picture["image"],
            height,
            width,
            [(f"after unit {number} of {data['entities']}", places) for number, places in picture["panels"]],
        )
        for picture in pictures["filled"]
    ]
    blocks.append(Section("the grid as it is filled", filled))
    return blocks


def _distance_table(data: Mapping[str, Any], distance: Mapping[str, Any]) -> Table:
    prepared = f" ({distance['preparation']})" if "preparation" in distance else ""
    return Table(
        "Fréchet distance to real images",
        ("features", Column("dimensions"), Column("distance", "95 % interval", ".3g")),
        [
            (
                distance["features"],
                distance["dimensions"],
                interval_cell(distance["value"], distance["low"], distance["high"], style=".3g"),
            )
        ],
        notes=[
            f"{data['images']:,} samples beside {distance['reference_images']:,} images of {distance['reference']}"
            f"{prepared}. The distance of few samples is biased upward: compare those of equal numbers, of the same reference and features."
        ],
    )
