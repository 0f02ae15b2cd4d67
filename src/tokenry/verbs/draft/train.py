"""Training of a drafter inside a frozen model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import require_above_zero, require_at_least, require_share
from tokenry.core.io.files import require_folder_name, require_new
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, plan_settings
from tokenry.report.blocks import Block, Column, Findings, Section, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._chats import NOTED, read_checked, say
from tokenry.verbs._course_of_training import course_figures, course_table
from tokenry.verbs._environment import environment
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._models import model_title

if TYPE_CHECKING:
    from trl import SFTConfig

_CURVE = {
    "loss": "loss",
    "draft_base": "head",
    "draft_sampler": "sampler",
    "draft_consistency": "consistency",
    "draft_accuracy": "accuracy",
}


@dataclass(frozen=True)
class Plan:
    """Train a drafter inside a model, so that it writes several tokens per step; the model itself stays as it is.

    Attributes:
        model: `embedded`, a folder, or a hub name.
        data: conversations or texts: a file (JSONL, JSON, CSV, Parquet), a folder, or a hub name.
        masks: number of masks in a block: tokens drafted at once.
        rank: rank of the gated LoRA.
        block_share: share of the tokens that a block of masks stands behind in training; a quarter takes about a quarter of the memory.
        consistency: weight of the distance between masks and the token rows that predict the same token.
        epochs: passes over the data.
        max_steps: optimisation steps instead of epochs.
        batch_size: samples per optimisation step.
        learning_rate: highest learning rate.
        max_length: maximum tokens of a sample.
        seed: random seed.
        output: new folder for result.json, report.html and the drafter; a stopped training resumes there.
    """

    model: str = argument()
    data: str = argument()
    masks: int = 4
    rank: int = 128
    block_share: float = 0.25
    consistency: float = 1.0
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 4
    learning_rate: float = 2e-4
    max_length: int = 1024
    seed: int = 42
    hardware: Hardware = Hardware()
    output: Path = Path("runs/draft-train")

    def __post_init__(self) -> None:
        require_at_least(
            1, masks=self.masks, rank=self.rank, max_steps=self.max_steps, batch_size=self.batch_size
        )
        require_at_least(2, max_length=self.max_length)
        require_at_least(0, consistency=self.consistency)
        require_share(self.block_share, "block_share")
        require_above_zero(epochs=self.epochs, learning_rate=self.learning_rate)
        require_folder_name(self.output, "the drafter")


def run(plan: Plan, progress: Progress) -> Result:
    """Train, or resume a training that was stopped."""
    require_new(plan.output / "drafter")
    device = plan.hardware.place()
    progress("reading the model and the data", 0.0)
    found = _trained(plan, progress)
    data = {
        "kind": "draft train",
        "model": plan.model,
        "data": plan.data,
        **found,
        "settings": plan_settings(plan),
        "environment": environment(device, "trl"),
    }
    return Result(f"a drafter of {plan.masks} masks in {model_title(plan.model)}", data, lay_out(data))


def _trained(plan: Plan, progress: Progress) -> dict[str, Any]:
    import torch
    from transformers.trainer_utils import get_last_checkpoint

    from tokenry.core.chat.conversations import encode_with_notes
    from tokenry.decoding import Drafter
    from tokenry.decoding.multi_token.training import DraftTrainer
    from tokenry.models import load_tokenizer, require_causal_lm
    from tokenry.verbs._stages import Stages
    from tokenry.verbs._training import TellSteps, logged_curve, remove_checkpoints, train_or_stop

    tokenizer, rows = load_tokenizer(plan.model), read_checked(plan.data)
    encoding = encode_with_notes(rows, tokenizer, plan.max_length)
    say(encoding.notes)
    model = plan.hardware.load(plan.model)
    require_causal_lm(model, plan.model)
    torch.manual_seed(plan.seed)
    drafter, stages = Drafter(model, plan.masks, plan.rank), Stages(progress, [1.0])
    trainer = DraftTrainer(
        drafter,
        _arguments(plan),
        block_share=plan.block_share,
        consistency=plan.consistency,
        train_dataset=encoding.dataset.select_columns(["input_ids", "labels"]),
        processing_class=tokenizer,
        callbacks=[TellSteps(stages)],
    )
    stages.begin("training", 1.0)
    checkpoints = plan.output / "checkpoints"
    checkpoint = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    train_or_stop(trainer, stages, checkpoint, "; the same command goes on there.")
    drafter.save(plan.output / "drafter")
    remove_checkpoints(checkpoints)
    return {
        "samples": len(encoding.dataset),
        "steps": trainer.state.global_step,
        "learned": sum(value.numel() for value in drafter.parameters()),
        "curve": logged_curve(trainer, _CURVE),
        "notes": list(encoding.notes),
    }


def _arguments(plan: Plan) -> "SFTConfig":
    from trl import SFTConfig

    from tokenry.verbs._training import own_training

    return SFTConfig(
        **own_training(plan),
        learning_rate=plan.learning_rate,
        warmup_steps=0.1,
        save_strategy="steps",
        save_steps=0.1,
        save_total_limit=1,
    )


# --- layout --------------------------------------------------------------------------------------------------------------------------


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """The course of training, and what to do with the drafter."""
    curve = data["curve"]
    last = curve[-1]
    lead = (
        f"{plural(data['steps'], 'step')} on {plural(data['samples'], 'sample')}, {data['learned']:,} weights beside the frozen model: at the "
        f"last step the sampler had {last['accuracy']:.0%} of the masked tokens right."
    )
    columns = {
        "head": Column("head", "nats", ".3f"),
        "sampler": Column("sampler", "nats", ".3f"),
        "consistency": Column("consistency", format=".3g"),
        "accuracy": Column("right", "%", ".0f"),
    }
    losses = {"head": "head, all rows", "sampler": "sampler, masks"}
    blocks: list[Block] = [
        Text(lead, "lead"),
        Section(
            "Training",
            [course_table(curve, columns), *course_figures("Loss per token", curve, losses, "nats")],
        ),
        Text("Measure what it is worth on your prompts with `tokenry draft bench`."),
    ]
    if data["notes"]:
        blocks.append(Section(NOTED, [Findings([("", note) for note in data["notes"]])]))
    return blocks
