"""A hypernetwork that predicts the rows of any tokenizer, trained for one model."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tokenry.core.errors import require_at_least
from tokenry.core.io.files import require_folder_name, without_nan, write_json
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, embedded, option, plan_settings, values_for
from tokenry.report.blocks import Block, Column, Figure, Series, Table, Text
from tokenry.report.result import Result
from tokenry.tokenization.transfer.zett.settings import DrawingConfig, HyperNetworkTrainingConfig
from tokenry.verbs._hardware import AS_STORED, StoredHardware
from tokenry.verbs._models import model_title
from tokenry.verbs.tokenizer._new_tokenizer import text_back

TRAINING_FILE = "training.json"

_STAGE = 0.05
"""Share of the paper's 200,000 steps that the warm-up on single tokens takes, and the second rise of the learning rate."""
_CHARACTERS_PER_TOKEN = 4
_BEGINNING_AND_END = 20
_POINTS = 50

_OPTIONS = (
    *("steps", "identity_learning_rate", "learning_rate", "batch_size", "micro_batch_size", "block_size"),
    *("vocabulary_size", "vocabulary_std", "predicted_tokens", "lexical_weight"),
    *("bfloat16", "save_every", "seed"),
)
_STAGES_TO_FOLLOW = HyperNetworkTrainingConfig(
    identity_steps=0, warmup_steps=0, drawing=DrawingConfig(least_vocabulary=1, most_vocabulary=2**31)
)


@dataclass(frozen=True)
class Plan:
    """Train the hypernetwork of a model; every checkpoint can be resumed.

    Attributes:
        model: `embedded`, a folder, or a hub name.
        texts: text files to train on; longer texts are cut into passages of about one block.
        output: a new folder for the hypernetwork, its checkpoints, result.json and report.html.
        resume: resume from the last checkpoint.
        by_language: each file is a language, which the hypernetwork is given.
        residual: predict the difference from the mean of the pieces' rows; needs no warm-up.
        identity_steps: steps of the warm-up on single tokens; by default 5 % of the steps, with --residual none.
        warmup_steps: step at which the second rise of the learning rate ends; by default 5 % of the steps after the warm-up.
        layers: layers of the hypernetwork.
        hidden_size: width of the hypernetwork; 0 for the model's.
        heads: attention heads of the hypernetwork; 0 for one per 64 of its width.
        max_length: number of pieces of a token that it reads.
    """

    model: str = argument()
    texts: tuple[Path, ...] = argument()
    output: Path = option(metavar="FOLDER")
    resume: bool = False
    by_language: bool = False
    residual: bool = False
    training: HyperNetworkTrainingConfig = embedded(_STAGES_TO_FOLLOW, only=_OPTIONS)
    identity_steps: int | None = None
    warmup_steps: int | None = None
    layers: int = 3
    hidden_size: int = 0
    heads: int = 0
    max_length: int = 7
    hardware: StoredHardware = AS_STORED

    def __post_init__(self) -> None:
        require_at_least(0, seed=self.training.seed)
        require_folder_name(self.output, "the hypernetwork")

    def training_config(self) -> HyperNetworkTrainingConfig:
        """The config of the training: stages follow the steps, the bounds of a vocabulary its size, as the paper's do."""
        stage = round(_STAGE * self.training.steps)
        identity = (0 if self.residual else stage) if self.identity_steps is None else self.identity_steps
        size = self.training.drawing.vocabulary_size
        return replace(
            self.training,
            identity_steps=identity,
            warmup_steps=identity + stage if self.warmup_steps is None else self.warmup_steps,
            drawing=replace(self.training.drawing, least_vocabulary=max(1, size // 2), most_vocabulary=size),
        )


def run(plan: Plan, progress: Progress) -> Result:
    """Train the hypernetwork and save it, with everything that was recorded, to the folder."""
    from tokenry.models import load_tokenizer, require_causal_lm
    from tokenry.tokenization.probes import texts_back
    from tokenry.tokenization.transfer.zett.hypernetwork import HyperNetworkConfig
    from tokenry.tokenization.transfer.zett.training import HyperNetworkTrainer, hypernetwork_for

    config = plan.training_config()
    texts = _read(plan)
    together = [text for of_file in texts.values() for text in of_file]
    progress("loading", 0.0)
    tokenizer = load_tokenizer(plan.model)
    model = plan.hardware.load(plan.model)
    require_causal_lm(model, plan.model)
    network = hypernetwork_for(
        model,
        tokenizer,
        seed=config.seed,
        **values_for(HyperNetworkConfig, plan),
        languages=len(texts) if plan.by_language else 0,
    )
    trainer = HyperNetworkTrainer(model, tokenizer, texts if plan.by_language else together, config, network)
    trainer.train(plan.output, plan.resume, progress)
    back, notes = texts_back({"model's": tokenizer}, together)
    data = {
        "kind": "zett train",
        "model": plan.model,
        "texts": {name: len(of_file) for name, of_file in texts.items()},
        "text_back": back["model's"].as_json(),
        "notes": notes,
        "parameters": sum(weight.numel() for weight in network.parameters() if weight.requires_grad),
        "stages": stage_losses(trainer.history["loss"], config.identity_steps),
        "curves": {
            name: loss_curve(stage, first)
            for name, first, stage in _stages(trainer.history["loss"], config.identity_steps)
        },
        "config": asdict(network.config),
        "training": {**asdict(config), "drawing": _finite(asdict(config.drawing))},
        "settings": plan_settings(plan),
    }
    write_json(plan.output / TRAINING_FILE, {**data, "history": without_nan(trainer.history)})
    return Result(f"Hypernetwork of {model_title(plan.model)}", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out what it was trained on, and how the loss fell."""
    rows = [
        ("texts", ", ".join(f"{name}: {count:,}" for name, count in data["texts"].items())),
        *text_back({"model's": data["text_back"]}),
        ("parameters", f"{data['parameters']:,}"),
        *(
            (f"loss, {stage} stage", f"{loss['first']:.3f} → {loss['last']:.3f}")
            for stage, loss in data["stages"].items()
        ),
    ]
    return [
        *(Text(note, "warning") for note in data["notes"]),
        Table(f"hypernetwork of {model_title(data['model'])}", ("what", "found"), rows),
        *_curves(data.get("curves", {})),
    ]


def stage_losses(losses: list[float], middle: int) -> dict[str, dict[str, float]]:
    """The mean loss over the first and the last steps of each stage; the main stage begins at the step `middle`."""
    found = {}
    for name, _, stage in _stages(losses, middle):
        few = min(_BEGINNING_AND_END, max(1, len(stage) // 2))
        found[name] = {"first": sum(stage[:few]) / few, "last": sum(stage[-few:]) / few}
    return found


def loss_curve(losses: list[float], first: int) -> list[dict[str, float | int]]:
    """The loss of a stage that begins at the step `first`: means over equal stretches, each at its last step."""
    size = math.ceil(len(losses) / _POINTS)
    stretches = [losses[start : start + size] for start in range(0, len(losses), size)]
    ends = itertools.accumulate(map(len, stretches), initial=first)
    return [
        {"step": end, "loss": sum(stretch) / len(stretch)}
        for stretch, end in zip(stretches, itertools.islice(ends, 1, None), strict=True)
    ]


def _stages(losses: list[float], middle: int) -> list[tuple[str, int, list[float]]]:
    """Name, first step and losses of the stages that were run."""
    stages = [("warm-up", 0, losses[:middle]), ("main", middle, losses[middle:])]
    return [stage for stage in stages if stage[2]]


def _curves(curves: Mapping[str, list[dict[str, float | int]]]) -> list[Block]:
    """The loss over the steps, as a chart and as a table."""
    if not curves:
        return []
    series = [
        Series(name, [point["step"] for point in curve], [point["loss"] for point in curve])
        for name, curve in curves.items()
    ]
    rows = [(name, point["step"], point["loss"]) for name, curve in curves.items() for point in curve]
    return [
        Figure("Loss over the steps", "lines", series, "step", "loss"),
        Table("Loss over the steps", ("stage", "step", Column("loss", format=".3f")), rows, folded=True),
    ]


def _read(plan: Plan) -> dict[str, list[str]]:
    """Passages of about one block, by file."""
    from tokenry.core.text.passages import passages, read_texts

    stems = [file.stem for file in plan.texts]
    return {
        file.stem if stems.count(file.stem) == 1 else str(file): passages(
            read_texts(file), _CHARACTERS_PER_TOKEN * plan.training.drawing.block_size
        )
        for file in plan.texts
    }


def _finite(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value == float("inf") else value for name, value in settings.items()}
