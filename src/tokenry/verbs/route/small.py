"""A small model cut out of a large one: some layers dropped, the rest healed by distillation."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import require_folder_name
from tokenry.core.io.progress import Progress, part
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Column, Table
from tokenry.report.result import Result
from tokenry.verbs._chats import DEMO, read_checked
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._models import model_title

CHECKPOINTS = "healing"
_FEW = 10
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Make the small model of a pair: drop layers of a model, and heal the rest by distillation; a stopped run can be resumed.

    Attributes:
        model: `embedded`, a folder, or a hub name.
        output: folder for the small model with its tokenizer, the checkpoints, result.json and report.html.
        drop: layers to drop, from 0, such as 20-23 or 3,5,20-23.
        data: texts to heal on: `demo`, or conversations or texts in a file, folder or hub name as for `tokenry tune`.
        steps: steps of distillation; 0 to drop layers only.
        batch_size: texts per step.
        learning_rate: highest learning rate.
        max_length: maximum number of tokens of a text.
        save_every: steps between checkpoints.
        resume: resume from the last checkpoint in the folder.
        seed: random seed of the demo data and of the order of the texts.
    """

    model: str = argument()
    output: Path = argument()
    drop: str = option(metavar="LAYERS")
    data: str = DEMO
    steps: int = 200
    batch_size: int = 4
    learning_rate: float = 2e-4
    max_length: int = 128
    save_every: int = 50
    resume: bool = False
    seed: int = 0
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        require_folder_name(self.output, "the small model")
        require_at_least(2, max_length=self.max_length)
        layers(self.drop)


def run(plan: Plan, progress: Progress) -> Result:
    """Drop, heal, save."""
    from tokenry.core.chat.conversations import encode_rows
    from tokenry.core.plans import values_for
    from tokenry.decoding.r2r.small_model import Healing, HealingConfig, drop_layers
    from tokenry.evaluation.noisy_tasks import noisy_tasks
    from tokenry.models import load_tokenizer, require_causal_lm

    config = HealingConfig(**values_for(HealingConfig, plan))
    rows = noisy_tasks(seed=plan.seed, noise="none").train if plan.data == DEMO else read_checked(plan.data)
    progress("loading", 0.0)
    tokenizer, large = load_tokenizer(plan.model), plan.hardware.load(plan.model)
    require_causal_lm(large, plan.model)
    small = drop_layers(large, layers(plan.drop))
    texts = encode_rows(rows, tokenizer, plan.max_length)["input_ids"]
    healing = Healing(small, large, texts, config)
    seconds = healing.seconds()
    if config.steps:
        logger.warning(
            "Healing takes about %s: %d steps of %d texts. It can be stopped and resumed (--resume).",
            in_words(seconds),
            config.steps,
            config.batch_size,
        )
    healing.run(plan.output / CHECKPOINTS, plan.resume, part(progress, 0.05, 0.95))
    progress("saving", 0.95)
    small.save_pretrained(plan.output)
    tokenizer.save_pretrained(plan.output)
    losses = healing.losses
    few = min(_FEW, max(1, len(losses) // 2))
    data = {
        "kind": "route small",
        "model": plan.model,
        "layers": [
            large.config.get_text_config().num_hidden_layers,
            small.config.get_text_config().num_hidden_layers,
        ],
        "parameters": [large.num_parameters(), small.num_parameters()],
        "texts": len(texts),
        "expected_seconds": seconds,
        "loss": [sum(losses[:few]) / few, sum(losses[-few:]) / few] if losses else None,
        "settings": plan_settings(plan),
    }
    return Result(f"Small model of {model_title(plan.model)}", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out both models, and how far the small one came."""
    rows = [
        (name, *(data[what][place] for what in ("layers", "parameters")))
        for place, name in enumerate(("large", "small"))
    ]
    notes = []
    if data["loss"]:
        first, last = data["loss"]
        notes.append(
            f"Distance from the large model, in nats per token: {first:.3f} in the first steps, {last:.3f} in the last ones."
        )
    return [Table("the pair", ("model", Column("layers"), Column("parameters")), rows, notes)]


def layers(described: str) -> list[int]:
    """Read layers such as `3,20-23`."""
    found: set[int] = set()
    for piece in described.split(","):
        first, dash, last = piece.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"drop takes layers such as 20-23 or 3,5,20-23, got {described!r}.")
        found |= set(range(int(first), int(last or first) + 1))
    return sorted(found)


def in_words(seconds: float | int) -> str:
    """A time as a reader says it."""
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
