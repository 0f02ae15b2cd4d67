"""A generator of images trained on the unit that you choose: cells, scales, subsamples, or everything at once."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import UserError, require_at_least, require_fraction
from tokenry.core.io.files import new_folder, require_new, write_json
from tokenry.core.io.progress import Progress
from tokenry.core.io.ranks import by_first
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Column, Section, Table, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._course_of_training import course_figures, course_table
from tokenry.verbs._step_training import StepTraining

if TYPE_CHECKING:
    from torch.utils.data import Subset
    from transformers import Trainer, TrainerCallback

    from tokenry.generation import NextXModel
    from tokenry.generation.xar.latents import LatentRows

SOURCE_FILE = "latents.json"
"""Beside the weights: what the latents are latents of."""

_COURSE = {"loss": Column("loss", "", ".4f"), "seconds_per_step": Column("a step", "s", ".3g")}


@dataclass(frozen=True, kw_only=True)
class Plan(StepTraining):
    """Train xAR on images or their latents: each unit is predicted at once, from noisy units before it; a stopped run can be resumed.

    Attributes:
        data: a folder of images, one folder inside for each class; or latents, .safetensors with `latents` (n, channels, height, width) and `labels`.
        cell: side of the cells that are predicted at once, in latents.
        units: other units than cells, such as scale:1,2,4,8, subsample:2, patch or image; of several, each batch draws one.
        size: of the network: tiny, or the paper's B, L, H.
        vae: folder of an autoencoder of diffusers that makes the latents; without it pixels are generated.
        crop: cut and resize images to squares of this side.
        scale: what latents are multiplied by, so that their standard deviation is about 1; by default as the autoencoder says.
        batch_size: images of a step in each process.
        batches_per_step: batches whose gradients are accumulated.
        learning_rate: highest learning rate; it rises for an eighth of the steps and falls in the last quarter, as the paper's.
        weight_decay: weight decay of matrices.
        dropout: dropout in the blocks.
        label_dropout: share of the images whose class is withheld, which guidance needs.
        average: decay of the moving average of the weights, which is what is saved.
        held_out: share of the images that measure the loss.
        bfloat16: compute in mixed precision; norms and the residual stay in float32.
        output: new folder for the model, the latents, result.json and report.html.
    """

    data: Path = argument()
    cell: int = 4
    units: tuple[str, ...] = option((), flag="--unit", metavar="UNIT")
    size: Literal["tiny", "B", "L", "H"] = "tiny"
    vae: Path | None = None
    crop: int | None = None
    scale: float | None = None
    steps: int = 10_000
    batch_size: int = 64
    batches_per_step: int = 1
    learning_rate: float = 4e-4
    weight_decay: float = 0.02
    dropout: float = 0.1
    label_dropout: float = 0.1
    average: float = 0.999
    bfloat16: bool = False
    save_every: int = 1000
    output: Path = Path("runs/images")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(1, cell=self.cell, crop=self.crop, batches_per_step=self.batches_per_step)
        require_at_least(0, weight_decay=self.weight_decay)
        for name in ("dropout", "label_dropout"):
            require_fraction(getattr(self, name), name)
        if self.scale is not None and not self.scale > 0:
            raise UserError(f"scale must be above 0, got {self.scale}.")
        if not 0.0 <= self.average < 1.0:
            raise UserError(f"average must be in [0, 1), got {self.average}: 0 saves the last weights.")

    @property
    def predicted(self) -> tuple[str, ...]:
        """The units that are predicted at once."""
        return self.units or (f"cell:{self.cell}",)


def run(plan: Plan, progress: Progress) -> Result:
    """Encode, train or resume, measure, save.

    Raises:
        UserError: latents or images that cannot be used, a unit that does not fit the grid, or a checkpoint of another run.
    """
    from tokenry.generation.xar.latents import read_latents
    from tokenry.verbs._environment import environment

    require_new(plan.output / "model")
    device = plan.hardware.place()
    progress("reading images", 0.0)
    rows = _first(read_latents)(
        plan.data, plan.output / "latents", plan.vae, plan.crop, plan.scale, device, progress
    )
    found = _trained(plan, rows, progress)
    data = {
        "kind": "images train",
        "data": str(plan.data),
        "source": asdict(rows.source),
        "grid": list(rows.shape),
        **found,
        "settings": plan_settings(plan),
        "environment": environment(device),
    }
    return Result(f"xAR trained on {plan.data.name}", data, lay_out(data))


def _first(read: Any) -> Any:
    """Let the first process encode; the others then find what it wrote."""

    def reading(*arguments: Any) -> Any:
        by_first(lambda: read(*arguments) and None)()
        return read(*arguments)

    return reading


def _trained(plan: Plan, rows: "LatentRows", progress: Progress) -> dict[str, Any]:
    from tokenry.core.tensors.ema import WeightAverage
    from tokenry.generation import Partition
    from tokenry.verbs._stages import Stages
    from tokenry.verbs._training import StepClock, logged_points, remove_checkpoints, take_steps

    for unit in plan.predicted:
        Partition.named(unit, *rows.shape[1:])
    train, held_out = _split(plan, rows)
    average = WeightAverage(plan.average)
    trainer = _trainer(plan, rows, train, [average, StepClock()])
    stages = Stages(progress, [1.0])
    take_steps(plan, trainer, stages)
    stages.say("measuring")
    curve, model = logged_points(trainer, _COURSE), trainer.model
    with average.in_place(model):
        loss = trainer.evaluate(held_out)["eval_loss"]
        _save(model, rows, plan.output / "model")
    remove_checkpoints(plan.output / "checkpoints")
    return {
        "units": [
            {"name": partition.name, "entities": partition.entities, "tokens": partition.tokens}
            for partition in model.partitions
        ],
        "parameters": model.num_parameters(),
        "images": [len(train.indices), len(held_out.indices)],
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "curve": curve,
        "held_out_loss": float(loss),
    }


def _split(plan: Plan, rows: "LatentRows") -> "tuple[Subset, Subset]":
    import torch
    from torch.utils.data import Subset

    apart = round(plan.held_out * len(rows))
    if not 0 < apart < len(rows):
        raise UserError(
            f"{plan.data} has {plural(len(rows), 'image')}, of which a share of {plan.held_out} holds out {apart}: give more images or "
            "another share."
        )
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(plan.seed)).tolist()
    return Subset(rows, order[apart:]), Subset(rows, order[:apart])


def _trainer(
    plan: Plan, rows: "LatentRows", train: "Subset", callbacks: "list[TrainerCallback]"
) -> "Trainer":
    import torch
    from transformers import Trainer

    from tokenry.generation import NextXConfig, NextXModel
    from tokenry.verbs._training import step_arguments

    channels, height, width = rows.shape
    config = NextXConfig.of_size(
        plan.size,
        channels=channels,
        height=height,
        width=width,
        partitions=plan.predicted,
        classes=len(rows.source.classes),
        dropout=plan.dropout,
        label_dropout=plan.label_dropout,
    )
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        model = NextXModel(config)
    arguments = step_arguments(
        plan,
        gradient_accumulation_steps=plan.batches_per_step,
        weight_decay=plan.weight_decay,
        adam_beta2=0.96,
        max_grad_norm=1.0,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={
            "num_decay_steps": plan.steps // 4,
            "decay_type": "cosine",
            "min_lr_ratio": 0.025,
        },
        warmup_steps=plan.steps // 8,
        bf16=plan.bfloat16,
        remove_unused_columns=False,
    )
    return Trainer(model, arguments, train_dataset=train, callbacks=callbacks)


@by_first
def _save(model: "NextXModel", rows: "LatentRows", output: Path) -> None:
    with new_folder(output) as folder:
        model.save_pretrained(folder)
        write_json(folder / SOURCE_FILE, asdict(rows.source))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """What was trained, and the course of the loss."""
    channels, height, width = data["grid"]
    units, curve = data["units"], data["curve"]
    lead = (
        f"{plural(data['steps'], 'step')} on {plural(data['images'][0], 'image')} of {plural(len(data['source']['classes']), 'class', 'classes')} "
        f"({height} × {width} tokens of {plural(channels, 'channel')}): the squared error of the velocity is {data['held_out_loss']:.4f} on "
        f"{plural(data['images'][1], 'image')} held out, where the noise alone has 1 and the data their variance."
    )
    blocks: list[Block] = [
        Text(lead, "lead"),
        Table(
            "what is predicted at once",
            ("unit", Column("entities"), Column("tokens of an entity", "mean", ".1f")),
            [(unit["name"], unit["entities"], unit["tokens"] / unit["entities"]) for unit in units],
            notes=[f"{data['parameters']:,} parameters, {data['epochs']:.1f} epochs."],
        ),
    ]
    figures = course_figures("Loss", curve, {"loss": "loss"}, "squared error of the velocity")
    return [*blocks, Section("Training", [course_table(curve, _COURSE), *figures])]
